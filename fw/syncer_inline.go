package fw

import (
	"context"
	"time"
)

// maxInline bounds the updates that a caller carries to the kernel itself, except for a single frame that fits a slice.
const maxInline = 64

// Flush carries out what Queue left. It does a few updates in the caller, which saves the switch to another goroutine
// (7 % of the time from a line to ten kernels). It does the same with one frame of a bulk, so that a bulk keeps one
// thread busy and not two. Run does the rest, and what does not succeed at once. The caller must not hold a lock that a
// done or a Snapshot takes.
func (s *Syncer) Flush() {
	if !s.inline() {
		s.wakeRun()
	}
}

// inline reports whether nothing is left for Run to do.
func (s *Syncer) inline() bool {
	if !s.traits.Quick {
		return false
	}
	select {
	case <-s.owner:
	default:
		return false
	}
	defer s.release()
	updates, waiting, all := s.takeFew()
	if len(updates)+len(waiting) == 0 {
		return all
	}
	now := time.Now()
	updates = coalesce(updates)
	carried, left, refused := s.carry(updates)
	err := alsoRefused(s.cfg.Backend.Apply(context.Background(), now, carried), refused)
	if err != nil && !isPartial(err) {
		s.mu.Lock()
		s.inbox.front(updates, waiting)
		s.mu.Unlock()
		return false
	}
	s.told(err)
	before := s.work.next()
	s.applied(now, carried, waiting, left, err)
	return all && !s.work.next().Before(before)
}

// takeFew takes from the inbox what the caller of Flush should do, and reports whether that is everything.
func (s *Syncer) takeFew() (updates []Update, waiting []done, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &s.inbox
	switch {
	case in.closed:
		return nil, nil, true
	case s.work.owed, in.reload, in.exceptions:
		return nil, nil, false
	case in.fresh.updates+in.bulk.updates <= maxInline, s.oneSlice():
		updates, waiting = in.some(MaxQueued)
		return updates, waiting, len(in.fresh.list)+len(in.bulk.list) == 0
	}
	updates, waiting = in.fresh.take(maxInline)
	return updates, waiting, false
}

// oneSlice reports whether all that waits is one frame of a bulk, which the backend takes in one piece. s.mu is held.
func (s *Syncer) oneSlice() bool {
	in := &s.inbox
	return len(in.fresh.list) == 0 && len(in.bulk.list) == 1 && in.bulk.updates <= s.traits.Slice
}
