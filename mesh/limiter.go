package mesh

import (
	"sync"
	"time"
)

// limiter is an allowance for several goroutines.
type limiter struct {
	mu sync.Mutex
	allowance
}

func newLimiter(burst int, every time.Duration) limiter {
	return limiter{allowance: allowance{burst: burst, every: every}}
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.allowance.allow(now)
}
