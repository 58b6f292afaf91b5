package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A later problem does not hide one of another culprit, up to a bound, and each disappears after its time.
func TestProblemsNameEachCulprit(t *testing.T) {
	t.Parallel()
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

// A node whose join list reaches nobody says so for as long as that lasts.
func TestStatusTellsThatNobodyAnswers(t *testing.T) {
	t.Parallel()
	web1 := first(t, "web1")
	web2 := web1.join(t, "web2")
	web2.stop()
	web1.stop()
	cfg := web2.cfg
	cfg.Join = []string{"127.0.0.1:1"} // nobody listens there
	web2 = start(t, web2.home, cfg)
	told := func() bool {
		s, err := web2.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(s.Problems, func(p string) bool {
			return strings.HasPrefix(p, "join: nobody on the join list answers: 127.0.0.1:1 (connection refused); ")
		})
	}
	until(t, "the problem is told", told)
	web1 = start(t, web1.home, web1.cfg)
	if err := web2.mesh.SetJoin([]string{web1.mesh.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	until(t, "the problem is gone", func() bool { return !told() })
}
