package fw

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// tally is a backend that counts what it holds.
type tally struct {
	fake
	n int
}

func (t *tally) count(context.Context, int) (int, bool, error) { return t.n, true, nil }

// A set that was emptied is noticed at the first entry that is missing; what is about to end, or was never given to the
// kernel, is not missed.
func TestMissing(t *testing.T) {
	const live, ending = 20, 5
	looked := 0
	b := &tally{}
	entries := func(yield func(Entry) bool) {
		for i := range live + ending {
			e := Entry{Prefix: netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i)), Until: time.Now().Add(time.Hour)}
			if i >= live {
				e.Until = time.Now().Add(countSlack / 2)
			}
			looked++
			if !yield(e) {
				return
			}
		}
	}
	s, err := NewSyncer(SyncerConfig{Backend: b, Snapshot: func() State { return State{Entries: entries} }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		n, looked int
		want      string
	}{
		{live + ending, 0, "[]"}, // all is there: nobody is asked
		{live, live + ending, "[]"},
		{live - 1, live, "[the sets hold 19 addresses, where 25 should be]"},
		{0, 1, "[the sets hold 0 addresses, where 25 should be]"},
	} {
		b.n, looked = tc.n, 0
		problems, err := s.missing(t.Context())
		if err != nil || fmt.Sprint(problems) != tc.want || looked != tc.looked {
			t.Errorf("with %d in the kernel: %v %v after a look at %d, want %s after %d", tc.n, problems, err, looked, tc.want, tc.looked)
		}
	}
	s.work.held.remove(Entry{Prefix: netip.MustParsePrefix("192.0.2.0/32")}) // an update of it waits
	b.n = live - 1
	if problems, err := s.missing(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("an entry that the kernel was not given yet is missed: %v %v", problems, err)
	}
}
