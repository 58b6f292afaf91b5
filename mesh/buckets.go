package mesh

import (
	"sync"
	"time"
)

// buckets holds each of many to a rate, as token buckets do; there are maxSources of them, and further ones share one.
type buckets[K comparable] struct {
	rate, burst float64 // units a second, units

	mu     sync.Mutex
	of     map[K]*bucket
	others bucket
	pruned time.Time
}

// bucket is what one has used and not got back yet.
type bucket struct {
	used float64
	at   time.Time
}

func newBuckets[K comparable](rate, burst float64) buckets[K] {
	return buckets[K]{rate: rate, burst: burst, of: make(map[K]*bucket)}
}

// take uses cost units of who's; false: it has not so many left.
func (b *buckets[K]) take(now time.Time, who K, cost int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.of[who]
	if u == nil && len(b.of) >= maxSources && now.Sub(b.pruned) > time.Second {
		b.pruned = now
		for k, old := range b.of {
			if now.Sub(old.at).Seconds()*b.rate >= b.burst {
				delete(b.of, k)
			}
		}
	}
	switch {
	case u != nil:
	case len(b.of) >= maxSources:
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
