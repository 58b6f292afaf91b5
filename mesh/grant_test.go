package mesh

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// Only grants of the newest key are held, in whatever order and way they arrive.
func TestCoreGrants(t *testing.T) {
	r := newRecorder(t)
	old := testGrant(t, r.a, 7, simStart, []pki.GossipKey{testGossipKey(1, 1)}, signers[0], signers[1])
	fresh := testGrant(t, r.a, 8, simStart, []pki.GossipKey{testGossipKey(2, 1)}, signers[0])
	more := testGrant(t, r.a, 9, simStart, []pki.GossipKey{testGossipKey(2, 1)}, signers[1])
	for name, order := range map[string][]pki.Grant{
		"forth": {old, fresh, more}, "back": {more, fresh, old}, "between": {fresh, old, more}, "again": {old, fresh, old, more, old},
	} {
		for _, by := range []via{viaPush, viaRestore, viaSync} {
			s := newSimulation(t, 1, 1)
			s.trust(r)
			for _, g := range order {
				s.step(0, evFrames{via: by, frames: []frame.Frame{g.Frame}})
			}
			c := s.cores[0]
			if live := s.live(0); len(live) != 2 || c.count != 2 || len(c.grants.records) != 2 {
				t.Errorf("%s by %d: %d held", name, by, len(live))
			}
			for _, id := range signers[:2] {
				if g, ok := c.grantFor(id.ID()); !ok || g.Version.Generation() != 2 {
					t.Errorf("%s by %d: %v has a grant: %v", name, by, id, ok)
				}
			}
			if g, ok := c.grantFor(signers[2].ID()); ok || g.Version != fresh.Version {
				t.Errorf("%s by %d: who has no grant is given %v, %v", name, by, g.Version, ok)
			}
			s.now = simStart.Add(frame.MaxLife)
			if s.step(0, evTick{}); c.count != 0 || len(c.grants.records) != 0 {
				t.Errorf("%s by %d: %d outlive their time", name, by, len(c.grants.records))
			}
		}
	}
	// A node that signs such a record is no authority.
	s := newSimulation(t, 1, 1)
	s.trust(r)
	forged := testGrant(t, pki.Authority{Identity: signers[2]}, 8, simStart, []pki.GossipKey{testGossipKey(9, 1)}, signers[0])
	s.step(0, evFrames{via: viaPush, frames: []frame.Frame{r.cert(signers[2].Public(), 1, time.Hour), forged.Frame}})
	if s.cores[0].grants.version != 0 {
		t.Error("took a grant that a node signed")
	}
}

// Only a member itself says which keys it has: what another holder of a gossip key says in its name is ignored, and does
// not make the others turn to a key that the member lacks.
func TestKeysAreSaidByTheMemberAlone(t *testing.T) {
	id, v := signers[0], testGossipKey(1, 1).Version()
	table := newPeerTable(signers[1].ID(), nil, func(frame.ID) bool { return true })
	node := &memberlist.Node{Name: id.ID().String(), Addr: net.IPv4(10, 0, 0, 1).To4(), Port: 7946}
	hears := func(m meta) peerKeys {
		m.Protocol, m.Key = protocolVersion, id.Public()
		node.Meta = m.encode()
		if _, ok := table.joined(simStart, node, memberUpdate); !ok {
			t.Fatal("the member was refused")
		}
		return table.keysOf()[0]
	}
	var own, forged, changed, moved meta
	own.say(id, v, v-1, 512)
	forged.say(signers[2], v, v, 512)
	changed.say(id, v, v-1, 512)
	changed.Uses = v
	moved.say(id, v-1, v, 512)
	moved.Has, moved.Uses = v, v-1
	for _, tt := range []struct {
		name string
		in   meta
		want peerKeys
	}{
		{"bad: signed by another", forged, peerKeys{id: id.ID()}},
		{"bad: swapped", moved, peerKeys{id: id.ID()}},
		{"ok: its own word", own, peerKeys{id.ID(), v, v - 1}},
		{"ok: once more", own, peerKeys{id.ID(), v, v - 1}},
		{"bad: changed", changed, peerKeys{id: id.ID()}},
		{"ok: its own word again", own, peerKeys{id.ID(), v, v - 1}},
		{"ok: it says nothing", meta{}, peerKeys{id: id.ID()}},
	} {
		if got := hears(tt.in); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
