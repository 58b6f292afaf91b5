package daemon

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A later problem hides none of another culprit's, up to a bound, and each goes after its time.
func TestProblemsNameEachCulprit(t *testing.T) {
	p := newProblems()
	for i := range 6 {
		p.add("flood", fmt.Sprint("address ", i))
	}
	p.add("flood", "address 3")
	p.set("clock", "is ahead")
	want := []string{"clock: is ahead", "flood: address 3", "flood: address 5", "flood: address 4", "flood: address 2"}
	if got := p.list(time.Now()); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	old := p.byKind["flood"]
	old[len(old)-1].at = time.Now().Add(-2 * problemsKept)
	if got := p.list(time.Now()); !slices.Equal(got, want[:4]) {
		t.Errorf("later %q, want %q", got, want[:4])
	}
	if got := p.list(time.Now().Add(2 * problemsKept)); len(got) != 0 || len(p.byKind) != 0 {
		t.Errorf("much later %q", got)
	}
	p.add("flood", "address 1")
	if p.clear("flood"); len(p.list(time.Now())) != 0 {
		t.Error("not cleared")
	}
}
