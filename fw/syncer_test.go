package fw

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// bench is a Syncer that runs over a fake, in a synctest bubble.
type bench struct {
	*testing.T
	*Syncer
	fake *fake

	mu       sync.Mutex
	want     map[Key]Entry // what Snapshot returns
	never    []netip.Prefix
	allow    []netip.Prefix
	networks []netip.Prefix
	snapped  int
	repaired [][]string
}

// withSyncer runs a test in a bubble, with Run going until it ends.
func withSyncer(t *testing.T, backend func(*fake) Backend, f func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, fake: newFake(), want: map[Key]Entry{}}
		var over Backend = b.fake
		if backend != nil {
			over = backend(b.fake)
		}
		s, err := NewSyncer(SyncerConfig{
			Backend: over,
			Snapshot: func() State {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.snapped++
				return State{Entries: slices.Values(slices.Collect(maps.Values(b.want))), Len: len(b.want)}
			},
			Exceptions: func() Exceptions {
				b.mu.Lock()
				defer b.mu.Unlock()
				return Exceptions{Never: slices.Clone(b.never), Allow: slices.Clone(b.allow), Networks: slices.Clone(b.networks)}
			},
			OnRepair: func(problems []string) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.repaired = append(b.repaired, problems)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		b.Syncer = s
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		f(b)
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// ban returns an entry for an hour, and adds it to what Snapshot returns.
func (b *bench) ban(s string) Update {
	p := netip.MustParsePrefix(s)
	e := Entry{Prefix: p, Until: time.Now().Add(time.Hour)}
	b.keep(e)
	return Update{Entry: e}
}

// keep adds an entry to what Snapshot returns.
func (b *bench) keep(e Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.want[e.Key()] = e
}

// snaps returns how often Snapshot was called.
func (b *bench) snaps() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snapped
}

// told returns what OnRepair was told.
func (b *bench) told() [][]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.repaired
}

func (b *bench) lift(s string) Update {
	e := Entry{Prefix: netip.MustParsePrefix(s)}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.want, e.Key())
	return Update{Entry: e, Remove: true}
}

// submit submits updates and returns the answer, which is filled in once there is one.
func (b *bench) submit(updates ...Update) *answer {
	a := &answer{}
	b.Submit(updates, func(at time.Time, err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.reply = reply{a.reply.calls + 1, at, err}
	})
	return a
}

// answer records the reply to a submission.
type answer struct {
	mu    sync.Mutex
	reply reply
}

type reply struct {
	calls int
	at    time.Time
	err   error
}

func (a *answer) read() reply {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reply
}

func (b *bench) expect(what string, got, want any) {
	b.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// pass lets virtual time go by.
func (b *bench) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (b *bench) held() int { return get(b.fake, func(f *fake) int { return len(f.held) }) }

func TestSubmitIsCarriedOutAtOnceAndTogether(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		start := time.Now()
		first := b.submit(b.ban("192.0.2.1/32"))
		synctest.Wait()
		b.expect("answers", first.read().calls, 1)
		b.expect("error", first.read().err, nil)
		b.expect("virtual time gone by", first.read().at.Sub(start), time.Duration(0))
		b.expect("held", b.held(), 1)

		busy := make(chan struct{})
		b.fake.set(func(f *fake) { f.onApply = func() error { <-busy; return nil } })
		b.submit(b.ban("192.0.2.2/32"))
		synctest.Wait()
		var answers []*answer
		for i := range 10 {
			answers = append(answers, b.submit(b.ban(fmt.Sprintf("198.51.100.%d/32", i)), b.ban("192.0.2.3/32")))
		}
		b.expect("queued", b.Status().Queued, 20)
		close(busy)
		synctest.Wait()
		b.expect("batches", get(b.fake, func(f *fake) int { return len(f.batches) }), 3)
		b.expect("the last batch, each key once", get(b.fake, func(f *fake) int { return len(f.batches[2]) }), 11)
		for _, a := range answers {
			b.expect("answers", a.read().calls, 1)
		}
		b.expect("enforced", b.Status().Enforced, 13)
		b.submit(b.lift("192.0.2.1/32"), b.lift("192.0.2.99/32"))
		synctest.Wait()
		b.expect("enforced after removal", b.Status().Enforced, 12)
	})
}

func TestLastUpdateOfAKeyWins(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		b.submit(b.ban("192.0.2.1/32"), b.lift("192.0.2.1/32"), b.ban("192.0.2.2/32"), b.lift("192.0.2.3/32"), b.ban("192.0.2.3/32"))
		synctest.Wait()
		b.expect("held", b.held(), 2)
		b.expect("enforced", b.Status().Enforced, 2)
	})
}

func TestBusyKernelIsTriedAgain(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		var tries atomic.Int32
		b.fake.set(func(f *fake) {
			f.onApply = func() error {
				if tries.Add(1) <= 2 {
					return fmt.Errorf("swap: %w", syscall.EBUSY)
				}
				return nil
			}
		})
		a := b.submit(b.ban("192.0.2.1/32"))
		b.pass(time.Second)
		b.expect("tries", tries.Load(), 3)
		b.expect("error", a.read().err, nil)
		b.expect("answers", a.read().calls, 1)
		b.expect("full loads", b.snaps(), 0)
		st := b.Status()
		b.expect("failures", st.Failures, 2)
		if !strings.Contains(st.LastError, "swap") {
			b.Errorf("last error %q", st.LastError)
		}
	})
}

