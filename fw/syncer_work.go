package fw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// expirer is a backend whose entries the kernel does not end: it removes ended ones itself, and says when to call it
// again (the zero time = nothing will end).
type expirer interface {
	expire(ctx context.Context, now time.Time) (next time.Time, err error)
}

// parted is a backend whose Check has two parts: a quick one, and one that runs commands and needs nothing that Apply
// changes.
type parted interface {
	checkSets(ctx context.Context) (problems []string, err error)
	checkRules(ctx context.Context) (problems []string, err error)
	// marksAll reports whether every change of the rules changes the mark.
	marksAll() bool
}

// work is the state of whoever holds the owner token.
type work struct {
	held    tracker // what the kernel has taken
	refused refused // what it should hold but does not, except what is withheld
	except  excepted
	pausing bool // nothing is to be dropped
	split   *split
	// networks are this machine's networks; those in split are left out of what the kernel holds.
	networks networks

	waiting []done   // callbacks whose updates have not taken effect
	calls   []func() // calls to make once the token is given back
	mending []string // what Check found; passed to OnRepair once a Replace has repaired it

	owed     bool // the kernel may differ from what it should hold: a Replace is due at retryAt
	failed   int  // Replaces that failed in a row
	crowded  bool // something was removed since the last Replace: a limited backend may have room again
	retryAt  time.Time
	loadedAt time.Time // when the last Replace ended
	checkAt  time.Time
	glanceAt time.Time
	prompted int       // checks in a row triggered by a changed mark
	promptAt time.Time // until then a changed mark triggers none
	mark     string    // the mark at the last check that found nothing wrong
	rearmAt  time.Time // when cut timeouts are to be renewed; zero = none was cut
	expireAt time.Time // when an expirer is to be called; zero = never
}

// next returns the time of the next thing to do without being woken.
func (w *work) next() time.Time {
	next := w.checkAt
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	earlier(w.glanceAt)
	if w.owed {
		earlier(w.retryAt)
	}
	earlier(w.except.retryAt)
	earlier(w.rearmAt)
	earlier(w.expireAt)
	return next
}

// owe schedules a full load for the given time, unless one is due sooner.
func (w *work) owe(at time.Time) {
	if !w.owed || at.Before(w.retryAt) {
		w.owed, w.retryAt = true, at
	}
}

// wait adds callbacks to the waiting ones, up to the bound.
func (w *work) wait(s *Syncer, more []done) {
	room := max(0, MaxWaiting-len(w.waiting))
	if len(more) > room {
		s.mu.Lock()
		s.st.Uncalled += uint64(len(more) - room)
		s.mu.Unlock()
		w.answer(more[room:], time.Now(), ErrWaiting)
		more = more[:room]
	}
	w.waiting = append(w.waiting, more...)
}

// finish answers all waiting callbacks, once the token is given back.
func (w *work) finish(at time.Time, err error) {
	w.answer(w.waiting, at, err)
	w.waiting = nil
}

func (w *work) answer(waiting []done, at time.Time, err error) {
	if len(waiting) > 0 {
		w.calls = append(w.calls, func() {
			for _, done := range waiting {
				done(at, err)
			}
		})
	}
}

// step does everything that is due. The token is held.
func (s *Syncer) step(ctx context.Context) {
	w := &s.work
	now := time.Now()
	s.mu.Lock()
	in := &s.inbox
	if in.reload {
		w.owed, w.retryAt = true, now
	}
	load := w.owed && !now.Before(w.retryAt)
	changed := in.exceptions
	in.reload = false
	slice := s.slice()
	if load {
		slice = MaxQueued
	}
	updates, waiting := in.some(slice)
	rest := len(in.fresh.list)+len(in.bulk.list) > 0
	s.mu.Unlock()
	if rest {
		defer s.wakeRun()
	}
	if load {
		w.wait(s, waiting)
		_ = s.reload(ctx) // counted, kept in Status and retried
		updates, waiting = nil, nil
	}
	s.exceptWhenDue(ctx, changed && !load)
	if len(updates) > 0 || len(waiting) > 0 {
		s.apply(ctx, updates, waiting)
	}
	if now = time.Now(); !w.rearmAt.IsZero() && !now.Before(w.rearmAt) {
		_ = s.reload(ctx)
	}
	if !w.expireAt.IsZero() && !now.Before(w.expireAt) {
		s.expire(ctx)
	}
	if !now.Before(w.checkAt) {
		w.checkAt = now.Add(s.cfg.CheckEvery)
		s.check(ctx)
	}
	if now = time.Now(); !w.glanceAt.IsZero() && !now.Before(w.glanceAt) {
		// On the clock's beat, like everything that the agent does each second, so that an idle processor wakes once.
		w.glanceAt = now.Add(now.Truncate(s.cfg.GlanceEvery).Add(s.cfg.GlanceEvery).Sub(now))
		s.glance(ctx)
	}
}

