package replica

import (
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/pki"
)

// Only grants of the newest key are held, in whatever order and way they arrive.
func TestCoreGrants(t *testing.T) {
	r := newRecorder(t)
	old := meshtest.Grant(t, r.a, 7, simStart, []pki.GossipKey{meshtest.GossipKey(1, 1)}, signers[0], signers[1])
	fresh := meshtest.Grant(t, r.a, 8, simStart, []pki.GossipKey{meshtest.GossipKey(2, 1)}, signers[0])
	more := meshtest.Grant(t, r.a, 9, simStart, []pki.GossipKey{meshtest.GossipKey(2, 1)}, signers[1])
	for name, order := range map[string][]pki.Grant{
		"forth": {old, fresh, more}, "back": {more, fresh, old}, "between": {fresh, old, more}, "again": {old, fresh, old, more, old},
	} {
		for _, by := range []Via{ViaPush, ViaRestore, ViaSync} {
			s := newSimulation(t, 1, 1)
			s.trust(r)
			for _, g := range order {
				s.step(0, FramesEvent{Via: by, Frames: []frame.Frame{g.Frame}})
			}
			c := s.cores[0]
			if live := s.live(0); len(live) != 2 || c.count != 2 || len(c.grants.records) != 2 {
				t.Errorf("%s by %d: %d held", name, by, len(live))
			}
			for _, id := range signers[:2] {
				if g, ok := c.GrantFor(id.ID()); !ok || g.Version.Generation() != 2 {
					t.Errorf("%s by %d: %v has a grant: %v", name, by, id, ok)
				}
			}
			if g, ok := c.GrantFor(signers[2].ID()); ok || g.Version != fresh.Version {
				t.Errorf("%s by %d: who has no grant is given %v, %v", name, by, g.Version, ok)
			}
			s.now = simStart.Add(frame.MaxLife)
			if s.step(0, TickEvent{}); c.count != 0 || len(c.grants.records) != 0 {
				t.Errorf("%s by %d: %d outlive their time", name, by, len(c.grants.records))
			}
		}
	}
	// A node that signs such a record is no authority.
	s := newSimulation(t, 1, 1)
	s.trust(r)
	forged := meshtest.Grant(t, pki.Authority{Identity: signers[2]}, 8, simStart, []pki.GossipKey{meshtest.GossipKey(9, 1)}, signers[0])
	s.step(0, FramesEvent{Via: ViaPush, Frames: []frame.Frame{r.cert(signers[2].Public(), 1, time.Hour), forged.Frame}})
	if s.cores[0].grants.version != 0 {
		t.Error("took a grant that a node signed")
	}
}
