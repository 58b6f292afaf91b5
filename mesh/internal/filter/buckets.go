package filter

import (
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// pruneEvery is the least time between two passes that drop idle keys; they are made only while there are maxSources
// keys.
const pruneEvery = 100 * time.Millisecond

// Buckets limits the rate of each key. At most maxSources keys have their own limiter, and those that reserved reports;
// further keys share one.
type Buckets[K comparable] struct {
	fresh    func() *rate.Limiter
	reserved func(K) bool // nil: reports false. It must report true for few keys, and not block

	mu     sync.Mutex
	of     map[K]*rate.Limiter
	others *rate.Limiter
	pruned time.Time
}

// NewBuckets allows each key perSecond units, and burst at once.
func NewBuckets[K comparable](perSecond rate.Limit, burst int) Buckets[K] {
	fresh := func() *rate.Limiter { return rate.NewLimiter(perSecond, burst) }
	return Buckets[K]{fresh: fresh, of: make(map[K]*rate.Limiter), others: fresh()}
}

// Take spends cost units of who's and reports whether enough were left. A negative cost gives units back.
func (b *Buckets[K]) Take(now time.Time, who K, cost int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.of[who]
	if u == nil && len(b.of) >= maxSources && now.Sub(b.pruned) > pruneEvery {
		b.pruned = now
		maps.DeleteFunc(b.of, func(_ K, old *rate.Limiter) bool { return old.TokensAt(now) >= float64(old.Burst()) })
	}
	switch {
	case u != nil:
	case len(b.of) >= maxSources && (b.reserved == nil || !b.reserved(who)):
		u = b.others
	default:
		u = b.fresh()
		b.of[who] = u
	}
	return u.AllowN(now, cost)
}
