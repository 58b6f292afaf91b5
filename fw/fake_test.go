package fw

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// fake is an in-memory backend. Its hooks, if set, may fail a call or inspect it.
type fake struct {
	mu       sync.Mutex
	held     map[Key]time.Time
	except   Exceptions
	refills  int  // calls of SetExceptions without from
	flushed  bool // somebody emptied the exception sets
	replaces int
	batches  [][]Update
	problems []string
	blind    error // what Check returns

	onReplace, onApply, onExcept func() error

	onCheck  func()
	endings  []time.Time // when expire was called
	endError error       // what expire returns
	room     int         // how many entries fit, if not 0
	closed   bool
}

func newFake() *fake { return &fake{held: map[Key]time.Time{}} }

func (f *fake) Name() string   { return "fake" }
func (f *fake) Traits() Traits { return Traits{} }

func (f *fake) Replace(ctx context.Context, now time.Time, state State) error {
	held := map[Key]time.Time{}
	var refused []Refusal
	for e := range state.Entries {
		if room := get(f, func(f *fake) int { return f.room }); room > 0 && len(held) >= room {
			refused = append(refused, Refusal{e, "no room"})
		} else {
			held[e.Key()] = e.Until
		}
	}
	f.mu.Lock()
	hook := f.onReplace
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	f.held, f.problems = held, nil
	f.replaces++
	return refusedError(refused)
}

func (f *fake) Apply(_ context.Context, now time.Time, updates []Update) error {
	f.mu.Lock()
	hook := f.onApply
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches = append(f.batches, updates)
	var refused []Refusal
	for _, u := range updates {
		_, there := f.held[u.Key()]
		switch {
		case u.Remove:
			delete(f.held, u.Key())
		case f.room > 0 && !there && len(f.held) >= f.room:
			refused = append(refused, Refusal{u.Entry, "no room"})
		default:
			f.held[u.Key()] = u.Until
		}
	}
	return refusedError(refused)
}

func (f *fake) SetExceptions(_ context.Context, x Exceptions, from *Exceptions) error {
	f.mu.Lock()
	hook := f.onExcept
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if from == nil {
		f.except, f.flushed = x, false
		f.refills++
		return nil
	}
	f.except = Exceptions{Never: amended(f.except.Never, from.Never, x.Never), Allow: amended(f.except.Allow, from.Allow, x.Allow)}
	return nil
}

// amended returns list after only the difference between from and to was sent.
func amended(list, from, to prefixes) []netip.Prefix {
	gone, come := from.difference(to)
	left, _ := prefixes(list).difference(gone)
	return sorted(append(left, come...))
}

func (f *fake) Check(context.Context) ([]string, error) {
	f.mu.Lock()
	hook := f.onCheck
	f.mu.Unlock()
	if hook != nil {
		hook()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blind != nil {
		return nil, f.blind
	}
	if f.flushed {
		return append(slices.Clone(f.problems), "the sets of exceptions were emptied"), nil
	}
	return f.problems, nil
}

func (f *fake) Dropped(context.Context) (v4, v6 Dropped, _ error) { return v4, v6, nil }

func (f *fake) Hits(context.Context) (Hits, error) { return nil, ErrNotCounted }

func (f *fake) Close() error { f.closed = true; return nil }

// set changes the fake under its lock.
func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// get reads the fake under its lock.
func get[T any](f *fake, read func(*fake) T) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return read(f)
}

// special is a fake with traits.
type special struct {
	*fake
	traits Traits
}

func (s special) Traits() Traits { return s.traits }

// with returns what makes a fake special.
func with(traits Traits) func(*fake) Backend {
	return func(f *fake) Backend { return special{f, traits} }
}

// ending is a fake that removes ended entries in expire.
type ending struct{ *fake }

func (e ending) expire(_ context.Context, now time.Time) (next time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.endings = append(e.endings, now)
	for key, until := range e.held {
		if !until.After(now) {
			delete(e.held, key)
		} else if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	return next, e.endError
}