// slice returns how many updates of a bulk go to the kernel at a time.
func (s *Syncer) slice() int {
	return cmp.Or(s.traits.Slice, MaxQueued)
}

// apply carries a batch to the kernel. If that does not succeed soon, everything is reloaded.
func (s *Syncer) apply(ctx context.Context, updates []Update, waiting []done) {
	w := &s.work
	updates, left, refused := s.carry(coalesce(updates))
	var err error
	var now time.Time
	for try := 0; ; try++ {
		now = time.Now()
		err = alsoRefused(s.cfg.Backend.Apply(ctx, now, updates), refused)
		if err == nil && try > 0 {
			s.succeeded()
		}
		if err == nil || isPartial(err) || !isTemporary(err) || try == applyRetries {
			break
		}
		s.failed("could not apply a batch, trying again", err)
		if !pause(ctx, applyRetryDelay<<try) {
			break
		}
	}
	s.told(err)
	if err != nil && !isPartial(err) {
		s.failed("could not apply a batch", err)
		w.wait(s, waiting)
		if errors.Is(err, syscall.ENOENT) && w.mending == nil {
			w.mending = []string{err.Error()} // a set is gone; do not wait for a check to say so
		}
		if !w.owed {
			_ = s.reload(ctx)
		}
		return
	}
	s.applied(now, updates, waiting, left, err)
	s.expire(ctx)
}

// applied records a batch that the kernel has taken, except what a *PartialError names; left of its entries are
// withheld.
func (s *Syncer) applied(now time.Time, updates []Update, waiting []done, left int, err error) {
	w := &s.work
	at := time.Now().UTC()
	s.note(now, updates, err)
	for _, u := range updates {
		if !u.Remove {
			s.noteClamp(now, u.Until)
		}
		w.crowded = w.crowded || u.Remove
	}
	w.answer(waiting, at, notEnforced(withheldError(left, err)))
	s.count()
}

// note records updates that the kernel has taken, except what a *PartialError names.
func (s *Syncer) note(now time.Time, updates []Update, err error) {
	w := &s.work
	s.books.Lock()
	defer s.books.Unlock()
	for _, u := range updates {
		w.refused.remove(u.Entry)
		if u.Remove || !u.Until.After(now) {
			w.held.remove(u.Entry)
		} else {
			w.held.add(u.Entry)
		}
	}
	w.refuse(err, updates)
}

// refuse records what a *PartialError names. If it names nothing, the last of the updates had no room.
func (w *work) refuse(err error, updates []Update) {
	var partial *PartialError
	if !errors.As(err, &partial) {
		return
	}
	for i, n := len(updates)-1, partial.Left-len(partial.Refused); i >= 0 && n > 0; i-- {
		if u := &updates[i]; !u.Remove {
			w.held.remove(u.Entry)
			w.refused.add(Refusal{u.Entry, partial.Why})
			n--
		}
	}
	for _, x := range partial.Refused {
		w.held.remove(x.Entry)
		w.refused.add(x)
	}
}

// Holds reports whether the kernel has taken an entry that it should hold. If not, why says what prevents it, and is
// empty if the entry is only waiting its turn.
func (s *Syncer) Holds(e Entry) (ok bool, why string) {
	if s.cfg.Backend.Name() == NameNone {
		return false, whyNone
	}
	if s.paused.Load() {
		return false, WhyPaused
	}
	if x, withheld := s.Withheld(e.Prefix); withheld {
		return false, fmt.Sprintf("the kernel does not hold the exception %v inside or around it", x)
	}
	s.books.RLock()
	ok, why = s.work.holds(e)
	s.books.RUnlock()
	if ok || why != "" {
		return ok, why
	}
	return false, s.Behind()
}

