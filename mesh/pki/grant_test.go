package pki

import (
	"bytes"
	"slices"
	"testing"

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

func TestGrant(t *testing.T) {
	a := testAuthority(t)
	keys := []GossipKey{testGossipKey(2, 1), testGossipKey(1, 1)}
	g := testGrant(t, a, 5, start, keys, signers[0], signers[1])
	back, err := grantOf(g.Frame)
	if err != nil || !bytes.Equal(back.payload(), g.payload()) {
		t.Fatalf("read back %+v, %v", back, err)
	}
	for _, id := range signers[:2] {
		if got, ok, err := back.Open(id); err != nil || !ok || !slices.Equal(got, keys) {
			t.Errorf("%v opened %d keys, %v, %v", id, len(got), ok, err)
		}
	}
	if _, ok, err := back.Open(signers[2]); ok || err != nil {
		t.Errorf("a node without a box: %v, %v", ok, err)
	}
	// Sealed keys are useless under another node's name, in another mesh or for another key.
	for name, edit := range map[string]func(*Grant){
		"bad: another node's": func(g *Grant) { g.sealed[0].node = signers[2].ID() },
		"bad: another mesh":   func(g *Grant) { g.MeshID[0]++ },
		"bad: another key":    func(g *Grant) { g.Version++ },
	} {
		h := testGrant(t, a, 5, start, keys, signers[0])
		edit(&h)
		for _, id := range []Identity{signers[0], signers[2]} {
			if _, ok, err := h.Open(id); ok && err == nil {
				t.Errorf("%s: opened", name)
			}
		}
	}
	// What the authority signs and what is sealed must agree.
	h := Grant{MeshID: [16]byte{1}, Version: keys[0].Version()}
	sealed, err := seal(signers[0].Public(), grantInfo(h.MeshID, h.Version, signers[0].ID()), appendKeys(nil, keys[1:]))
	if err != nil {
		t.Fatal(err)
	}
	h.sealed = []sealedKeys{{signers[0].ID(), sealed}}
	if _, _, err := h.Open(signers[0]); err == nil {
		t.Error("took a key that is not the one that the record names")
	}

	// A full record fits in a frame, with as many keys as there can be.
	many := []GossipKey{testGossipKey(1<<32-1, 1), testGossipKey(1<<32-2, 1), testGossipKey(1<<32-3, 1), testGossipKey(1<<32-4, 1)}
	b, err := sealKeys(signers[0].Public(), [16]byte{1}, many)
	if err != nil || len(b.text) > maxSealedKeys {
		t.Fatalf("a box of %d bytes, %v; want at most %d", len(b.text), err, maxSealedKeys)
	}
	full := Grant{MeshID: [16]byte{1}, Serial: 1<<63 - 1, Version: many[0].Version(), Issued: start}
	for size := 0; size+b.size() <= grantRoom; size += b.size() {
		full.sealed = append(full.sealed, b)
	}
	if full, err = a.signGrant(full); err != nil || len(full.Frame.Raw) > frame.MaxSize {
		t.Errorf("a record of %d boxes: %d bytes, %v", len(full.sealed), len(full.Frame.Raw), err)
	}
	if _, err := a.signGrant(Grant{Serial: 1, Version: testGossipKey(0, 1).Version(), Issued: start}); err == nil {
		t.Error("handed out the key that the mesh began with")
	}
}
