package fw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a [Syncer].
const (
	// MaxQueued bounds the updates that wait for the kernel; beyond it they are dropped and a full Replace does their
	// work.
	MaxQueued = 65536
	// MaxWaiting bounds the callbacks that wait for their updates; beyond it they are refused or get ErrWaiting, and
	// are counted.
	MaxWaiting = 65536
	// DefaultCheckEvery is the time between two thorough checks of the kernel.
	DefaultCheckEvery = 30 * time.Second
	// DefaultGlanceEvery is the time between two glances, which notice that a set was emptied or that rules changed.
	DefaultGlanceEvery = time.Second

	applyRetries    = 3                    // further tries of a batch that failed temporarily
	applyRetryDelay = 2 * time.Millisecond // before the first of them; doubles
	replaceDelayMin = 100 * time.Millisecond
	replaceDelayMax = 30 * time.Second
	giveUpAfter     = 5 // failed Replaces in a row after which waiting callbacks get the error; the tries go on
)

var (
	// ErrStopped is what a waiting callback gets if Run ends first.
	ErrStopped = errors.New("the firewall task has stopped")
	// ErrWaiting is what a callback gets if too many wait.
	ErrWaiting = errors.New("too many changes are waiting for the kernel")
)

// SyncerConfig is what a [Syncer] needs. Backend and Snapshot are required.
type SyncerConfig struct {
	Backend Backend
	// Snapshot returns everything that should be enforced. It is called with no lock of this package held, and again
	// for each full reload. It must reflect every update submitted before; updates submitted while its entries are read
	// are applied afterwards, so it may or may not reflect those.
	Snapshot func() State
	// Exceptions, if set, returns what is never dropped. It is called in the same way, and must be no older than the
	// entries submitted or returned by Snapshot before.
	Exceptions  func() Exceptions
	Paused      bool          // start as after Pause
	CheckEvery  time.Duration // 0 = DefaultCheckEvery
	GlanceEvery time.Duration // 0 = DefaultGlanceEvery
	Logger      *slog.Logger  // nil = silent
	// OnRepair, if set, is told what was repaired after the kernel had lost something of ours.
	OnRepair func(problems []string)
}

func (c *SyncerConfig) validate() error {
	if c.Backend == nil {
		return errors.New("firewall: no backend")
	}
	if c.Snapshot == nil {
		return errors.New("firewall: no snapshot")
	}
	if c.CheckEvery < 0 || c.GlanceEvery < 0 {
		return fmt.Errorf("firewall: check every %v, glance every %v: must be positive", c.CheckEvery, c.GlanceEvery)
	}
	c.CheckEvery = cmp.Or(c.CheckEvery, DefaultCheckEvery)
	c.GlanceEvery = cmp.Or(c.GlanceEvery, DefaultGlanceEvery)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Status is what a [Syncer] reports about itself. Counters start when it is created.
type Status struct {
	Backend     string
	Enforced    int // entries that the kernel holds
	NotEnforced int // entries that it should hold but does not, Withheld included
	Withheld    int // entries left out because an exception inside or around them is not in the kernel
	Queued      int // updates that wait

	Checks    uint64 // checks of the kernel
	Repairs   uint64 // times that something of ours was missing and was restored
	Replaces  uint64 // full reloads that succeeded
	Failures  uint64 // calls of the backend that failed, retries included
	Overflows uint64 // times that the queue was full
	Uncalled  uint64 // callbacks that were refused, or got ErrWaiting, because too many waited

	Paused      bool      // the kernel drops nothing: see Pause
	Unsavable   bool      // `nft list ruleset` prints the rules in a form that cannot be loaded again
	LetsThrough string    // which packets cannot be dropped on this machine, and why; "" = none
	Problem     string    // what is wrong now; "" = nothing
	LastError   string    // the last thing that went wrong, or still is; "" = nothing yet
	LastErrorAt time.Time // UTC, ms
	LastReplace time.Duration
}

// Syncer makes the kernel agree with what is banned. Submit, ExceptionsChanged and Status never block and may be called
// from any goroutine. Run does the work, except for what a caller of Flush or Replace does.
type Syncer struct {
	cfg    SyncerConfig
	traits Traits

	// wake holds at most one wake-up. Run receives; all others only send, without blocking; nobody closes it. If it is
	// full, Run is about to look anyway.
	wake chan struct{}
	// owner holds one token, which allows its holder to use the backend and work: Run for each step, Flush for a few
	// updates, Replace for its duration.
	owner chan struct{}
	work  work
	// unplaced holds the exceptions that the kernel lacks; nil = none.
	unplaced atomic.Pointer[prefixes]
	paused   atomic.Bool // the kernel has taken the exception for everything
	// books guards work.held, work.refused and work.split for readers without the token.
	books sync.RWMutex
	// counting is held while all counters are read, so that many who ask take one processor at most.
	counting sync.Mutex

	mu      sync.Mutex
	inbox   inbox
	st      Status
	lasting string // what is wrong until something changes; "" = nothing
	partly  string // what the last full load, or a batch since, has left undone
	trouble string // what failed and has not succeeded since
	behind  bool   // the last load failed
}

// done is called when a submission has taken effect in the kernel, or has been given up.
type done func(at time.Time, err error)

// inbox is what has arrived but has not been taken.
type inbox struct {
	fresh      queue // small updates whose prefixes are not in the bulk: they go first
	bulk       queue
	exceptions bool // the exceptions have changed
	reload     bool // updates were dropped: everything is to be reloaded
	closed     bool // Run has ended
}

// NewSyncer checks the config. It starts nothing and leaves the kernel alone.
func NewSyncer(cfg SyncerConfig) (*Syncer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Syncer{cfg: cfg, wake: make(chan struct{}, 1), owner: make(chan struct{}, 1)}
	s.st.Backend = cfg.Backend.Name()
	s.traits = cfg.Backend.Traits()
	s.st.LetsThrough, s.st.Unsavable = s.traits.LetsThrough, s.traits.Unsavable
	if b, ok := cfg.Backend.(counting); ok {
		b.counts(&s.work.held)
	}
	s.work.pausing = cfg.Paused
	s.work.refused, s.work.split = make(refused), newSplit(nil)
	s.owner <- struct{}{}
	return s, nil
}

// Dropped says what the kernel has dropped for each family. It begins at 0 whenever the rules are written anew.
func (s *Syncer) Dropped(ctx context.Context) (v4, v6 Dropped, err error) {
	return s.cfg.Backend.Dropped(ctx)
}

// Submit queues updates for the kernel and returns at once; their Ports must not be modified afterwards. If done is not
// nil it is called exactly once: with the time at which all the updates were in the kernel (UTC, with a monotonic
// reading), or with the error for which they were given up. A *PartialError may be about another update of the same
// batch. Run, Flush or Replace calls done, with no lock held; done must not call Replace. done
// is not called after one of two errors: ErrWaiting if MaxWaiting callbacks are already waiting (the updates are queued
// nevertheless), or ErrStopped if Run has ended.
func (s *Syncer) Submit(updates []Update, done func(at time.Time, err error)) error {
	err := s.Queue(updates, done)
	if !errors.Is(err, ErrStopped) {
		s.wakeRun()
	}
	return err
}

// Queue does what Submit does without waking Run: a call of Flush must follow soon.
func (s *Syncer) Queue(updates []Update, done func(at time.Time, err error)) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &s.inbox
	if in.closed {
		return ErrStopped
	}
	if done != nil && in.fresh.waiting+in.bulk.waiting >= MaxWaiting {
		done, err = nil, ErrWaiting
		s.st.Uncalled++
	}
	switch {
	case in.reload:
		updates = nil // the coming Replace covers these too
	case in.fresh.updates+in.bulk.updates+len(updates) > MaxQueued:
		in.bulk.drop()
		in.fresh.drop()
		updates, in.reload = nil, true
		s.st.Overflows++
	}
	if in.passes(updates) {
		in.fresh.put(updates, done)
	} else {
		in.bulk.put(updates, done)
	}
	return err
}

