package filter

import (
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/pki"
)

// News above a member's ceiling goes no further, whether in a packet, a compound packet or a membership exchange.
func TestGuardKeepsCeilings(t *testing.T) {
	self, other, unknown := meshtest.Signers[0], meshtest.Signers[1], meshtest.Signers[2]
	const own, known = 2000, 1000
	about := func(id pki.Identity, says uint32, good bool) []byte {
		m := meta.Data{Protocol: meta.Protocol, Key: id.Public(), Name: "web1", Version: "1"}
		if says != 0 {
			m.Say(id, 1, 1, says)
			if !good {
				m.Ceiling++
			}
		}
		return m.Encode()
	}
	alive := func(id pki.Identity, inc uint32, about []byte) mlwire.NodeState {
		return mlwire.NodeState{Name: id.ID().String(), Addr: []byte{192, 0, 2, 1}, Port: 7946, Meta: about, Incarnation: inc, Vsn: mlwire.Versions[:]}
	}
	dead := func(s mlwire.NodeState, state int) mlwire.NodeState {
		s.State = state
		return s
	}
	for _, tt := range []struct {
		name          string
		s             mlwire.NodeState
		packet, state bool // passes as a packet, in an exchange
		heard         bool
	}{
		{"ok: at the ceiling that it says", alive(other, 5000, about(other, 5000, true)), true, true, false},
		{"bad: above the ceiling that it says", alive(other, 5001, about(other, 5000, true)), false, false, false},
		{"bad: above that, below one that it said before", alive(other, known, about(other, known-1, true)), false, false, false},
		{"bad: the last one", alive(other, math.MaxUint32, about(other, math.MaxUint32, true)), false, false, false},
		{"ok: it says none", alive(unknown, meta.FirstCeiling, about(unknown, 0, true)), true, true, false},
		{"bad: it says none", alive(unknown, meta.FirstCeiling+1, about(unknown, 0, true)), false, false, false},
		{"ok: suspect", dead(alive(other, known, about(other, known, true)), 1), true, true, false},
		{"bad: suspect", dead(alive(other, known+1, about(other, known, true)), 1), false, false, false},
		{"ok: dead", dead(alive(other, known, about(other, known, true)), 2), true, true, false},
		{"bad: dead", dead(alive(other, math.MaxUint32, about(other, known, true)), 2), false, false, false},
		{"bad: gone", dead(alive(other, known+1, about(other, known, true)), 3), false, false, false},
		{"ok: dead, by a newer word of its own", dead(alive(other, known+1, about(other, 2*known, true)), 2), false, true, false},
		{"bad: dead, by a newer word that is forged", dead(alive(other, known+1, about(other, 2*known, false)), 2), false, false, false},
		{"bad: dead, unknown", dead(alive(unknown, meta.FirstCeiling+1, about(unknown, 0, true)), 2), false, false, false},
		{"ok: this node", alive(self, own, about(self, own, true)), true, true, true},
		{"ok: this node, by a word of an earlier run", alive(self, 3*own, about(self, 3*own, true)), true, true, true},
		{"bad: this node, by a forged word", alive(self, 3*own, about(self, 3*own, false)), false, false, false},
		{"ok: this node is dead", dead(alive(self, own, about(self, own, true)), 2), true, true, true},
		{"bad: this node is dead", dead(alive(self, own+1, about(self, own, true)), 2), false, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, _ := testGuard(func(netip.Addr) {})
			var heard []uint32
			g.heard = func(inc uint32) { heard = append(heard, inc) }
			g.ceilingOf = func(id frame.ID) (uint32, bool) {
				return map[frame.ID]uint32{self.ID(): own, other.ID(): known, unknown.ID(): meta.FirstCeiling}[id], id == self.ID()
			}
			var b []byte
			switch s := tt.s; s.State {
			case mlwire.StateAlive:
				b = meshtest.OfMemberlist(t, mlwire.Alive, s.Alive())
			case 1:
				b = meshtest.OfMemberlist(t, mlwire.Suspect, mlwire.Accusation{Incarnation: s.Incarnation, Node: s.Name, From: s.Name})
			default:
				b = meshtest.OfMemberlist(t, mlwire.Dead, mlwire.Accusation{Incarnation: s.Incarnation, Node: s.Name, From: s.Name})
			}
			both := []byte{mlwire.Compound, 2, 0, 2, byte(len(b) >> 8), byte(len(b)), mlwire.Ping, 0x80}
			for _, plain := range [][]byte{b, append(both, b...)} {
				if got := g.packet(meshtest.Sealed(t, guardKey, 1, plain, nil), netip.MustParseAddr("192.0.2.1")); got != tt.packet {
					t.Errorf("packet passed: %v", got)
				}
			}
			exchange := append(meshtest.OfMemberlist(t, mlwire.PushPull, mlwire.PushPullHead{Nodes: 1}), meshtest.OfMemberlist(t, 0, tt.s)[1:]...)
			if _, err := g.streamHead(exchange, netip.Addr{}); (err == nil) != tt.state {
				t.Errorf("exchange: %v", err)
			}
			if want := tt.heard; want != slices.Contains(heard, tt.s.Incarnation) {
				t.Errorf("heard of this node: %v, want %v", heard, want)
			}
		})
	}
}
