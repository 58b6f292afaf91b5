// Package limit bounds how often something may happen. It has no clock of its own.
package limit

import "time"

// Allowance lets a burst through, then one per interval. It is not safe for concurrent use.
type Allowance struct {
	Burst int
	Every time.Duration

	tokens int
	filled time.Time
}

// Allow reports whether one more is within the limit, and if so counts it.
func (a *Allowance) Allow(now time.Time) bool {
	if a.filled.IsZero() {
		a.tokens, a.filled = a.Burst, now
	}
	if n := int(now.Sub(a.filled) / a.Every); n > 0 {
		a.tokens = min(a.tokens+n, a.Burst)
		a.filled = a.filled.Add(time.Duration(n) * a.Every)
	}
	if a.tokens == 0 {
		return false
	}
	a.tokens--
	return true
}
