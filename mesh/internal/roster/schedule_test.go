package roster

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// Everyone has a turn before anyone has another; who is there no more has none.
func TestTurn(t *testing.T) {
	var turn Turn[int]
	there := []int{1, 2, 3, 4, 5}
	for range 20 {
		first := slices.Clone(turn.Next(there, 2))
		second := slices.Clone(turn.Next(there, 2))
		last := turn.Next(there, 2)
		if all := slices.Concat(first, second, last); len(all) != 5 || len(slices.Compact(slices.Sorted(slices.Values(all)))) != 5 {
			t.Fatalf("the turns are %v, %v, %v", first, second, last)
		}
	}
	gone := turn.Next(there, 1)[0]
	for range 20 {
		if some := turn.Next(slices.DeleteFunc(slices.Clone(there), func(i int) bool { return i == gone }), 5); slices.Contains(some, gone) {
			t.Fatalf("%d has a turn and is gone", gone)
		}
	}
}

// An address that answered is not tried again, until a peer is lost, nobody is alive or some time has passed.
func TestAnswered(t *testing.T) {
	now, at := time.Unix(1_800_000_000, 0), netip.MustParseAddrPort("192.0.2.1:7946")
	for _, tt := range []struct {
		name   string
		after  time.Duration
		losses uint64
		alive  int
		want   bool
	}{
		{"ok: a while later", joinedFor, 7, 3, true},
		{"bad: long after", joinedFor + 1, 7, 3, false},
		{"bad: a peer was lost", 0, 8, 3, false},
		{"bad: nobody is alive", 0, 7, 0, false},
	} {
		j := NewJoinList(nil)
		j.Joined(now, at, 7)
		if got := j.Answered(now.Add(tt.after), at, tt.losses, tt.alive); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
		if !tt.want && j.Answered(now, at, 7, 3) {
			t.Errorf("%s: it counts as answered again", tt.name)
		}
	}
}
