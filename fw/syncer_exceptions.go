package fw

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// An entry that contains an exception is enforced only while the kernel holds the exception: if exceptions fail,
// packets pass. So exceptions come before entries, and an entry that overlaps an exception that could not be placed is
// withheld until the exception is placed and a full load follows.

// bringBackEvery is the shortest interval between two full loads that bring back withheld entries, or follow changed
// networks.
const bringBackEvery = 5 * time.Second

// ExceptionsChanged tells the Syncer that [SyncerConfig].Exceptions now returns something else. It returns at once. The
// kernel has the new exceptions before any entry that is submitted afterwards.
func (s *Syncer) ExceptionsChanged() {
	s.mu.Lock()
	s.inbox.exceptions = true
	s.mu.Unlock()
	s.wakeRun()
}

// Withheld reports whether an entry of this prefix is not enforced because the kernel lacks an exception inside or
// around it, or lacked it until a moment ago. It returns that exception.
func (s *Syncer) Withheld(p netip.Prefix) (exception netip.Prefix, ok bool) {
	if unplaced := s.unplaced.Load(); unplaced != nil {
		return unplaced.overlap(p.Masked())
	}
	return netip.Prefix{}, false
}

// excepted is what the holder of the token knows about the exceptions.
type excepted struct {
	placed   Exceptions // what the kernel certainly holds
	known    bool       // the kernel holds nothing else
	unplaced prefixes   // what it should hold beyond that
	withheld tracker    // entries left out because they overlap unplaced

	why     string    // the last failure; "" = there is no room
	failed  int       // failures in a row
	retryAt time.Time // zero = the last try succeeded
}

// except carries changed exceptions to the kernel. If anew is set, the kernel may have lost what it held.
func (s *Syncer) except(ctx context.Context, anew bool) error {
	x := &s.work.except
	s.mu.Lock()
	s.inbox.exceptions = false
	s.mu.Unlock()
	var all Exceptions
	if s.cfg.Exceptions != nil {
		all = s.cfg.Exceptions()
	}
	if s.work.pausing {
		all.Never = allAddresses // Allow stays, so that the end of the pause changes one list
	}
	want, unplaced := all.fit()
	s.work.networks = fitNetworks(all.Networks)
	s.work.splitAnew()
	if anew {
		x.placed = Exceptions{}
	}
	var err error
	if anew || !x.known {
		err = s.cfg.Backend.SetExceptions(ctx, want, nil)
	} else if !want.equal(x.placed) {
		err = s.cfg.Backend.SetExceptions(ctx, want, &x.placed)
	}
	if err == nil {
		x.placed, x.known, x.failed, x.retryAt, x.why = want, true, 0, time.Time{}, ""
		s.paused.Store(s.work.pausing)
	} else {
		// The old or the new list may be in force, so only what is in both is certainly held.
		var not prefixes
		x.placed, not = want.within(x.placed)
		x.known = false
		unplaced = unplaced.union(not)
		x.retryAt = time.Now().Add(min(replaceDelayMax, replaceDelayMin<<min(x.failed, 16)))
		x.failed++
		x.why = err.Error()
		s.failed("could not set the exceptions", err)
	}
	s.leaveOut(ctx, unplaced)
	s.count()
	return err
}

// exceptWhenDue carries exceptions to the kernel if they have changed, or if a retry is due.
func (s *Syncer) exceptWhenDue(ctx context.Context, changed bool) {
	w := &s.work
	if due := w.except.retryAt; !changed && (due.IsZero() || time.Now().Before(due)) {
		return
	}
	err := s.except(ctx, false)
	if errors.Is(err, syscall.ENOENT) && !w.owed {
		w.mending = []string{err.Error()} // a set is gone; do not wait for a check to say so
		_ = s.reload(ctx)
	}
}

// splitAnew schedules a full load if this machine's networks are no longer those that the kernel's entries leave out.
func (w *work) splitAnew() {
	if slices.Equal(w.networks, w.split.networks) {
		return
	}
	at := time.Now()
	if soonest := w.loadedAt.Add(bringBackEvery); soonest.After(at) {
		at = soonest
	}
	w.owe(at)
}

// leaveOut removes from the kernel what overlaps an exception that it does not hold.
func (s *Syncer) leaveOut(ctx context.Context, unplaced prefixes) {
	w, x := &s.work, &s.work.except
	fresh := unplaced.without(x.unplaced)
	x.unplaced = unplaced
	if former := s.unplaced.Load(); former != nil && x.withheld.len() > 0 {
		unplaced = unplaced.union(*former) // what was withheld for those is not back yet
	}
	s.unplaced.Store(&unplaced)
	if out := w.held.overlapping(fresh); len(out) > 0 {
		if err := s.cfg.Backend.Apply(ctx, time.Now(), out); err != nil && !isPartial(err) {
			s.failed("could not take out what contains an exception", err)
			w.owe(time.Now())
		}
		s.note(time.Now(), out, nil)
		for _, u := range out {
			x.withheld.add(u.Entry)
		}
	}
	s.bringBack()
}

// bringBack schedules a full load if something withheld no longer needs to be.
func (s *Syncer) bringBack() {
	w := &s.work
	for e := range w.except.withheld.all {
		if _, still := w.except.unplaced.overlap(e.Prefix); !still {
			w.owe(w.loadedAt.Add(bringBackEvery))
			return
		}
	}
}

// without returns ps without the prefixes that lie inside one of qs.
func (ps prefixes) without(qs prefixes) prefixes {
	_, not := Exceptions{Never: ps}.within(Exceptions{Never: qs})
	return not
}

// withhold turns additions that overlap an exception missing from the kernel into removals, and returns how many.
func (s *Syncer) withhold(updates []Update) (out []Update, left int) {
	x := &s.work.except
	if len(x.unplaced) == 0 {
		return updates, 0
	}
	out = make([]Update, len(updates))
	for i, u := range updates {
		if _, ok := x.unplaced.overlap(u.Prefix.Masked()); !ok || u.Remove {
			x.withheld.remove(u.Entry)
		} else {
			u.Remove = true
			x.withheld.add(u.Entry)
			left++
		}
		out[i] = u
	}
	return out, left
}

// withheldError returns an error that entries are left out, unless something else went wrong.
func withheldError(left int, err error) error {
	if err == nil && left > 0 {
		return &PartialError{Left: left, Why: "an exception inside is not in the kernel"}
	}
	return err
}

// problem says which exceptions the kernel lacks; "" = none.
func (x *excepted) problem() string {
	switch n := x.withheld.len(); {
	case len(x.unplaced) == 0 && n == 0:
		return ""
	case len(x.unplaced) == 0:
		return fmt.Sprintf("%d bans are not enforced yet: the kernel lacked exceptions inside them until just now", n)
	}
	why := x.why
	if why == "" {
		why = fmt.Sprintf("%d prefixes of the never-ban list and %d allowed ones fit", MaxNever, MaxAllow)
	}
	return fmt.Sprintf("the kernel lacks %d exceptions, such as %v (%s): %d bans that contain one are not enforced",
		len(x.unplaced), x.unplaced[0], why, x.withheld.len())
}
