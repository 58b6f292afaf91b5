package prober

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// outside and inside are the ends of the veth pair.
	outside, inside = "mbdrill0", "mbdrill1"
	// arriveLimit bounds the wait for packets that should arrive: they are there within a millisecond, or never.
	arriveLimit = time.Second
	// noAddrs is IN6_ADDR_GEN_MODE_NONE.
	noAddrs = 1
)

// Probe sends packets to this machine from an IPv4 address that should be dropped, and from one that should not. count reads
// how many packets the rules have dropped. Only one probe may run at a time on a machine; it leaves nothing behind.
func Probe(ctx context.Context, from, control netip.Addr, count func(context.Context) (uint64, error)) (r Result, err error) {
	dst, err := ownAddr()
	if err != nil {
		return r, err
	}
	ear, err := net.ListenIP("ip4:icmp", &net.IPAddr{IP: dst.AsSlice()})
	if err != nil {
		return r, explain("listen for the packets", err)
	}
	defer func() { err = errors.Join(err, ear.Close()) }()
	w, err := openWire(from, control)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	r.Filter = filter()
	before, err := count(ctx)
	if err != nil {
		return r, fmt.Errorf("read the drop counter: %w", err)
	}
	var banned, free [markSize]byte
	_, _ = rand.Read(banned[:]) // never fails
	_, _ = rand.Read(free[:])
	for range Packets {
		if err := errors.Join(w.send(dst, from, banned), w.send(dst, control, free)); err != nil {
			return r, err
		}
	}
	if err := r.listen(ear, banned, free); err != nil {
		return r, err
	}
	after, err := count(ctx)
	if err != nil {
		return r, fmt.Errorf("read the drop counter: %w", err)
	}
	if r.Counted = after - before; after < before { // the rules were written anew
		r.Counted = after
	}
	return r, nil
}

// listen counts the probe's packets until the last of the control has arrived: a packet from before it has arrived by then.
func (r *Result) listen(ear *net.IPConn, banned, free [markSize]byte) error {
	if err := ear.SetReadDeadline(time.Now().Add(arriveLimit)); err != nil {
		return err
	}
	for buf := make([]byte, 1500); r.Control < Packets; {
		n, _, err := ear.ReadFromIP(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listen for the packets: %w", err)
		}
		switch mark := buf[min(n, icmpHeader):n]; {
		case buf[0] != echo:
		case bytes.Equal(mark, banned[:]):
			r.Arrived++
		case bytes.Equal(mark, free[:]):
			r.Control++
		}
	}
	return nil
}

// ownAddr returns an IPv4 address of this machine that other machines may use.
func ownAddr() (netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("read own addresses: %w", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no IPv4 address but loopback")
}

// filter returns the rp_filter that applies to what arrives inside.
func filter() (most int) {
	for _, of := range []string{"all", inside} {
		text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + of + "/rp_filter")
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			most = max(most, n)
		}
	}
	return most
}

// wire is a veth pair and a socket that sends at its outer end.
type wire struct {
	links    [2]netlink.Link // inside, outside
	fd       int
	from, to [6]byte
}

// openWire makes the pair, and a route to the sources at its inner end, so that rp_filter lets their packets in. Nothing of
// the machine's own uses these addresses.
func openWire(sources ...netip.Addr) (w *wire, err error) {
	if old, err := netlink.LinkByName(outside); err == nil && old.Type() == "veth" { // of an agent that was killed
		if err := netlink.LinkDel(old); err != nil {
			return nil, explain("remove the old veth pair", err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = outside
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: inside}); err != nil {
		return nil, explain("make a veth pair", err)
	}
	w = &wire{fd: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	for i, name := range []string{inside, outside} { // the sender last: it sends at once, because its peer is up
		if w.links[i], err = netlink.LinkByName(name); err != nil {
			return w, explain("find the veth pair", err)
		}
		// Without IPv6 addresses of its own, which would be news for everybody who watches addresses. A kernel without IPv6 refuses.
		_ = netlink.LinkSetIP6AddrGenMode(w.links[i], noAddrs)
		if err := netlink.LinkSetUp(w.links[i]); err != nil {
			return w, explain("set the veth pair up", err)
		}
	}
	copy(w.from[:], w.links[1].Attrs().HardwareAddr)
	copy(w.to[:], w.links[0].Attrs().HardwareAddr)
	for _, a := range sources {
		to := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
		route := &netlink.Route{LinkIndex: w.links[0].Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, syscall.EEXIST) {
			return w, explain("add a route", err)
		}
	}
	// Protocol 0: it sends, and receives nothing.
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return w, explain("open a packet socket", err)
	}
	return w, nil
}

func (w *wire) send(dst, src netip.Addr, mark [markSize]byte) error {
	to := unix.SockaddrLinklayer{Ifindex: w.links[1].Attrs().Index, Halen: 6}
	copy(to.Addr[:], w.to[:])
	if err := unix.Sendto(w.fd, ping(w.to, w.from, dst, src, mark), 0, &to); err != nil {
		return explain("send a packet", err)
	}
	return nil
}

// close removes the pair, and with it the routes.
func (w *wire) close() error {
	var errs []error
	if w.fd >= 0 {
		errs = append(errs, unix.Close(w.fd))
	}
	if w.links[0] != nil {
		errs = append(errs, netlink.LinkDel(w.links[0]))
	}
	return errors.Join(errs...)
}

// explain adds what to do to the errors of an agent that lacks the rights.
func explain(did string, err error) error {
	switch {
	case errors.Is(err, syscall.EAFNOSUPPORT):
		return fmt.Errorf("%s: %w: the agent's unit is of an older version: `meshban setup systemd`, then restart it", did, err)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %w: the agent needs root, CAP_NET_ADMIN and CAP_NET_RAW", did, err)
	}
	return fmt.Errorf("%s: %w", did, err)
}
