package mesh

import (
	"sync"
	"time"

	"github.com/meshban/meshban/mesh/internal/limit"
)

// limiter is an Allowance that is safe for concurrent use.
type limiter struct {
	mu sync.Mutex
	limit.Allowance
}

func newLimiter(burst int, every time.Duration) limiter {
	return limiter{Allowance: limit.Allowance{Burst: burst, Every: every}}
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Allow(now)
}
