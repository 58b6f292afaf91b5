package mesh

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/pki"
)

func testAuthority(tb testing.TB) pki.Authority {
	tb.Helper()
	a, err := pki.NewAuthority()
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func certify(tb testing.TB, a pki.Authority, c pki.Certificate) pki.Certificate {
	tb.Helper()
	c, err := a.Certify(c)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// testGrant returns a grant of keys to nodes.
func testGrant(tb failer, a pki.Authority, serial uint64, issued time.Time, keys []pki.GossipKey, to ...pki.Identity) pki.Grant {
	var nodes []ed25519.PublicKey
	for _, id := range to {
		nodes = append(nodes, id.Public())
	}
	grants, err := a.Grant(issued, [16]byte{1}, 1<<62+serial, keys, nodes) // above what the time gives
	if err != nil {
		tb.Fatal(err)
	}
	return grants[0]
}
