package pki

import (
	"crypto/ed25519"
	"testing"
	"time"
)

var start = time.UnixMilli(1_800_000_000_000).UTC()

// signers are identities for tests.
var signers = func() []Identity {
	var ids []Identity
	for range 3 {
		id, err := newIdentity()
		if err != nil {
			panic(err)
		}
		ids = append(ids, id)
	}
	return ids
}()

func newSecrets(tb testing.TB) Secrets {
	tb.Helper()
	s, err := NewSecrets()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func testGossipKey(generation uint32, b byte) GossipKey {
	return GossipKey{Generation: generation, Key: [32]byte{b, byte(generation)}}
}

func testAuthority(tb testing.TB) Authority {
	tb.Helper()
	a, err := NewAuthority()
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func certify(tb testing.TB, a Authority, c Certificate) Certificate {
	tb.Helper()
	c, err := a.Certify(c)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// testGrant returns a grant of keys to nodes.
func testGrant(tb testing.TB, a Authority, serial uint64, issued time.Time, keys []GossipKey, to ...Identity) Grant {
	var nodes []ed25519.PublicKey
	for _, id := range to {
		nodes = append(nodes, id.Public())
	}
	grants, err := a.Grant(issued, [16]byte{1}, 1<<62+serial, keys, nodes) // above any serial made from the time
	if err != nil {
		tb.Fatal(err)
	}
	return grants[0]
}
