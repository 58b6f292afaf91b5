package demo

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// answerLimit is how long a packet that is dropped is waited for; one that is not dropped is answered in microseconds.
const answerLimit = 300 * time.Millisecond

// haste is the same where a packet is sent again anyway.
const haste = 10 * time.Millisecond

// closedPort is a port on which nothing listens: the kernel itself answers.
const closedPort = 9

// wires are network namespaces, one for each node and one for the attacker, joined by a bridge in one more. Nothing but the
// files of this process and the processes in them hold them: they are gone with it, however it ends.
type wires struct {
	hub    netns.NsHandle
	places []netns.NsHandle // the nodes; then the attacker
}

// openWires makes the namespaces, or returns errUnsupported.
func openWires() (w *wires, err error) {
	if os.Geteuid() != 0 {
		return nil, errUnsupported
	}
	w = &wires{hub: netns.None()}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
			w = nil
		}
	}()
	if w.hub, err = newNamespace(); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
			err = errUnsupported // root in a container
		}
		return w, err
	}
	hub, err := netlink.NewHandleAt(w.hub)
	if err != nil {
		return w, err
	}
	defer hub.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "hub"}}
	if err := errors.Join(hub.LinkAdd(bridge), hub.LinkSetUp(bridge)); err != nil {
		return w, fmt.Errorf("make a bridge: %w", err)
	}
	for i := range nodes + 1 {
		ns, err := newNamespace()
		if err != nil {
			return w, err
		}
		w.places = append(w.places, ns)
		end := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("port%d", i)}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
		if err := errors.Join(hub.LinkAdd(end), hub.LinkSetMaster(end, bridge), hub.LinkSetUp(end)); err != nil {
			return w, fmt.Errorf("make a pair of interfaces: %w", err)
		}
		if err := plugIn(ns, i); err != nil {
			return w, fmt.Errorf("give a namespace its addresses: %w", err)
		}
	}
	return w, nil
}

// newNamespace returns a new network namespace. The thread that makes it ends with its goroutine.
func newNamespace() (netns.NsHandle, error) {
	type made struct {
		ns  netns.NsHandle
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.New()
		done <- made{ns, err}
	}()
	m := <-done
	return m.ns, m.err
}

// plugIn gives a place its addresses, and a way to the others.
func plugIn(ns netns.NsHandle, i int) error {
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, name := range []string{"lo", "eth0"} {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		if name == "lo" {
			continue
		}
		addrs := []netip.Prefix{netip.PrefixFrom(nodeAddr(i), 24)}
		if i == nodes {
			addrs = append(addrs, netip.PrefixFrom(attacker, 32))
		}
		for _, a := range addrs {
			if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
				return err
			}
		}
		if i == nodes {
			continue
		}
		// The attacker is next door.
		if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(netip.PrefixFrom(attacker, 24).Masked())}); err != nil {
			return err
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// at runs do at a place. If it cannot get there, failed gets the error.
func (w *wires) at(i int, do func() error, failed chan<- error) {
	if w == nil {
		_ = do()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends here
		if err := netns.Set(w.places[i]); err != nil {
			failed <- err
			return
		}
		_ = do()
	}()
	<-done
}

// knock reports whether a node answers a packet of the attacker; open says that this is waited for. It is called at the
// attacker's place.
func knock(i int, open bool) (answered bool, err error) {
	limit := answerLimit
	if open {
		limit = haste
	}
	d := net.Dialer{Timeout: limit, LocalAddr: &net.TCPAddr{IP: attacker.AsSlice()}}
	conn, err := d.Dial("tcp4", netip.AddrPortFrom(nodeAddr(i), closedPort).String())
	if err == nil {
		return true, conn.Close()
	}
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return true, nil
	case errors.As(err, &timeout) && timeout.Timeout():
		return false, nil
	}
	return false, err
}

// tie has the kernel kill a program when this process ends, however it does.
func tie(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// close lets go of the namespaces.
func (w *wires) close() error {
	if w == nil {
		return nil
	}
	var errs []error
	for _, ns := range append(w.places, w.hub) {
		if ns.IsOpen() {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}
