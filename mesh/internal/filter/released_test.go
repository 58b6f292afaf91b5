package filter

import (
	"crypto/ed25519"
	"testing"

	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/pki"
)

// A packet's proof is that of v0.1.0.
func TestSpeaksV010(t *testing.T) {
	peer := pki.IdentityOf(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	p, err := newPair(meshtest.Known, [16]byte{1}, peer.Public())
	if err != nil {
		t.Fatal(err)
	}
	meshtest.Released(t, map[string][]byte{"proof": p.proof(make([]byte, mlwire.TagLen), &p.ours, []byte("a packet"))})
}
