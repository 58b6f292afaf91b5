package fw

import (
	"net/netip"
	"testing"
)

// A packet counts for the ban that it met and for those around it, on the ports of each.
func TestElementHits(t *testing.T) {
	all := elementHits{}
	put := func(k portKey, s string, packets uint64) {
		p := netip.MustParsePrefix(s)
		all.add(k, hit{p.Addr(), lastAddr(p), Dropped{packets, 60 * packets}})
	}
	ssh, web := portKey{ProtoTCP, 22}, portKey{ProtoTCP, 80}
	put(portKey{}, "198.51.100.7/32", 5)
	put(portKey{}, "198.51.0.0/16", 100)
	put(portKey{}, "198.51.100.0/24", 10)
	put(portKey{}, "198.51.100.0/32", 3)
	put(portKey{}, "198.51.101.0/24", 1000)
	put(portKey{}, "192.0.2.1/32", 0)
	put(portKey{}, "2001:db8::7/128", 7)
	put(ssh, "198.51.100.7/32", 40)
	put(web, "198.51.100.7/32", 2)
	of := all.hits()
	for _, c := range []struct {
		prefix string
		ports  []PortRange
		want   uint64
	}{
		{"198.51.100.7/32", nil, 5},
		{"198.51.100.0/32", nil, 3},
		{"198.51.100.0/24", nil, 18},
		{"198.51.0.0/16", nil, 1118},
		{"198.51.100.8/32", nil, 0},
		{"192.0.2.1/32", nil, 0},
		{"0.0.0.0/8", nil, 0},
		{"2001:db8::/32", nil, 7},
		{"198.51.100.7/32", []PortRange{{ProtoTCP, 22, 22}}, 40},
		{"198.51.100.7/32", []PortRange{{ProtoAny, 1, 1000}, {ProtoTCP, 22, 22}}, 42},
		{"198.51.100.7/32", []PortRange{{ProtoUDP, 22, 22}}, 0},
	} {
		if got := of(Entry{Prefix: netip.MustParsePrefix(c.prefix), Ports: c.ports}); got != (Dropped{c.want, 60 * c.want}) {
			t.Errorf("%s on %v: %+v, want %d packets", c.prefix, c.ports, got, c.want)
		}
	}
}
