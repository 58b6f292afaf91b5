package mesh

import (
	"sync"
	"time"
)

// pruneEvery is the least time between two passes that drop idle keys; they are made only while there are maxSources
// keys.
const pruneEvery = 100 * time.Millisecond

// buckets limits the rate of each key by a token bucket. At most maxSources keys have their own, and those that reserved
// reports; further keys share one.
type buckets[K comparable] struct {
	rate, burst float64      // units per second; units
	reserved    func(K) bool // nil: reports false. It must report true for few keys, and not block

	mu     sync.Mutex
	of     map[K]*bucket
	others bucket
	pruned time.Time
}

// bucket is what one key has used and not yet regained.
type bucket struct {
	used float64
	at   time.Time
}

func newBuckets[K comparable](rate, burst float64) buckets[K] {
	return buckets[K]{rate: rate, burst: burst, of: make(map[K]*bucket)}
}

// take spends cost units from who's bucket and reports whether enough were left. A negative cost gives units back.
func (b *buckets[K]) take(now time.Time, who K, cost int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.of[who]
	if u == nil && len(b.of) >= maxSources && now.Sub(b.pruned) > pruneEvery {
		b.pruned = now
		for k, old := range b.of {
			if now.Sub(old.at).Seconds()*b.rate >= b.burst {
				delete(b.of, k)
			}
		}
	}
	switch {
	case u != nil:
	case len(b.of) >= maxSources && (b.reserved == nil || !b.reserved(who)):
		u = &b.others
	default:
		u = &bucket{at: now}
		b.of[who] = u
	}
	if passed := now.Sub(u.at); passed > 0 {
		u.used = max(0, u.used-passed.Seconds()*b.rate)
		u.at = now
	} else if passed < -time.Minute { // the clock was set back
		u.at = now
	}
	if u.used+float64(cost) > b.burst {
		return false
	}
	u.used += float64(cost)
	return true
}
