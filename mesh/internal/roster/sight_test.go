package roster

import (
	"cmp"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshban/meshban/mesh/frame"
)

func TestSight(t *testing.T) {
	own := netip.MustParseAddrPort("10.0.0.5:7946")
	for _, tt := range []struct {
		name    string
		reached bool
		from    string
		want    string
	}{
		{"ok: reached, by another way", true, "203.0.113.1", ""},
		{"bad: not reached", false, "10.0.0.5", "let that port in"},
		{"bad: not reached, unknown", false, "::", "let that port in"},
		{"bad: behind NAT", false, "203.0.113.1", "`advertise: 203.0.113.1:7946`"},
		{"bad: behind NAT, v6", false, "2001:db8::1", "`advertise: [2001:db8::1]:7946`"},
	} {
		s, ok := DecodeSight(Sight{tt.reached, netip.MustParseAddr(tt.from)}.Encode())
		if !ok || s.From.String() != tt.from || s.Reached != tt.reached {
			t.Errorf("%s: read as %+v, %v", tt.name, s, ok)
		}
		if got := s.Fault("web1", own, own.Port()); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, sightLen-1), make([]byte, sightLen+1), append([]byte{2}, make([]byte, 16)...)} {
		if _, ok := DecodeSight(b); ok {
			t.Errorf("%x is taken for an answer", b)
		}
	}
}

// Most of those who answer decide whether a node is reached, and where it is seen.
func TestMostSee(t *testing.T) {
	yes, no := "", "10.0.0.5"
	for _, tt := range []struct {
		name string
		said []string // "": reached; else not reached, and seen at this address
		want string
	}{
		{"ok: all reach it", []string{yes, yes, yes}, yes},
		{"ok: one liar", []string{"203.0.113.1", yes, yes}, yes},
		{"ok: one of two", []string{no, yes}, yes},
		{"bad: the only one", []string{no}, no},
		{"bad: most do not", []string{no, yes, no}, no},
		{"bad: one liar about where it is", []string{"203.0.113.1", no, no}, no},
		{"bad: one liar of five", []string{"203.0.113.1", no, yes, no, no}, no},
	} {
		var said []Sighted
		for i, from := range tt.said {
			s := Sight{Reached: from == yes, From: netip.MustParseAddr(cmp.Or(from, "192.0.2.9"))}
			said = append(said, Sighted{frame.ID{byte(i)}, s})
		}
		most := MostSee(said)
		if most.Reached != (tt.want == yes) || !most.Reached && (most.From.String() != tt.want || tt.said[most.By[0]] != tt.want) {
			t.Errorf("%s: %+v", tt.name, most)
		}
	}
}