// holds reports whether the kernel has taken an entry, or all its parts. why is empty if it is only waiting its turn.
func (w *work) holds(e Entry) (ok bool, why string) {
	if why = w.refused.why(e); why != "" || !w.split.concerns(e.Prefix) {
		return w.held.has(e), why
	}
	parts := w.split.networks.parts(nil, e.Prefix.Masked())
	if len(parts) == 0 {
		return false, whyNetwork
	}
	for _, e.Prefix = range parts {
		if why = w.refused.why(e); why != "" || !w.held.has(e) {
			return false, why
		}
	}
	return true, ""
}

// Behind returns why the last full load failed, in which case the kernel may not hold what it should; "" = it did not
// fail.
func (s *Syncer) Behind() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.behind {
		return s.st.LastError
	}
	return ""
}

// check looks at the kernel and repairs what is not as it should be.
func (s *Syncer) check(ctx context.Context) {
	w := &s.work
	mark := ""
	if g, ok := s.cfg.Backend.(glancer); ok {
		_, mark, _ = g.glance(ctx) // taken first, so that a change during the look is noticed later
	}
	problems, err := s.look(ctx, mark != "" && mark == w.mark)
	if err == nil && len(problems) == 0 {
		problems, err = s.verify(ctx)
	}
	s.mu.Lock()
	s.st.Checks++
	s.mu.Unlock()
	if err != nil {
		s.failed("could not check the firewall", err)
		return
	}
	switch {
	case len(problems) > 0:
		s.mend(ctx, problems)
	case w.crowded && w.refused.len() > 0:
		_ = s.reload(ctx) // there may be room for entries that had none
	default:
		w.mark = mark
		s.succeeded()
	}
}

// look asks the backend what is wrong. same means that the mark is that of the last check that found nothing wrong.
// look releases the token while commands run, which takes 10 ms or more, so that callers of Flush need not wait for
// that.
func (s *Syncer) look(ctx context.Context, same bool) (problems []string, err error) {
	b, ok := s.cfg.Backend.(parted)
	if !ok {
		return s.cfg.Backend.Check(ctx)
	}
	if problems, err = b.checkSets(ctx); err != nil {
		return nil, err
	}
	if same && b.marksAll() {
		return problems, nil
	}
	before := s.Status().Replaces
	s.release()
	more, err := b.checkRules(ctx)
	<-s.owner // its holder returns it
	if s.Status().Replaces != before {
		return nil, nil // what was seen may be older than that load, or from the middle of it
	}
	return append(problems, more...), err
}

// errVoid ends a load that has yielded entries whose exceptions could not be placed.
var errVoid = errors.New("exceptions that arrived during the load do not fit; it starts again")

// reload replaces everything the kernel holds with a fresh snapshot.
func (s *Syncer) reload(ctx context.Context) error {
	w := &s.work
	start := time.Now()
	_ = s.except(ctx, w.mending != nil) // entries whose exceptions are not in force then are withheld, and tried again
	state := s.cfg.Snapshot()
	loading, void := context.WithCancel(ctx)
	defer void()
	l := load{s: s, start: start, void: void, split: newSplit(w.networks)}
	if entries := state.Entries; entries != nil {
		state.Entries = func(yield func(Entry) bool) { l.through(ctx, entries, yield) }
		state.Meanwhile = func(yield func(Entry) bool) { l.between(ctx, yield) }
	} else {
		state.Entries = func(func(Entry) bool) {}
	}
	err := alsoRefused(s.cfg.Backend.Replace(loading, start, state), l.refused)
	now := time.Now()
	if loading.Err() != nil && ctx.Err() == nil {
		err = errVoid
	}
	if err != nil && !isPartial(err) {
		w.owed = true
		w.retryAt = now.Add(min(replaceDelayMax, replaceDelayMin<<min(w.failed, 16)))
		w.rearmAt = time.Time{} // the retry sets it again
		w.failed++
		s.failed("could not load the firewall", err)
		s.fellBehind(true)
		if w.failed >= giveUpAfter {
			w.finish(now.UTC(), err)
		}
		return err
	}
	w.except.withheld, w.owed, w.failed, w.crowded = l.kept, false, 0, false
	s.books.Lock()
	w.held, w.refused, w.split = l.held, make(refused), l.split
	w.refuse(err, nil)
	s.books.Unlock()
	s.fellBehind(false)
	w.rearmAt, w.loadedAt = time.Time{}, now
	s.noteClamp(start, l.last)
	w.splitAnew() // if the networks changed meanwhile
	unplaced := w.except.unplaced
	s.unplaced.Store(&unplaced)
	s.bringBack()
	s.putBack(l.replay)
	s.mu.Lock()
	s.partly, s.trouble = "", ""
	s.st.Replaces++
	s.st.LastReplace = now.Sub(start)
	if w.mending != nil {
		s.st.Repairs++
	}
	s.mu.Unlock()
	s.told(err)
	if w.mending != nil && s.cfg.OnRepair != nil {
		problems, tell := w.mending, s.cfg.OnRepair
		w.calls = append(w.calls, func() { tell(problems) })
	}
	w.mending = nil
	w.finish(now.UTC(), notEnforced(err))
	s.count()
	s.expire(ctx)
	return nil
}

