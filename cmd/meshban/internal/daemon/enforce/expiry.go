package enforce

import (
	"context"
	"time"

	"github.com/meshban/meshban/ban"
)

const (
	// expiryIdle bounds the sleep when nothing expires soon, so that a stepped clock is noticed.
	expiryIdle = 30 * time.Second
	// expiryPause is the shortest time between two rounds: bans that end within it go to the kernel as one batch.
	expiryPause = 20 * time.Millisecond
	// slicePause is the time left to others between two slices of what ends together; each slice holds the lock for
	// less than 1 ms.
	slicePause = 200 * time.Microsecond
)

// Expire removes what has ended, on time, until ctx ends. It calls ending before each round.
func (s *State) Expire(ctx context.Context, ending func(now time.Time)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.wake:
		}
		if now := time.Now(); s.due(now) {
			ending(now)
			s.expire(now)
		}
		timer.Reset(s.sleep())
	}
}

// sleep returns how long Expire may sleep.
func (s *State) sleep() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, wait := time.Now(), expiryIdle
	if next, ok := s.table.Next(); ok && !next.After(now) {
		wait = slicePause
	} else if ok {
		wait = min(wait, max(next.Sub(now), expiryPause))
	}
	s.wakeAt = now.Add(wait)
	return wait
}

// due reports whether something has ended by now.
func (s *State) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, ok := s.table.Next()
	return ok && !next.After(now)
}

// expire removes a slice of what has ended by now.
func (s *State) expire(now time.Time) {
	s.Change(now, func(t *ban.Table) []ban.Change { return t.Expire(now) })
}

// Settle removes everything that has ended by now.
func (s *State) Settle(now time.Time) {
	for s.due(now) {
		s.expire(now)
	}
}