func TestBatchThatFailsEndsInAFullLoad(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		b.fake.set(func(f *fake) { f.onApply = func() error { return syscall.ENOENT } })
		a := b.submit(b.ban("192.0.2.1/32"))
		synctest.Wait()
		b.expect("error", a.read().err, nil)
		b.expect("held", b.held(), 1)
		b.expect("full loads", b.Status().Replaces, 1)
		b.expect("enforced", b.Status().Enforced, 1)
		b.expect("repairs, for a set was gone", b.Status().Repairs, 1)
	})
}

func TestFullLoadThatFailsBacksOffAndGivesUpTheWaiting(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		broken := errors.New("no kernel today")
		var loads atomic.Int32
		b.fake.set(func(f *fake) {
			f.onApply = func() error { return broken }
			f.onReplace = func() error { loads.Add(1); return broken }
		})
		a := b.submit(b.ban("192.0.2.1/32"))
		b.pass(1400 * time.Millisecond) // 0, 100, 300, 700 ms
		b.expect("loads", loads.Load(), 4)
		b.expect("answers", a.read().calls, 0)
		b.pass(200 * time.Millisecond) // 1500 ms
		b.expect("answers", a.read().calls, 1)
		b.expect("error", errors.Is(a.read().err, broken), true)
		b.pass(10 * time.Minute)
		if n := loads.Load(); n > 4+10+20 {
			b.Errorf("%d loads in ten minutes", n)
		}
		b.fake.set(func(f *fake) { f.onApply, f.onReplace = nil, nil })
		b.pass(replaceDelayMax + time.Second)
		b.expect("held once it works again", b.held(), 1)
		b.expect("enforced", b.Status().Enforced, 1)
		b.expect("answers", a.read().calls, 1)
	})
}

func TestOverflowEndsInAFullLoad(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		busy := make(chan struct{})
		b.fake.set(func(f *fake) { f.onApply = func() error { <-busy; return nil } })
		first := b.submit(b.ban("192.0.2.1/32"))
		synctest.Wait()
		var many []Update
		for i := range MaxQueued/2 + 1 {
			e := Entry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), Until: time.Now().Add(time.Hour)}
			b.keep(e)
			many = append(many, Update{Entry: e})
		}
		one, two, three := b.submit(many...), b.submit(many...), b.submit(many...)
		b.expect("queued", b.Status().Queued, 0)
		b.fake.set(func(f *fake) { f.onApply = nil })
		close(busy)
		synctest.Wait()
		for _, a := range []*answer{first, one, two, three} {
			b.expect("answers", a.read().calls, 1)
			b.expect("error", a.read().err, nil)
		}
		b.expect("held", b.held(), len(b.want))
		b.expect("overflows", b.Status().Overflows, 1)
		b.expect("full loads", b.snaps(), 1)
	})
}

func TestStopAnswersTheWaiting(t *testing.T) {
	var a *answer
	var s *Syncer
	withSyncer(t, nil, func(b *bench) {
		b.fake.set(func(f *fake) {
			f.onApply = func() error { return syscall.ENODEV }
			f.onReplace = f.onApply
		})
		a, s = b.submit(b.ban("192.0.2.1/32")), b.Syncer
		synctest.Wait()
	})
	if got := a.read(); got.calls != 1 || !errors.Is(got.err, ErrStopped) {
		t.Errorf("answer %+v", got)
	}
	s.Submit(nil, func(time.Time, error) { t.Error("called after the end") })
}

func TestReplaceWorksWithoutRun(t *testing.T) {
	f := newFake()
	e := Entry{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Until: time.Now().Add(time.Hour)}
	s, err := NewSyncer(SyncerConfig{Backend: f, Snapshot: func() State {
		return State{Entries: slices.Values([]Entry{e, e, {Prefix: e.Prefix, Until: time.Now()}})}
	}})
	if err != nil {
		t.Fatal(err)
	}
	called := 0
	s.Submit([]Update{{Entry: e}}, func(_ time.Time, err error) { called++ })
	if err := s.Replace(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); called != 1 || st.Enforced != 1 || st.Queued != 0 || st.Backend != "fake" {
		t.Errorf("called %d, status %+v", called, st)
	}
}

// A callback without room used to be never called, so that its caller waited forever.
func TestCallbacksBeyondTheBoundAreToldSo(t *testing.T) {
	withSyncer(t, func(f *fake) Backend { return f }, func(b *bench) {
		broken := errors.New("no such table")
		b.fake.set(func(f *fake) {
			f.onApply = func() error { return broken }
			f.onReplace = f.onApply
		})
		var calls, full int
		done := func(_ time.Time, err error) {
			if calls++; errors.Is(err, ErrWaiting) {
				full++
			}
		}
		u := b.ban("192.0.2.1/32")
		if err := b.Submit([]Update{u}, done); err != nil {
			t.Error(err)
		}
		synctest.Wait() // the callback waits for a load that succeeds
		<-b.owner
		for range MaxWaiting {
			if err := b.Submit(nil, done); err != nil {
				t.Fatal(err)
			}
		}
		b.expect("one more", b.Submit(nil, done), ErrWaiting)
		b.release()
		b.fake.set(func(f *fake) { f.onApply, f.onReplace = nil, nil })
		b.pass(replaceDelayMax)
		b.expect("calls", calls, 1+MaxWaiting)
		b.expect("uncalled", b.Status().Uncalled, uint64(1+full))
	})
}
