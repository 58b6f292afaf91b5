package transport

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// byDefault are addresses for documentation (RFC 5737, RFC 3849), one of each family: only a default route leads to
// them.
var byDefault = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:9"), netip.MustParseAddrPort("[2001:db8::1]:9")}

// Addrs are the addresses of this machine.
type Addrs struct {
	seen    string       // interfaces and addresses when local was made
	local   []netip.Addr // see Local
	changes int
}

// Last returns what Local returned last, and how often it has found something changed.
func (l *Addrs) Last() (list []netip.Addr, changes int) { return slices.Clone(l.local), l.changes }

// Local lists the addresses of all interfaces that are up. It asks each interface for its addresses only when
// something has changed, since containers may bring hundreds of interfaces.
func (l *Addrs) Local() []netip.Addr {
	links, err := net.Interfaces()
	if err != nil {
		return nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	seen := fmt.Sprint(links, all)
	if seen == l.seen {
		return slices.Clone(l.local)
	}
	l.seen, l.local = seen, nil
	l.changes++
	for _, link := range links {
		if link.Flags&net.FlagUp == 0 {
			continue
		}
		list, err := link.Addrs()
		if err != nil {
			continue // the interface went meanwhile
		}
		for _, i := range list {
			if n, ok := i.(*net.IPNet); ok {
				if a, ok := netip.AddrFromSlice(n.IP); ok {
					l.local = append(l.local, a.Unmap())
				}
			}
		}
	}
	return slices.Clone(l.local)
}

// Preferred sorts addresses: IPv4 first, and of each family the private ones first.
func Preferred(local []netip.Addr) []netip.Addr {
	rank := func(a netip.Addr) (n int) {
		if !a.Is4() {
			n += 2
		}
		if !a.IsPrivate() {
			n++
		}
		return n
	}
	local = slices.Clone(local)
	slices.SortStableFunc(local, func(a, b netip.Addr) int { return cmp.Compare(rank(a), rank(b)) })
	return local
}

// SourceTo returns the source address that this machine uses to reach another, or the zero Addr if there is no route.
// It sends no packet.
func SourceTo(to netip.AddrPort) netip.Addr {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// Usable reports whether this machine can use an address now. An IPv6 address cannot be used until duplicate detection ends.
func Usable(a netip.Addr) bool {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// DefaultSources returns the source addresses of the default routes, at most one of each family.
func DefaultSources() (list []netip.Addr) {
	for _, to := range byDefault {
		if from := SourceTo(to); from.IsValid() {
			list = append(list, from)
		}
	}
	return list
}
