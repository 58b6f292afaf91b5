package mesh

import "time"

// allowance lets a burst through, then one per interval.
type allowance struct {
	burst int
	every time.Duration

	tokens int
	filled time.Time
}

func (a *allowance) allow(now time.Time) bool {
	if a.filled.IsZero() {
		a.tokens, a.filled = a.burst, now
	}
	if n := int(now.Sub(a.filled) / a.every); n > 0 {
		a.tokens = min(a.tokens+n, a.burst)
		a.filled = a.filled.Add(time.Duration(n) * a.every)
	}
	if a.tokens == 0 {
		return false
	}
	a.tokens--
	return true
}
