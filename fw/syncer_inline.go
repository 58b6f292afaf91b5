package fw

import (
	"context"
	"time"
)

// maxInline bounds the updates that a caller carries to the kernel itself.
const maxInline = 64

// quick is a backend to which a few updates are one exchange over netlink.
type quick interface{ quick() }

// Flush has carried out what Queue left: a few updates in the caller, which saves the switch to another goroutine (7 % of
// the time from a line to ten kernels), all else, and what does not succeed at once, by Run. No lock that a done or a
// Snapshot takes may be held.
func (s *Syncer) Flush() {
	if !s.inline() {
		s.poke()
	}
}

// inline reports whether nothing is left for Run to do.
func (s *Syncer) inline() bool {
	if _, ok := s.cfg.Backend.(quick); !ok {
		return false
	}
	select {
	case <-s.owner:
	default:
		return false
	}
	defer s.release()
	updates, waiting, ok := s.takeFew()
	if !ok || len(updates)+len(waiting) == 0 {
		return ok
	}
	now := time.Now()
	updates = s.work.coalesce(updates)
	err := s.cfg.Backend.Apply(context.Background(), now, updates)
	if err != nil && !isPartial(err) {
		s.mu.Lock()
		if in := &s.inbox; !in.reload {
			in.updates = append(updates, in.updates...)
		}
		s.inbox.waiting = append(waiting, s.inbox.waiting...)
		s.mu.Unlock()
		return false
	}
	if err != nil {
		s.failed("could not apply a batch", err)
	}
	before := s.work.next()
	s.applied(now, updates, waiting, err)
	return !s.work.next().Before(before)
}

// takeFew empties the inbox, if what is in it is for the caller of Flush to do.
func (s *Syncer) takeFew() (updates []Update, waiting []done, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &s.inbox
	if in.closed {
		return nil, nil, true
	}
	if s.work.owed || in.reload || in.hasAllow || len(in.updates) > maxInline {
		return nil, nil, false
	}
	updates, waiting = in.updates, in.waiting
	in.updates, in.waiting = nil, nil
	return updates, waiting, true
}
