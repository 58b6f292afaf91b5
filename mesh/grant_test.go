package mesh

import (
	"net"
	"testing"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/rotate"
)

// Only a member itself says which keys it has: what another holder of a gossip key says in its name is ignored, and
// does not make the others switch to a key that the member lacks.
func TestKeysAreSaidByTheMemberAlone(t *testing.T) {
	id, v := signers[0], meshtest.GossipKey(1, 1).Version()
	table := newPeerTable(signers[1].ID(), nil, func(frame.ID) bool { return true })
	node := &memberlist.Node{Name: id.ID().String(), Addr: net.IPv4(10, 0, 0, 1).To4(), Port: 7946}
	hears := func(m meta.Data) rotate.Peer {
		m.Protocol, m.Key = meta.Protocol, id.Public()
		node.Meta = m.Encode()
		if _, ok := table.joined(simStart, node, memberUpdate); !ok {
			t.Fatal("the member was refused")
		}
		return table.keysOf()[0]
	}
	var own, forged, changed, moved meta.Data
	own.Say(id, v, v-1, 512)
	forged.Say(signers[2], v, v, 512)
	changed.Say(id, v, v-1, 512)
	changed.Uses = v
	moved.Say(id, v-1, v, 512)
	moved.Has, moved.Uses = v, v-1
	for _, tt := range []struct {
		name string
		in   meta.Data
		want rotate.Peer
	}{
		{"bad: signed by another", forged, rotate.Peer{ID: id.ID()}},
		{"bad: swapped", moved, rotate.Peer{ID: id.ID()}},
		{"ok: its own word", own, rotate.Peer{ID: id.ID(), Has: v, Uses: v - 1}},
		{"ok: once more", own, rotate.Peer{ID: id.ID(), Has: v, Uses: v - 1}},
		{"bad: changed", changed, rotate.Peer{ID: id.ID()}},
		{"ok: its own word again", own, rotate.Peer{ID: id.ID(), Has: v, Uses: v - 1}},
		{"ok: it says nothing", meta.Data{}, rotate.Peer{ID: id.ID()}},
	} {
		if got := hears(tt.in); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
