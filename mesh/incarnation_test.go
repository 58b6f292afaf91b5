package mesh

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/pki"
)

// News above a member's ceiling goes no further, whether in a packet, a compound packet or a membership exchange.
func TestGuardKeepsCeilings(t *testing.T) {
	self, other, unknown := signers[0], signers[1], signers[2]
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
	alive := func(id pki.Identity, inc uint32, about []byte) mlNodeState {
		return mlNodeState{id.ID().String(), []byte{192, 0, 2, 1}, 7946, about, inc, mlStateAlive, mlVersions[:]}
	}
	dead := func(s mlNodeState, state int) mlNodeState {
		s.State = state
		return s
	}
	for _, tt := range []struct {
		name          string
		s             mlNodeState
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
			case mlStateAlive:
				b = ofMemberlist(t, mlAlive, mlAliveMessage{s.Incarnation, s.Name, s.Addr, s.Port, s.Meta, s.Vsn})
			case 1:
				b = ofMemberlist(t, mlSuspect, mlAccusation{s.Incarnation, s.Name, s.Name})
			default:
				b = ofMemberlist(t, mlDead, mlAccusation{s.Incarnation, s.Name, s.Name})
			}
			both := []byte{mlCompound, 2, 0, 2, byte(len(b) >> 8), byte(len(b)), mlPing, 0x80}
			for _, plain := range [][]byte{b, append(both, b...)} {
				if got := g.packet(sealed(t, guardKey, 1, plain, nil), netip.MustParseAddr("192.0.2.1")); got != tt.packet {
					t.Errorf("packet passed: %v", got)
				}
			}
			exchange := append(ofMemberlist(t, mlPushPull, struct{ Nodes int }{1}), ofMemberlist(t, 0, tt.s)[1:]...)
			if _, err := g.streamHead(exchange, netip.Addr{}); (err == nil) != tt.state {
				t.Errorf("exchange: %v", err)
			}
			if want := tt.heard; want != slices.Contains(heard, tt.s.Incarnation) {
				t.Errorf("heard of this node: %v, want %v", heard, want)
			}
		})
	}
}

// A holder of the gossip key makes claims about a member that the member could not deny. Nobody considers the member
// dead, its frames and its own news arrive, and it can start again.
func TestClusterDeniesAccusations(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 5, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		const last = 4
		victim, at := c.nodes[last], c.addrs[last]
		name := victim.id.ID().String()
		port, err := c.hub.open(netip.MustParseAddrPort("10.6.6.6:7946"))
		if err != nil {
			t.Fatal(err)
		}
		toAll := func(parts ...[]byte) {
			b := []byte{mlCompound, byte(len(parts))}
			for _, p := range parts {
				b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
			}
			b = append(b, bytes.Join(parts, nil)...)
			for _, to := range c.addrs {
				if _, err := port.WriteTo(sealed(t, c.secrets.GossipKey[:], 1, b, nil), to.String()); err != nil {
					t.Fatal(err)
				}
			}
		}
		alive := func(inc uint32) []byte {
			n := c.nodes[last].ml.Load().LocalNode()
			return ofMemberlist(t, mlAlive, mlAliveMessage{inc, name, at.Addr().AsSlice(), at.Port(), n.Meta, mlVersions[:]})
		}
		accused := func(kind byte, inc uint32) []byte {
			return ofMemberlist(t, kind, mlAccusation{inc, name, c.nodes[0].id.ID().String()})
		}
		fails := func() (n int) {
			for _, other := range c.nodes[:last] {
				other.mu.Lock()
				for _, e := range other.events {
					if e.Kind == memberFail && e.Member.ID == victim.id.ID() {
						n++
					}
				}
				other.mu.Unlock()
			}
			return n
		}
		for _, attack := range []struct {
			name string
			say  func()
		}{
			{"suspect", func() { toAll(accused(mlSuspect, math.MaxUint32)) }},
			{"dead", func() { toAll(accused(mlDead, math.MaxUint32)) }},
			{"alive at the end", func() { toAll(alive(math.MaxUint32)) }},
			{"raised, then suspect", func() { toAll(alive(math.MaxUint32 - 1)); toAll(accused(mlSuspect, math.MaxUint32-1)) }},
			{"half of all", func() { toAll(alive(1 << 31)); toAll(accused(mlSuspect, 1<<31)) }},
			{"at its ceiling", func() {
				most := c.nodes[last].ceiling.Now()
				toAll(alive(most))
				toAll(accused(mlSuspect, most))
			}},
		} {
			for range 100 {
				attack.say()
				<-time.After(200 * time.Millisecond)
			}
			if n := fails(); n > 0 {
				t.Errorf("%s: taken for dead %d times", attack.name, n)
			}
			publish(t, c.nodes[last], attack.name, time.Hour)
			publish(t, c.nodes[0], attack.name, time.Hour)
			eventually(t, 10*time.Second, attack.name+": frames arrive", func() bool { return sameDigest(c.nodes) })
		}
		if victim.ceiling.Now() < 10*meta.FirstCeiling {
			t.Errorf("its ceiling is %d: it was not raised", victim.ceiling.Now())
		}
		if err := victim.stop(); err != nil {
			t.Fatal(err)
		}
		old := victim
		c.nodes[last] = newNode(t, c.secrets, old.id, c.config(last, func(_ int, cfg *Config) {
			cfg.Epoch, cfg.Version, cfg.Join = 2, "later", nil
			cfg.Peers = old.remember
		}))
		restore(t, c.nodes[last], old.stored)
		c.nodes[last].run(t)
		eventually(t, 15*time.Second, "it is back, and others know its new version", func() bool {
			for _, n := range c.nodes {
				if m := findMember(n, old.id.ID()); m.State != StateAlive || m.Version != "later" {
					return false
				}
			}
			return c.allAlive()
		})
	})
}
