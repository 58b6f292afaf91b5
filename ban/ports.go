package ban

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a port list.
const (
	MaxPortItems    = 15   // items of a canonical list: what one iptables multiport match takes
	MaxPortElements = 1024 // ports times protocols of one op; a kernel set holds each of them
	maxPortsInput   = 512  // bytes of text that ParsePorts accepts
	maxPort         = 65535
)

// Proto is an IP protocol number, or ProtoAny for both TCP and UDP.
type Proto uint8

// The protocols that have ports.
const (
	ProtoAny Proto = 0
	TCP      Proto = 6
	UDP      Proto = 17
)

// PortRange is an inclusive range of ports, 1 to 65535.
type PortRange struct {
	Proto       Proto
	First, Last uint16
}

// String returns "22/tcp" or "8000-8010/udp", or leaves out the protocol if it is both.
func (r PortRange) String() string {
	s := strconv.Itoa(int(r.First))
	if r.Last != r.First {
		s += "-" + strconv.Itoa(int(r.Last))
	}
	switch r.Proto {
	case TCP:
		s += "/tcp"
	case UDP:
		s += "/udp"
	}
	return s
}

// Ports is a set of ports. The zero value means all traffic, ICMP included. Two values are equal
// (==) exactly when they mean the same ports.
type Ports struct{ text string }

// IsAll reports whether the set is all traffic.
func (p Ports) IsAll() bool { return p.text == "" }

// String returns the canonical text: "" for all, else items in ascending order without overlap.
func (p Ports) String() string { return p.text }

// Ranges returns the items of the set in canonical order, nil for all. At most MaxPortItems.
func (p Ports) Ranges() []PortRange {
	if p.text == "" {
		return nil
	}
	rs, _, _ := parsePortItems(p.text) // canonical text always parses
	return rs
}

// ParsePorts reads a comma list of ports and ranges: "22/tcp", "80", "8000-8010/udp", "8000:8010". Without a protocol a
// port means both TCP and UDP. "", "0", "0:65535", "all" and "any" mean all traffic, and so does every list that adds
// up to all ports of both protocols; "0/tcp" means every TCP port. ParsePorts knows no service names.
func ParsePorts(s string) (Ports, error) {
	if s == "" {
		return Ports{}, nil
	}
	if len(s) > maxPortsInput {
		return Ports{}, fmt.Errorf("parse ports %q: longer than %d bytes", s[:32]+"...", maxPortsInput)
	}
	rs, all, err := parsePortItems(s)
	if err != nil {
		return Ports{}, fmt.Errorf("parse ports %q: %w", s, err)
	}
	if all {
		return Ports{}, nil
	}
	p, err := PortsOf(rs)
	if err != nil {
		return Ports{}, fmt.Errorf("parse ports %q: %w", s, err)
	}
	return p, nil
}

// Elements returns how many ports the set has, counting TCP and UDP separately; 0 for all.
func (p Ports) Elements() int {
	n := 0
	for _, r := range p.Ranges() {
		ports := int(r.Last) - int(r.First) + 1
		if r.Proto == ProtoAny {
			ports *= 2
		}
		n += ports
	}
	return n
}

// everyPort is equivalent to all traffic.
var everyPort = PortRange{ProtoAny, 1, maxPort}

// PortsOf returns the union of the ranges. No ranges mean all traffic, and so do ranges that cover every port.
func PortsOf(rs []PortRange) (Ports, error) {
	for _, r := range rs {
		if r.First == 0 || r.First > r.Last {
			return Ports{}, fmt.Errorf("port range %v is not within 1-%d", r, maxPort)
		}
		if r.Proto != ProtoAny && r.Proto != TCP && r.Proto != UDP {
			return Ports{}, fmt.Errorf("protocol %d has no ports here, want tcp or udp", r.Proto)
		}
	}
	items := canonical(rs)
	if len(items) == 1 && items[0] == everyPort {
		return Ports{}, nil
	}
	if len(items) > MaxPortItems {
		return Ports{}, fmt.Errorf("%d port items, at most %d", len(items), MaxPortItems)
	}
	var b strings.Builder
	for i, r := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(r.String())
	}
	return Ports{b.String()}, nil
}

// canonical returns the same ports as disjoint ranges, each as long as it can be, in ascending order. A range for both
// TCP and UDP has ProtoAny.
func canonical(rs []PortRange) []PortRange {
	// An edge is where a range of a protocol begins (+1) or has ended (-1).
	type edge struct{ port, tcp, udp int }
	var edges []edge
	for _, r := range rs {
		var t, u int
		if r.Proto != UDP {
			t = 1
		}
		if r.Proto != TCP {
			u = 1
		}
		edges = append(edges, edge{int(r.First), t, u}, edge{int(r.Last) + 1, -t, -u})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.port, b.port) })
	var out []PortRange
	var tcp, udp int
	for i, e := range edges {
		tcp, udp = tcp+e.tcp, udp+e.udp
		if i+1 == len(edges) || edges[i+1].port == e.port || tcp+udp == 0 {
			continue
		}
		proto := ProtoAny
		if udp == 0 {
			proto = TCP
		} else if tcp == 0 {
			proto = UDP
		}
		last := uint16(edges[i+1].port - 1)
		if n := len(out); n > 0 && out[n-1].Proto == proto && int(out[n-1].Last)+1 == e.port {
			out[n-1].Last = last
			continue
		}
		out = append(out, PortRange{proto, uint16(e.port), last})
	}
	return out
}

// parsePortItems parses a comma list; all reports whether one of the items means all traffic.
func parsePortItems(s string) (rs []PortRange, all bool, err error) {
	for item := range strings.SplitSeq(s, ",") {
		r, isAll, err := parsePortItem(strings.TrimSpace(item))
		if err != nil {
			return nil, false, err
		}
		all = all || isAll
		rs = append(rs, r)
	}
	return rs, all, nil
}

func parsePortItem(s string) (r PortRange, all bool, err error) {
	span, proto, hasProto := strings.Cut(s, "/")
	switch {
	case !hasProto:
	case strings.EqualFold(proto, "tcp"):
		r.Proto = TCP
	case strings.EqualFold(proto, "udp"):
		r.Proto = UDP
	default:
		return r, false, fmt.Errorf("unknown protocol %q, want tcp or udp", proto)
	}
	if strings.EqualFold(span, "all") || strings.EqualFold(span, "any") {
		span = "0"
	}
	first, last, isRange := strings.Cut(strings.Replace(span, ":", "-", 1), "-")
	if r.First, err = parsePort(first); err != nil {
		return r, false, err
	}
	r.Last = r.First
	if isRange {
		if r.Last, err = parsePort(last); err != nil {
			return r, false, err
		}
	}
	switch {
	case r.First > r.Last:
		return r, false, fmt.Errorf("range %q runs backwards", span)
	case r.First == 0 && r.Last != 0 && r.Last != maxPort:
		return r, false, errors.New("port 0 does not exist; 0 alone means all")
	case r.First == 0 && !hasProto:
		return r, true, nil
	case r.First == 0:
		r.First, r.Last = 1, maxPort
	}
	return r, false, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("port %q is not a number from 0 to %d", s, maxPort)
	}
	return uint16(n), nil
}