// noteClamp schedules the renewal of a timeout that the kernel cannot hold in full, for half the kernel's limit.
func (s *Syncer) noteClamp(now, until time.Time) {
	if most := s.traits.MaxTimeout; most > 0 && s.work.rearmAt.IsZero() && until.Sub(now) > most {
		s.work.rearmAt = now.Add(most / 2)
	}
}

// expire has a backend remove what the kernel would keep for ever.
func (s *Syncer) expire(ctx context.Context) {
	e, ok := s.cfg.Backend.(expirer)
	if !ok {
		return
	}
	now := time.Now()
	next, err := e.expire(ctx, now)
	if err != nil {
		s.failed("could not remove entries that have ended", err)
		if !s.work.owed {
			s.work.owed, s.work.retryAt = true, s.work.checkAt // not sooner: a successful load may fail here again
		}
		next = time.Time{}
	}
	s.work.expireAt = next
}

// count updates the figures of Status. Missing room or missing exceptions are a problem for as long as they last.
func (s *Syncer) count() {
	w := &s.work
	withheld := w.except.withheld.len()
	enforced := w.held.len() - w.split.surplus()
	not := withheld + w.refused.len() + len(w.split.whole)
	if s.cfg.Backend.Name() == NameNone || s.paused.Load() {
		enforced, not = 0, enforced+not
	}
	problem := cmp.Or(w.except.problem(), w.refused.problem(), w.split.problem())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.Enforced, s.st.NotEnforced, s.st.Withheld = enforced, not, withheld
	if problem != "" && problem != s.lasting {
		s.st.LastErrorAt = time.Now().UTC().Truncate(time.Millisecond)
	}
	if problem != "" && s.lasting == "" {
		s.cfg.Logger.Warn("the firewall does not hold all bans", "problem", problem)
	}
	s.lasting = problem
}

// coalesce keeps the last update of each key, in order.
func coalesce(updates []Update) []Update {
	if len(updates) < 2 {
		return updates
	}
	last := make(map[Key]int, len(updates))
	for i, u := range updates {
		last[u.Key()] = i
	}
	if len(last) == len(updates) {
		return updates
	}
	out := make([]Update, 0, len(last))
	for i, u := range updates {
		if last[u.Key()] == i {
			out = append(out, u)
		}
	}
	return out
}

func isPartial(err error) bool {
	var partial *PartialError
	return errors.As(err, &partial)
}

// notEnforced returns err, or nil if err is a *PartialError that leaves no entry unenforced.
func notEnforced(err error) error {
	var partial *PartialError
	if errors.As(err, &partial) && partial.Left == 0 {
		return nil
	}
	return err
}

// isTemporary reports whether the same call may succeed in a moment.
func isTemporary(err error) bool {
	for _, t := range []error{ErrLocked, syscall.EBUSY, syscall.EAGAIN, syscall.EINTR, syscall.ENOBUFS} {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// pause waits for d and reports true, or returns false as soon as ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
