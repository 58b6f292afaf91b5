package fw

import (
	"context"
	"iter"
	"time"
)

const (
	// loadLook is after how many entries of a load the inbox is looked at: every 0.3 ms or so.
	loadLook = 256
	// maxReplay bounds the updates that are carried to the kernel during one load; further ones wait for its end.
	maxReplay = MaxQueued / 2
)

// interleaver is a backend whose Apply also works while Replace goes through the entries, on what the kernel still
// looks at. A load of a million entries then holds up no fresh one.
type interleaver interface{ appliesDuringLoad() }

// load is one full load of the backend.
type load struct {
	s      *Syncer
	start  time.Time
	held   tracker
	last   time.Time // the latest end
	replay []Update  // carried to the old sets already, to be carried to the new ones
	stuck  bool      // the old sets take nothing
}

// through yields the entries, and those that arrive meanwhile.
func (l *load) through(ctx context.Context, entries iter.Seq[Entry], yield func(Entry) bool) {
	_, mid := l.s.cfg.Backend.(interleaver)
	pass := func(e Entry) bool {
		if e.Until.After(l.start) {
			l.held.add(e)
			if e.Until.After(l.last) {
				l.last = e.Until
			}
		}
		return yield(e)
	}
	n := 0
	for e := range entries {
		if n++; mid && n%loadLook == 0 {
			for _, u := range l.meanwhile(ctx) {
				if !u.Remove && !pass(u.Entry) { // into the new sets too, so that no packet passes after the swap
					return
				}
			}
		}
		if !pass(e) {
			return
		}
	}
}

// meanwhile carries what waits in the inbox to the sets that are in force and returns it.
func (l *load) meanwhile(ctx context.Context) []Update {
	if l.stuck || len(l.replay) >= maxReplay {
		return nil
	}
	s := l.s
	s.mu.Lock()
	in := &s.inbox
	if in.reload || in.fresh.updates+in.bulk.updates == 0 {
		s.mu.Unlock()
		return nil
	}
	updates, waiting := in.all()
	s.mu.Unlock()
	l.replay = append(l.replay, updates...)
	updates = s.coalesce(updates)
	if err := s.cfg.Backend.Apply(ctx, time.Now(), updates); err != nil {
		// The sets may be what the load is to mend. It carries the updates all the same.
		l.stuck = true
		s.work.wait(s, waiting)
		return updates
	}
	s.work.answer(waiting, time.Now().UTC(), nil)
	return updates
}

// putBack puts updates in front of those that wait.
func (s *Syncer) putBack(updates []Update) {
	if len(updates) == 0 {
		return
	}
	s.mu.Lock()
	s.inbox.front(updates, nil)
	s.mu.Unlock()
	s.poke()
}
