package roster

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// aloneMin..AloneMax is the pause between rounds while no peer is alive.
	aloneMin, AloneMax = time.Second, 3 * time.Second
	// Otherwise one address that is not alive is tried every restMin..restMax, about once a second in the whole mesh.
	restMin, restMax = 3 * time.Second, 20 * time.Second
	// After a lost peer was found, the next is tried sooner: others of its partition will be back too.
	foundMin, foundMax = 300 * time.Millisecond, time.Second
	// While a member that was recently alive is said to be gone, the pause is hearsayEach for each known member, and at
	// least hearsayMin.
	hearsayEach, hearsayMin = 20 * time.Millisecond, 1500 * time.Millisecond
)

// Pause returns how long to wait before the next search for peers that are gone. found: the last search found some and
// others are still lost. known is how many peers there are; recent says that one was heard from shortly before it was said to be gone.
func Pause(alive int, found bool, known int, recent bool) time.Duration {
	switch {
	case alive == 0:
		return between(aloneMin, AloneMax)
	case found:
		return between(foundMin, foundMax)
	case recent: // may be hearsay
		mid := min(max(time.Duration(known)*hearsayEach, hearsayMin), restMax)
		return between(mid/2, mid+mid/2)
	}
	mid := min(max(time.Duration(known)*time.Second, restMin), restMax)
	return between(mid/2, mid+mid/2)
}

func between(low, high time.Duration) time.Duration { return low + rand.N(high-low) }

// Turn lets everyone have a turn, in random order, before anyone has another.
type Turn[T comparable] struct{ left []T }

// Next returns up to n of those who are there.
func (t *Turn[T]) Next(there []T, n int) []T {
	still := make(map[T]bool, len(there))
	for _, p := range there {
		still[p] = true
	}
	t.left = slices.DeleteFunc(t.left, func(p T) bool { return !still[p] })
	if len(t.left) == 0 {
		t.left = slices.Clone(there)
		rand.Shuffle(len(t.left), func(i, j int) { t.left[i], t.left[j] = t.left[j], t.left[i] })
	}
	some := t.left[:min(len(t.left), n)]
	t.left = t.left[len(some):]
	return some
}
