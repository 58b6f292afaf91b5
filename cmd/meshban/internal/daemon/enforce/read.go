package enforce

import (
	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/fw"
)

// Chunk is how many entries are processed under one hold of the lock: about 0.1 ms, which a fresh ban may have to wait
// each time.
const Chunk = 256

// View calls f with the lock held. f must not change the table.
func (s *State) View(f func(*ban.Table)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.table)
}

// Pause lets others have the lock for a moment. It is for an f of View that works in slices; the table may have changed
// when it returns.
func (s *State) Pause() {
	s.mu.Unlock()
	GiveWay()
	s.mu.Lock()
}

// Counts returns the table's counts.
func (s *State) Counts() (c ban.Counts) {
	s.View(func(t *ban.Table) { c = t.Counts() })
	return c
}

// Snapshot returns all that the kernel should hold. Its entries are read in chunks, so that bans go on meanwhile.
func (s *State) Snapshot() fw.State {
	return fw.State{
		Len: s.Counts().Active,
		Entries: func(yield func(fw.Entry) bool) {
			rules := make([]ban.Rule, 0, Chunk)
			for cursor, more := uint32(0), true; more; more = cursor != 0 {
				s.View(func(t *ban.Table) { rules, cursor = t.EnforcedAfter(cursor, Chunk, rules[:0]) })
				GiveWay()
				for _, r := range rules {
					if !yield(Entry(r)) {
						return
					}
				}
			}
		},
	}
}

// Exceptions returns what the kernel should never drop, except for this machine's networks.
func (s *State) Exceptions() fw.Exceptions {
	var all ban.Exceptions
	s.View(func(t *ban.Table) { all = t.Exceptions() })
	never, allow := all.Lists()
	return fw.Exceptions{Never: never, Allow: allow}
}

// Entries calls yield with each entry of the table, holding the lock only while a chunk is copied. An entry that changes
// meanwhile is seen before or after its change.
func (s *State) Entries(yield func(ban.Entry) bool) {
	var chunk []ban.Entry
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		s.View(func(t *ban.Table) { chunk, cursor = t.EntriesAfter(cursor, Chunk, chunk[:0]) })
		GiveWay()
		for _, e := range chunk {
			if !yield(e) {
				return
			}
		}
	}
}

// Held calls yield, without the lock, with the records that wait for the operator, a chunk at a time, until yield returns
// an error.
func (s *State) Held(yield func([]ban.Record) error) error {
	var records []ban.Record
	for cursor, more := 0, true; more; more = cursor != 0 {
		s.View(func(t *ban.Table) { records, cursor = t.HeldBefore(cursor, Chunk) })
		GiveWay()
		if err := yield(records); err != nil {
			return err
		}
	}
	return nil
}
