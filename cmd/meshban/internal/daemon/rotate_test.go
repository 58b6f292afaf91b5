package daemon

import (
	"strings"
	"testing"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// An incomplete rotation names the nodes that lack the key, but no more of them than fit on a screen.
func TestKeyProblem(t *testing.T) {
	t.Parallel()
	n := newNames([]byte(`{"01000000000000000000000000000000":{"name":"web1"}}`), ban.Origin{}, "")
	many := make([]frame.ID, keyShown+3)
	for i := range many {
		many[i] = frame.ID{byte(i + 1)}
	}
	for _, c := range []struct {
		name string
		in   mesh.KeyStatus
		want []string
	}{
		{"ok: complete", mesh.KeyStatus{Generation: 2, InUse: 2}, nil},
		{"ok: former keys are there still", mesh.KeyStatus{Generation: 2, InUse: 2, Rotating: true}, nil},
		{"bad: two lack it", mesh.KeyStatus{Generation: 2, InUse: 1, Lacking: many[:2]}, []string{"generation 2", "web1 (01000000), 02000000 yet", "wait for it"}},
		{"bad: in use without one", mesh.KeyStatus{Generation: 2, InUse: 2, Lacking: many[:1]}, []string{"web1", "hears nothing", "update"}},
		{"bad: many", mesh.KeyStatus{Generation: 2, InUse: 1, Lacking: many}, []string{"and 3 more"}},
	} {
		got := keyProblem(c.in, n)
		if (got == "") != (c.want == nil) {
			t.Errorf("%s: %q", c.name, got)
		}
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q lacks %q", c.name, got, w)
			}
		}
		if strings.Count(got, ",") > keyShown+3 {
			t.Errorf("%s: too long: %q", c.name, got)
		}
	}
}
