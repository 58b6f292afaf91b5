package mesh

import (
	"bytes"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
)

func TestSeal(t *testing.T) {
	text := []byte("for one alone")
	sealed, err := seal(signers[0].Public(), []byte("info"), text)
	if err != nil || len(sealed) != len(text)+sealedMore {
		t.Fatalf("%d bytes, %v", len(sealed), err)
	}
	if got, err := unseal(signers[0], []byte("info"), sealed); err != nil || !bytes.Equal(got, text) {
		t.Errorf("opened as %q, %v", got, err)
	}
	if _, err := unseal(signers[1], []byte("info"), sealed); err == nil {
		t.Error("another node opened it")
	}
	if _, err := unseal(signers[0], []byte("other"), sealed); err == nil {
		t.Error("opened as something else")
	}
	for i := range sealed {
		b := slices.Clone(sealed)
		b[i] ^= 1
		if _, err := unseal(signers[0], []byte("info"), b); err == nil {
			t.Errorf("byte %d was changed, and it opens", i)
		}
	}
	// A key that is a point of small order, or no point, causes an error and no panic.
	for _, key := range [][]byte{make([]byte, 32), append([]byte{1}, make([]byte, 31)...)} {
		if _, err := seal(key, nil, text); err == nil {
			t.Errorf("sealed for %x", key)
		}
	}
}