// Replace reloads everything from Snapshot and returns when the kernel holds it, or as much of it as the backend has
// room for: the rest is in Status. It works with or without Run. The caller must not hold a lock that Snapshot takes.
// If Replace fails, Run keeps trying.
func (s *Syncer) Replace(ctx context.Context) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	waiting := s.take()
	s.work.wait(s, waiting)
	err := s.reload(ctx)
	s.release()
	s.wakeRun() // Run recomputes its next deadline
	return err
}

// Status returns the current state.
func (s *Syncer) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.st
	st.Problem = strings.Join(slices.DeleteFunc([]string{s.lasting, s.partly, s.trouble}, func(p string) bool { return p == "" }), "; ")
	switch {
	case s.lasting != "" && st.LastError != "":
		st.LastError = s.lasting + "; last error: " + st.LastError
	case s.lasting != "":
		st.LastError = s.lasting
	}
	st.Paused = s.paused.Load()
	st.Queued = s.inbox.fresh.updates + s.inbox.bulk.updates
	return st
}

// Run serves until ctx ends, and then returns nil with nothing left running. The kernel keeps what it has.
func (s *Syncer) Run(ctx context.Context) error {
	timer := time.NewTimer(min(s.cfg.CheckEvery, s.cfg.GlanceEvery))
	defer timer.Stop()
	defer s.stop()
	if err := s.acquire(ctx); err != nil {
		return nil
	}
	s.work.checkAt = time.Now().Add(s.cfg.CheckEvery)
	if _, ok := s.cfg.Backend.(glancer); ok {
		s.work.glanceAt = time.Now().Add(s.cfg.GlanceEvery)
	}
	s.release()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		if err := s.acquire(ctx); err != nil {
			return nil
		}
		s.step(ctx)
		next := s.work.next()
		s.release()
		timer.Reset(time.Until(next))
	}
}

func (s *Syncer) wakeRun() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// acquire takes the token, waiting for its holder until ctx ends.
func (s *Syncer) acquire(ctx context.Context) error {
	select {
	case <-s.owner:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release gives the token back and then makes the calls that the step left.
func (s *Syncer) release() {
	calls := s.work.calls
	s.work.calls = nil
	s.owner <- struct{}{}
	for _, call := range calls {
		call()
	}
}

// take empties the inbox, because a load covers everything in it, and returns the waiting callbacks.
func (s *Syncer) take() []done {
	s.mu.Lock()
	defer s.mu.Unlock()
	var waiting []done
	for _, q := range [2]queue{s.inbox.fresh, s.inbox.bulk} {
		for _, sub := range q.list {
			if sub.done != nil {
				waiting = append(waiting, sub.done)
			}
		}
	}
	s.inbox = inbox{closed: s.inbox.closed}
	return waiting
}

// stop refuses further submissions and answers the waiting ones.
func (s *Syncer) stop() {
	<-s.owner
	s.mu.Lock()
	s.inbox.closed = true
	s.mu.Unlock()
	waiting := s.take()
	s.work.wait(s, waiting)
	s.work.finish(time.Now(), ErrStopped)
	s.release()
}
