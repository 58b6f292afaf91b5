package mesh

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
)

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
			b := []byte{mlwire.Compound, byte(len(parts))}
			for _, p := range parts {
				b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
			}
			b = append(b, bytes.Join(parts, nil)...)
			for _, to := range c.addrs {
				if _, err := port.WriteTo(meshtest.Sealed(t, c.secrets.GossipKey[:], 1, b, nil), to.String()); err != nil {
					t.Fatal(err)
				}
			}
		}
		alive := func(inc uint32) []byte {
			n := c.nodes[last].ml.Load().LocalNode()
			return meshtest.OfMemberlist(t, mlwire.Alive, mlwire.AliveMessage{Incarnation: inc, Node: name, Addr: at.Addr().AsSlice(), Port: at.Port(), Meta: n.Meta, Vsn: mlwire.Versions[:]})
		}
		accused := func(kind byte, inc uint32) []byte {
			return meshtest.OfMemberlist(t, kind, mlwire.Accusation{Incarnation: inc, Node: name, From: c.nodes[0].id.ID().String()})
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
			{"suspect", func() { toAll(accused(mlwire.Suspect, math.MaxUint32)) }},
			{"dead", func() { toAll(accused(mlwire.Dead, math.MaxUint32)) }},
			{"alive at the end", func() { toAll(alive(math.MaxUint32)) }},
			{"raised, then suspect", func() { toAll(alive(math.MaxUint32 - 1)); toAll(accused(mlwire.Suspect, math.MaxUint32-1)) }},
			{"half of all", func() { toAll(alive(1 << 31)); toAll(accused(mlwire.Suspect, 1<<31)) }},
			{"at its ceiling", func() {
				most := c.nodes[last].ceiling.Now()
				toAll(alive(most))
				toAll(accused(mlwire.Suspect, most))
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
