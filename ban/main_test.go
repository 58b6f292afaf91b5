package ban

import (
	"os"
	"testing"

	"github.com/meshban/meshban/test/parallel"
)

// A plain run tries few random cases; test/run simulate tries many.
func TestMain(m *testing.M) {
	parallel.Default("rapid.checks", "40")
	os.Exit(m.Run())
}
