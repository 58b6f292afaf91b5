package fw

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Protocol numbers of a [PortRange].
const (
	ProtoAny uint8 = 0 // both TCP and UDP
	ProtoTCP uint8 = 6
	ProtoUDP uint8 = 17
)

// PortRange is a run of destination ports, both ends included.
type PortRange struct {
	Proto       uint8 // ProtoAny, ProtoTCP or ProtoUDP
	First, Last uint16
}

func (r PortRange) String() string {
	s := strconv.Itoa(int(r.First))
	if r.Last != r.First {
		s += "-" + strconv.Itoa(int(r.Last))
	}
	switch r.Proto {
	case ProtoTCP:
		s += "/tcp"
	case ProtoUDP:
		s += "/udp"
	}
	return s
}

// Key names an entry: two entries with one key are the same ban.
type Key struct {
	Prefix netip.Prefix
	Ports  string // canonical text such as "22/tcp,8000-8010/udp"; "" = all
}

// Key returns the entry's key. It does not depend on the order of the ports.
func (e Entry) Key() Key { return Key{Prefix: e.Prefix.Masked(), Ports: PortsText(e.Ports)} }

// droppable reports whether a prefix may be an entry's.
func droppable(p netip.Prefix) bool {
	return p.IsValid() && p.Bits() > 0 && !p.Addr().Is4In6() && !isSentinel(p)
}

// PortsText returns the canonical text of ports: sorted by number, then by protocol; "" for nil.
func PortsText(ports []PortRange) string {
	if len(ports) == 0 {
		return ""
	}
	sorted := slices.SortedFunc(slices.Values(ports), func(a, b PortRange) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last), cmp.Compare(a.Proto, b.Proto))
	})
	sorted = slices.Compact(sorted)
	items := make([]string, len(sorted))
	for i, r := range sorted {
		items[i] = r.String()
	}
	return strings.Join(items, ",")
}
