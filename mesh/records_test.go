package mesh

import (
	"testing"

	"github.com/meshban/meshban/mesh/pki"
)

func certify(tb testing.TB, a pki.Authority, c pki.Certificate) pki.Certificate {
	tb.Helper()
	c, err := a.Certify(c)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}
