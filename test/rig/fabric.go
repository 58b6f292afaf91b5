//go:build linux && netns

package rig

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// attackerHost is the last byte of the attacker's own addresses.
const attackerHost = 254

func meshAddr(i int) netip.Addr  { return netip.AddrFrom4([4]byte{10, 77, 0, byte(i)}) }
func probeAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 78, 0, byte(i)}) }
func meshAddr6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: byte(i)})
}
func probeAddr6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x78, 15: byte(i)})
}

// AttackNets are the networks that the attacker owns (RFC 5737, RFC 2544, RFC
// 3849).
var AttackNets = []netip.Prefix{
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("2001:db8::/32"),
}

// Without duplicate address detection and router discovery, an address works
// at once and an idle wire is quiet.
var nodeSysctls = map[string]string{
	"net/ipv6/conf/default/accept_dad":           "0",
	"net/ipv6/conf/default/accept_ra":            "0",
	"net/ipv6/conf/default/router_solicitations": "0",
	// ICMP errors are answers of the firewall, so none may be rate limited.
	"net/ipv4/icmp_ratelimit": "0",
	"net/ipv6/icmp/ratelimit": "0",
}

var attackerSysctls = map[string]string{
	"net/ipv6/conf/default/accept_dad":           "0",
	"net/ipv6/conf/default/accept_ra":            "0",
	"net/ipv6/conf/default/router_solicitations": "0",
	"net/ipv6/ip_nonlocal_bind":                  "1",
}

// fabric is the namespace with the two bridges. Only an open file of this
// process keeps it.
type fabric struct {
	ns     netns.NsHandle
	handle *netlink.Handle
	mesh   *netlink.Bridge
	probe  *netlink.Bridge
}

// port is one port of a bridge: the fabric's end of a veth pair.
type port struct {
	fabric *fabric
	link   netlink.Link
}

func newFabric() (*fabric, error) {
	f := &fabric{}
	if err := onThread(f.unshare); err != nil {
		return nil, err
	}
	var err error
	if f.handle, err = netlink.NewHandleAt(f.ns); err != nil {
		return nil, fmt.Errorf("netlink of the fabric: %w", err)
	}
	if f.mesh, err = f.bridge("mesh"); err != nil {
		return nil, err
	}
	f.probe, err = f.bridge("probe")
	return f, err
}

// unshare makes the namespace on the calling thread and keeps it by an open file.
func (f *fabric) unshare() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make the fabric's namespace: %w", err)
	}
	for name, value := range map[string]string{
		"net/ipv6/conf/default/disable_ipv6": "1", // a switch sends nothing itself
		"net/bridge/bridge-nf-call-iptables": "0", // absent without br_netfilter
	} {
		err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("sysctl %s: %w", name, err)
		}
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	f.ns = netns.NsHandle(fd)
	return err
}

func (f *fabric) bridge(name string) (*netlink.Bridge, error) {
	off := false
	b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &off}
	b.Name = name
	if err := f.handle.LinkAdd(b); err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", name, err)
	}
	return b, f.handle.LinkSetUp(b)
}

func (f *fabric) close() error {
	if f.handle != nil {
		f.handle.Close()
	}
	return f.ns.Close()
}

// plug connects bridge b to a new interface of host h.
func (f *fabric) plug(b *netlink.Bridge, h *Host, portName, name string, mac net.HardwareAddr) (*port, error) {
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerHardwareAddr = portName, name, mac
	veth.PeerNamespace = netlink.NsPid(h.holder.Process.Pid)
	if err := f.handle.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	if err := f.handle.LinkSetMaster(veth, b); err != nil {
		return nil, err
	}
	return &port{fabric: f, link: veth}, f.handle.LinkSetUp(veth)
}

// mac returns a locally administered address: kind, then the host's number.
func mac(kind byte, i int) [6]byte { return [6]byte{0x02, 0x6d, 0x62, kind, 0, byte(i)} }

func (f *fabric) plugNode(n *Node) error {
	meshMAC := mac(1, n.Index)
	n.probeMAC = mac(2, n.Index)
	var err error
	if n.port, err = f.plug(f.mesh, n.Host, fmt.Sprintf("m%d", n.Index), "mesh0", meshMAC[:]); err != nil {
		return err
	}
	if _, err = f.plug(f.probe, n.Host, fmt.Sprintf("p%d", n.Index), "probe0", n.probeMAC[:]); err != nil {
		return err
	}
	return n.withLinks(func(h *netlink.Handle) error {
		if err := configure(h, "mesh0", n.Mesh, n.Mesh6); err != nil {
			return err
		}
		if err := configure(h, "probe0", n.Probe, n.Probe6); err != nil {
			return err
		}
		link, err := h.LinkByName("probe0")
		if err != nil {
			return err
		}
		for _, p := range AttackNets {
			via := probeAddr(attackerHost)
			if p.Addr().Is6() {
				via = probeAddr6(attackerHost)
			}
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p), Gw: via.AsSlice()}
			if err := h.RouteAdd(route); err != nil {
				return fmt.Errorf("route %v: %w", p, err)
			}
		}
		return nil
	})
}

func (f *fabric) plugAttacker(a *Host) error {
	hw := mac(2, attackerHost)
	if _, err := f.plug(f.probe, a, "attacker", "probe0", hw[:]); err != nil {
		return err
	}
	return a.withLinks(func(h *netlink.Handle) error {
		if err := configure(h, "probe0", probeAddr(attackerHost), probeAddr6(attackerHost)); err != nil {
			return err
		}
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, p := range AttackNets {
			route := &netlink.Route{
				LinkIndex: lo.Attrs().Index, Dst: ipNet(p), Type: unix.RTN_LOCAL,
				Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
			}
			if p.Addr().Is6() {
				route.Scope = netlink.SCOPE_UNIVERSE
			}
			if err := h.RouteAdd(route); err != nil {
				return fmt.Errorf("own %v: %w", p, err)
			}
		}
		return nil
	})
}

// withLinks runs do with a netlink socket in the host's network namespace.
func (h *Host) withLinks(do func(*netlink.Handle) error) error {
	ns, err := netns.GetFromPid(h.holder.Process.Pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	return do(handle)
}

// configure sets an interface up and adds its addresses, with /24 for IPv4 and /64 for IPv6.
func configure(h *netlink.Handle, name string, addrs ...netip.Addr) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range addrs {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, bits))}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %v of %s: %w", a, name, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