// testGrant returns a grant of keys to nodes.
func testGrant(tb failer, a Authority, serial uint64, issued time.Time, keys []GossipKey, to ...Identity) grant {
	g := grant{MeshID: [16]byte{1}, Serial: serial, Version: keys[0].version(), Issued: issued}
	for _, id := range to {
		b, err := boxFor(id.Public(), g.MeshID, keys)
		if err != nil {
			tb.Fatal(err)
		}
		g.Boxes = append(g.Boxes, b)
	}
	g, err := a.grant(g)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

func TestGrant(t *testing.T) {
	a := testAuthority(t)
	keys := []GossipKey{testGossipKey(2, 1), testGossipKey(1, 1)}
	g := testGrant(t, a, 5, simStart, keys, signers[0], signers[1])
	back, err := grantOf(g.frame)
	if err != nil || !bytes.Equal(back.payload(), g.payload()) {
		t.Fatalf("read back %+v, %v", back, err)
	}
	for _, id := range signers[:2] {
		if got, ok, err := back.open(id); err != nil || !ok || !slices.Equal(got, keys) {
			t.Errorf("%v opened %d keys, %v, %v", id, len(got), ok, err)
		}
	}
	if _, ok, err := back.open(signers[2]); ok || err != nil {
		t.Errorf("a node without a box: %v, %v", ok, err)
	}
	// A box is useless under another node's name, in another mesh or for another key.
	for name, edit := range map[string]func(*grant){
		"bad: another node's": func(g *grant) { g.Boxes[0].Node = signers[2].ID() },
		"bad: another mesh":   func(g *grant) { g.MeshID[0]++ },
		"bad: another key":    func(g *grant) { g.Version++ },
	} {
		h := testGrant(t, a, 5, simStart, keys, signers[0])
		edit(&h)
		for _, id := range []Identity{signers[0], signers[2]} {
			if _, ok, err := h.open(id); ok && err == nil {
				t.Errorf("%s: opened", name)
			}
		}
	}
	// What the authority signs and what is sealed must agree.
	h := grant{MeshID: [16]byte{1}, Version: keys[0].version()}
	sealed, err := seal(signers[0].Public(), grantInfo(h.MeshID, h.Version, signers[0].ID()), appendKeys(nil, keys[1:]))
	if err != nil {
		t.Fatal(err)
	}
	h.Boxes = []box{{signers[0].ID(), sealed}}
	if _, _, err := h.open(signers[0]); err == nil {
		t.Error("took a key that is not the one that the record names")
	}

	// A full record fits in a frame, with as many keys as there can be.
	many := []GossipKey{testGossipKey(1<<32-1, 1), testGossipKey(1<<32-2, 1), testGossipKey(1<<32-3, 1), testGossipKey(1<<32-4, 1)}
	b, err := boxFor(signers[0].Public(), [16]byte{1}, many)
	if err != nil || len(b.Sealed) > maxSealedKeys {
		t.Fatalf("a box of %d bytes, %v; want at most %d", len(b.Sealed), err, maxSealedKeys)
	}
	full := grant{MeshID: [16]byte{1}, Serial: 1<<63 - 1, Version: many[0].version(), Issued: simStart}
	for size := 0; size+b.size() <= grantRoom; size += b.size() {
		full.Boxes = append(full.Boxes, b)
	}
	if full, err = a.grant(full); err != nil || len(full.frame.Raw) > frame.MaxSize {
		t.Errorf("a record of %d boxes: %d bytes, %v", len(full.Boxes), len(full.frame.Raw), err)
	}
	if _, err := a.grant(grant{Serial: 1, Version: testGossipKey(0, 1).version(), Issued: simStart}); err == nil {
		t.Error("handed out the key that the mesh began with")
	}
}

// Only grants of the newest key are held, in whatever order and way they arrive.
func TestCoreGrants(t *testing.T) {
	r := newRecorder(t)
	old := testGrant(t, r.a, 7, simStart, []GossipKey{testGossipKey(1, 1)}, signers[0], signers[1])
	fresh := testGrant(t, r.a, 8, simStart, []GossipKey{testGossipKey(2, 1)}, signers[0])
	more := testGrant(t, r.a, 9, simStart, []GossipKey{testGossipKey(2, 1)}, signers[1])
	for name, order := range map[string][]grant{
		"forth": {old, fresh, more}, "back": {more, fresh, old}, "between": {fresh, old, more}, "again": {old, fresh, old, more, old},
	} {
		for _, by := range []via{viaPush, viaRestore, viaSync} {
			s := newSimulation(t, 1, 1)
			s.trust(r)
			for _, g := range order {
				s.step(0, evFrames{via: by, frames: []frame.Frame{g.frame}})
			}
			c := s.cores[0]
			if live := s.live(0); len(live) != 2 || c.count != 2 || len(c.grants.records) != 2 {
				t.Errorf("%s by %d: %d held", name, by, len(live))
			}
			for _, id := range signers[:2] {
				if g, ok := c.grantFor(id.ID()); !ok || g.Version.generation() != 2 {
					t.Errorf("%s by %d: %v has a grant: %v", name, by, id, ok)
				}
			}
			if g, ok := c.grantFor(signers[2].ID()); ok || g.Version != fresh.Version {
				t.Errorf("%s by %d: who has no grant is given %v, %v", name, by, g.Version, ok)
			}
			s.now = simStart.Add(grantLife)
			if s.step(0, evTick{}); c.count != 0 || len(c.grants.records) != 0 {
				t.Errorf("%s by %d: %d outlive their time", name, by, len(c.grants.records))
			}
		}
	}
	// A node that signs such a record is no authority.
	s := newSimulation(t, 1, 1)
	s.trust(r)
	forged := testGrant(t, Authority{signers[2]}, 8, simStart, []GossipKey{testGossipKey(9, 1)}, signers[0])
	s.step(0, evFrames{via: viaPush, frames: []frame.Frame{r.cert(signers[2].Public(), 1, time.Hour), forged.frame}})
	if s.cores[0].grants.version != 0 {
		t.Error("took a grant that a node signed")
	}
}

// Only a member itself says which keys it has: what another holder of a gossip key says in its name is ignored, and does
// not make the others turn to a key that the member lacks.
func TestKeysAreSaidByTheMemberAlone(t *testing.T) {
	id, v := signers[0], testGossipKey(1, 1).version()
	table := newPeerTable(signers[1].ID(), nil, func(frame.ID) bool { return true })
	node := &memberlist.Node{Name: id.ID().String(), Addr: net.IPv4(10, 0, 0, 1).To4(), Port: 7946}
	hears := func(m meta) peerKeys {
		m.Protocol, m.Key = protocolVersion, id.Public()
		node.Meta = m.encode()
		if _, ok := table.joined(simStart, node, MemberUpdate); !ok {
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
