package fw

import (
	"context"
	"iter"
	"time"
)

const (
	// loadLook is how many entries of a load are sent between two looks at the inbox: about 0.3 ms.
	loadLook = 256
	// maxReplay bounds the updates that are carried to the kernel during one load; further ones wait for it to end.
	maxReplay = MaxQueued / 2
)

// load is one full load of the backend.
type load struct {
	s      *Syncer
	start  time.Time
	void   func() // ends the load's context
	held   tracker
	kept   tracker   // withheld: they overlap an exception that the kernel does not hold
	last   time.Time // the latest end
	replay []Update  // already carried to the old sets, yet to be carried to the new ones
	stuck  bool      // the old sets take nothing

	split   *split
	refused []Refusal // for which split has no room
	ended   bool      // all entries of the snapshot have been seen
}

// through yields the entries, and those that arrive meanwhile.
func (l *load) through(ctx context.Context, entries iter.Seq[Entry], yield func(Entry) bool) {
	n := 0
	for e := range entries {
		if n++; n%loadLook == 0 && !l.between(ctx, yield) || !l.pass(e, yield) {
			return
		}
	}
	if l.ended = true; !l.parts(yield) {
		return
	}
	l.except(ctx) // so that no entry is in force without its exceptions
}

// pass yields an entry, or keeps it for parts.
func (l *load) pass(e Entry, yield func(Entry) bool) bool {
	if !l.split.concerns(e.Prefix) {
		return l.put(e, yield)
	}
	if !l.split.note(l.start, Update{Entry: e}) {
		l.refused = append(l.refused, Refusal{e, whyParts})
	}
	return true
}

// parts yields what the kernel gets in place of the entries that pass kept, once all have been seen.
func (l *load) parts(yield func(Entry) bool) bool {
	if !l.ended {
		return true
	}
	for _, u := range l.split.changed() {
		if !u.Remove && !l.put(u.Entry, yield) {
			return false
		}
	}
	return true
}

// put yields an entry, unless it has to be withheld.
func (l *load) put(e Entry, yield func(Entry) bool) bool {
	if _, ok := l.s.work.except.unplaced.overlap(e.Prefix); ok {
		l.kept.add(e)
		return true
	}
	if e.Until.After(l.start) && droppable(e.Prefix) {
		l.held.add(e)
		if e.Until.After(l.last) {
			l.last = e.Until
		}
	}
	return yield(e)
}

// between carries what has arrived to the kernel, and yields it for the new sets too, so that no packet passes after
// the swap.
func (l *load) between(ctx context.Context, yield func(Entry) bool) bool {
	l.except(ctx)
	if !l.s.traits.DuringLoad {
		return true
	}
	for _, u := range l.meanwhile(ctx) {
		if !u.Remove && !l.pass(u.Entry, yield) {
			return false
		}
	}
	if !l.parts(yield) {
		return false
	}
	calls := l.s.work.calls // callers that wait for a fresh entry do not wait for the load
	l.s.work.calls = nil
	for _, call := range calls {
		call()
	}
	return true
}

// except carries changed exceptions to the kernel. If one cannot be placed, the load is void, because entries that
// contain it may already have been yielded.
func (l *load) except(ctx context.Context) {
	s := l.s
	s.mu.Lock()
	changed := s.inbox.exceptions
	s.mu.Unlock()
	if !changed {
		return
	}
	former := s.work.except.unplaced
	if err := s.except(ctx, false); err != nil || len(s.work.except.unplaced.without(former)) > 0 {
		l.void()
	}
}

// meanwhile carries what waits in the inbox to the sets in force and returns it.
func (l *load) meanwhile(ctx context.Context) []Update {
	if l.stuck || len(l.replay) >= maxReplay {
		return nil
	}
	s := l.s
	s.mu.Lock()
	in := &s.inbox
	if in.reload || in.exceptions || in.fresh.updates+in.bulk.updates == 0 {
		s.mu.Unlock()
		return nil
	}
	updates, waiting := in.some(s.slice())
	s.mu.Unlock()
	l.replay = append(l.replay, updates...)
	updates = coalesce(updates)
	carried, left, refused := s.carry(updates)
	err := alsoRefused(s.cfg.Backend.Apply(ctx, time.Now(), carried), refused)
	if err != nil && !isPartial(err) {
		// The sets may be what the load is to repair. It carries the updates itself.
		l.stuck = true
		s.work.wait(s, waiting)
		return updates
	}
	s.note(time.Now(), carried, err)
	s.work.answer(waiting, time.Now().UTC(), notEnforced(withheldError(left, err)))
	return updates
}

// putBack puts updates in front of the waiting ones.
func (s *Syncer) putBack(updates []Update) {
	if len(updates) == 0 {
		return
	}
	s.mu.Lock()
	s.inbox.front(updates, nil)
	s.mu.Unlock()
	s.wakeRun()
}
