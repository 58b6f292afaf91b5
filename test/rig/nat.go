//go:build linux && netns

package rig

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

var (
	natGateway = netip.MustParseAddr("172.18.0.1")
	natInside  = netip.MustParseAddr("172.18.0.2")
)

// Container is a host behind a node, set up as by Docker: a bridge in the
// node, addresses of its own, and published ports.
type Container struct {
	*Host
	Addr netip.Addr // inside
}

// AddContainer makes a host behind node n and publishes TCP ports (port of the
// node -> port of the container) with rules like Docker's in the nat and filter
// tables of the node's iptables.
func (f *Fleet) AddContainer(n *Node, publish map[uint16]uint16) (*Container, error) {
	h, err := f.newHost(n.Name+"-inner", nodeSysctls, nil)
	if err != nil {
		return nil, err
	}
	ns, err := netns.GetFromPid(h.holder.Process.Pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = n.withLinks(func(handle *netlink.Handle) error {
		b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		b.Name = "docker0"
		if err := handle.LinkAdd(b); err != nil {
			return err
		}
		if err := configure(handle, "docker0", natGateway); err != nil {
			return err
		}
		veth := netlink.NewVeth(netlink.NewLinkAttrs())
		veth.Name, veth.PeerName, veth.PeerNamespace = "inner0", "eth0", netlink.NsFd(ns)
		if err := handle.LinkAdd(veth); err != nil {
			return err
		}
		if err := handle.LinkSetMaster(veth, b); err != nil {
			return err
		}
		return handle.LinkSetUp(veth)
	})
	if err != nil {
		return nil, fmt.Errorf("bridge of %s: %w", n.Name, err)
	}
	err = h.withLinks(func(handle *netlink.Handle) error {
		if err := configure(handle, "eth0", natInside); err != nil {
			return err
		}
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		return handle.RouteAdd(&netlink.Route{Dst: all, Gw: natGateway.AsSlice()})
	})
	if err != nil {
		return nil, fmt.Errorf("network of %s: %w", h.Name, err)
	}
	script := `echo 1 > /proc/sys/net/ipv4/ip_forward
iptables -w -P FORWARD DROP
iptables -w -t nat -N DOCKER
iptables -w -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables -w -t nat -A POSTROUTING -s 172.18.0.0/24 ! -o docker0 -j MASQUERADE
iptables -w -N DOCKER
iptables -w -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -w -A FORWARD -o docker0 -j DOCKER
iptables -w -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
`
	for outer, inner := range publish {
		script += fmt.Sprintf(`iptables -w -t nat -A DOCKER ! -i docker0 -p tcp --dport %d -j DNAT --to-destination %v:%d
iptables -w -A DOCKER -d %v ! -i docker0 -o docker0 -p tcp --dport %d -j ACCEPT
`, outer, natInside, inner, natInside, inner)
	}
	if _, err := n.Shell(script); err != nil {
		return nil, err
	}
	return &Container{Host: h, Addr: natInside}, nil
}
