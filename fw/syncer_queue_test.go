package fw

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// inSlices makes a fake get a bulk in slices.
var inSlices = with(Traits{Quick: true, Slice: 4})

func TestFreshUpdatesPassABulk(t *testing.T) {
	withSyncer(t, inSlices, func(b *bench) {
		var all []Update
		for i := range 100 {
			all = append(all, b.ban(prefixNumber(i).String()))
		}
		var mu sync.Mutex
		var order []string
		told := func(what string) func(time.Time, error) {
			return func(time.Time, error) {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, what)
			}
		}
		so := func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(order)
		}
		for some := range slices.Chunk(all, 20) {
			b.Queue(some, told("bulk"))
		}
		b.Queue(all[:1], told("of the bulk"))
		b.Queue([]Update{b.ban("203.0.113.1/32")}, told("fresh"))
		b.Flush()
		if got := so(); len(got) == 0 || got[0] != "fresh" { // Run may have taken the rest by now
			t.Errorf("%q, want the fresh one first", got)
		}
		synctest.Wait()
		if got := so(); len(got) != 7 || got[6] != "of the bulk" {
			t.Errorf("%q: overtook a change of the same address", got)
		}
		if n := get(b.fake, func(f *fake) int { return len(f.batches) }); n != 7 {
			t.Errorf("%d batches, want 7", n)
		}
	})
}

// However updates are queued, taken and put back, none is lost or overtakes another of its key, and each done is called
// once, after its own updates.
func TestQueueKeepsTheOrderOfAKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in inbox
		var put, taken []Update
		var left []int // updates of each submission not yet taken
		of := map[int64]int{}
		answered := 0
		put1 := func(n int) {
			var updates []Update
			for range n {
				until := time.Unix(int64(len(put)), 0) // distinguishes updates of a key
				u := Update{Entry: Entry{Prefix: prefixNumber(rapid.IntRange(0, 20).Draw(t, "key")), Until: until}}
				of[until.Unix()] = len(left)
				updates, put = append(updates, u), append(put, u)
			}
			id := len(left)
			left = append(left, n)
			answer := func(time.Time, error) {
				if left[id] != 0 {
					t.Fatalf("submission %d: answered with %d updates left", id, left[id])
				}
				left[id]--
				answered++
			}
			if in.passes(updates) {
				in.fresh.put(updates, answer)
			} else {
				in.bulk.put(updates, answer)
			}
		}
		accept := func(updates []Update, waiting []done) {
			taken = append(taken, updates...)
			for _, u := range updates {
				left[of[u.Until.Unix()]]--
			}
			for _, done := range waiting {
				done(time.Time{}, nil)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"one":  func(*rapid.T) { put1(1) },
			"bulk": func(t *rapid.T) { put1(rapid.IntRange(0, 40).Draw(t, "updates")) },
			"some": func(t *rapid.T) { accept(in.some(rapid.IntRange(1, 20).Draw(t, "slice"))) },
			"few":  func(*rapid.T) { accept(in.fresh.take(maxInline)) },
			"back": func(*rapid.T) { in.front(in.some(5)) },
			"": func(t *rapid.T) {
				if n := len(taken) + in.fresh.updates + in.bulk.updates; n != len(put) {
					t.Fatalf("%d updates of %d", n, len(put))
				}
				if n := answered + in.fresh.waiting + in.bulk.waiting; n != len(left) {
					t.Fatalf("%d answers of %d", n, len(left))
				}
			},
		})
		accept(in.some(MaxQueued))
		for k := range 21 {
			ends := func(all []Update) (ends []int64) {
				for _, u := range all {
					if u.Prefix == prefixNumber(k) {
						ends = append(ends, u.Until.Unix())
					}
				}
				return ends
			}
			if got, want := ends(taken), ends(put); !slices.Equal(got, want) {
				t.Fatalf("key %d: %v, want %v", k, got, want)
			}
		}
	})
}
