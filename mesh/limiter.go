package mesh

import (
	"sync"
	"time"
)

// limiter lets a burst through, then one per interval.
type limiter struct {
	burst int
	every time.Duration

	mu     sync.Mutex
	tokens int
	filled time.Time
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.filled.IsZero() {
		l.tokens, l.filled = l.burst, now
	}
	if n := int(now.Sub(l.filled) / l.every); n > 0 {
		l.tokens = min(l.tokens+n, l.burst)
		l.filled = l.filled.Add(time.Duration(n) * l.every)
	}
	if l.tokens == 0 {
		return false
	}
	l.tokens--
	return true
}
