package spread

import (
	"fmt"
	"slices"
	"testing"

	"github.com/meshban/meshban/mesh/frame"
)

// Along a tree every member gets a frame exactly once, whoever its origin is, and different members are inner nodes for
// different frames.
func TestTreeReachesAllOnce(t *testing.T) {
	for _, n := range []int{2, 9, 10, 101, 1000} {
		var ids []frame.ID
		for i := range n {
			ids = append(ids, frame.IDOf([]byte(fmt.Sprint(i))))
		}
		inner := make(map[frame.ID]int)
		for f := range 4 {
			hash := [32]byte(append(slices.Clone(ids[f%n][:]), ids[(f+1)%n][:]...))
			origin := ids[f%n]
			got := map[frame.ID]int{origin: 1}
			depth := 0
			for level := []frame.ID{origin}; len(level) > 0; depth++ {
				var next []frame.ID
				for _, id := range level {
					others := slices.DeleteFunc(slices.Clone(ids), func(o frame.ID) bool { return o == id })
					children := treeChildren(hash, origin, id, others, TreeFan)
					if len(children) > 0 {
						inner[id]++
					}
					for _, c := range children {
						got[c]++
						next = append(next, c)
					}
				}
				level = next
			}
			for _, id := range ids {
				if got[id] != 1 {
					t.Fatalf("%d members: one got the frame %d times", n, got[id])
				}
			}
			if n == 1000 && depth > 5 {
				t.Errorf("%d levels for %d members", depth, n)
			}
		}
		if n == 1000 && len(inner) < 300 { // an eighth of them for one frame
			t.Errorf("only %d of %d members ever passed a frame on", len(inner), n)
		}
	}
}
