package fw

import (
	"context"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// promptly makes a fake to which callers of Flush carry a few updates, broadly one to which they carry many.
var promptly, broadly = with(Traits{Quick: true}), with(Traits{Quick: true, Slice: 4 * maxInline})

// queue queues updates and returns the answer, which is filled in once there is one.
func (b *bench) queue(updates ...Update) *answer {
	a := &answer{}
	b.Queue(updates, func(at time.Time, err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.reply = reply{a.reply.calls + 1, at, err}
	})
	return a
}

// slow has Apply take a second of the bubble's clock. The clock stands while the test runs, so what Run carries is not
// answered before the test waits.
func slow() error { time.Sleep(time.Second); return nil }

func TestFlushAppliesInTheCaller(t *testing.T) {
	withSyncer(t, promptly, func(b *bench) {
		first, second := b.queue(b.ban("192.0.2.1/32"), b.ban("192.0.2.2/32")), b.queue(b.lift("192.0.2.1/32"))
		b.Flush() // it returns before any other goroutine has run
		for _, a := range []*answer{first, second} {
			if got := a.read(); got.calls != 1 || got.err != nil || got.at.IsZero() {
				t.Errorf("answer %+v", got)
			}
		}
		if st := b.Status(); st.Enforced != 1 || st.Queued != 0 {
			t.Errorf("status %+v", st)
		}
		b.Flush() // nothing to do
		if n := get(b.fake, func(f *fake) int { return len(f.batches) }); n != 1 {
			t.Errorf("%d batches, want 1", n)
		}
	})
}

func TestFlushAppliesOneFrameOfABulkInTheCaller(t *testing.T) {
	withSyncer(t, broadly, func(b *bench) {
		var all []Update
		for i := range 3 * maxInline {
			all = append(all, b.ban(prefixNumber(i).String()))
		}
		one := b.queue(all[:maxInline+1]...)
		b.Flush()
		if got := one.read(); got.calls != 1 || got.err != nil {
			t.Errorf("one: answer %+v", got)
		}
		b.fake.set(func(f *fake) { f.onApply = slow })
		two := []*answer{b.queue(all[maxInline+1 : 2*maxInline]...), b.queue(all[2*maxInline:]...)}
		b.Flush()
		for _, a := range two {
			if got := a.read(); got.calls != 0 {
				t.Errorf("two: answered by the caller: %+v", got)
			}
		}
		b.pass(time.Second)
		if st := b.Status(); st.Enforced != len(all) || st.Queued != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

func TestFlushLeavesToRunWhatIsSlow(t *testing.T) {
	many := func(b *bench) (all []Update) {
		for i := range maxInline + 1 {
			all = append(all, b.ban(prefixNumber(i).String()))
		}
		return all
	}
	for name, test := range map[string]struct {
		backend func(*fake) Backend
		updates func(*bench) []Update
	}{
		"a slow backend": {nil, func(b *bench) []Update { return []Update{b.ban("192.0.2.1/32")} }},
		"many updates":   {promptly, many},
	} {
		t.Run(name, func(t *testing.T) {
			withSyncer(t, test.backend, func(b *bench) {
				b.fake.set(func(f *fake) { f.onApply = slow })
				updates := test.updates(b)
				a := b.queue(updates...)
				b.Flush()
				if got := a.read(); got.calls != 0 {
					t.Errorf("answered by the caller: %+v", got)
				}
				b.pass(time.Second)
				if got := a.read(); got.calls != 1 || got.err != nil {
					t.Errorf("answer %+v", got)
				}
				if st := b.Status(); st.Enforced != len(updates) {
					t.Errorf("%d enforced, want %d", st.Enforced, len(updates))
				}
			})
		})
	}
}

func TestFlushThatFailsIsTriedAgainByRun(t *testing.T) {
	withSyncer(t, promptly, func(b *bench) {
		fails := 1
		b.fake.set(func(f *fake) {
			f.onApply = func() error {
				if fails--; fails >= 0 {
					return syscall.EBUSY
				}
				return slow()
			}
		})
		old := b.queue(b.ban("192.0.2.1/32"))
		b.Flush()
		if got := old.read(); got.calls != 0 {
			t.Errorf("answered although it failed: %+v", got)
		}
		fresh := b.queue(b.ban("192.0.2.2/32"))
		b.Flush()
		b.pass(2 * time.Second) // one after the other
		for _, a := range []*answer{old, fresh} {
			if got := a.read(); got.calls != 1 || got.err != nil {
				t.Errorf("answer %+v", got)
			}
		}
		if st := b.Status(); st.Enforced != 2 || st.Queued != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// asking is a fake whose Check has a slow part.
type asking struct{ special }

func (a asking) checkSets(ctx context.Context) ([]string, error)  { return nil, nil }
func (a asking) checkRules(ctx context.Context) ([]string, error) { return a.Check(ctx) }
func (a asking) marksAll() bool                                   { return false }

// A ban that comes during a check of the rules is in the kernel at once, and what the check finds is still repaired.
func TestFlushDoesNotWaitForACheck(t *testing.T) {
	withSyncer(t, func(f *fake) Backend { return asking{special{f, Traits{Quick: true}}} }, func(b *bench) {
		b.pass(time.Second)
		looking, goOn := make(chan struct{}), make(chan struct{})
		b.fake.set(func(f *fake) {
			f.onCheck = func() { close(looking); <-goOn }
			f.problems = []string{"the jump is missing"}
		})
		<-looking
		a := b.queue(b.ban("192.0.2.1/32"))
		b.Flush()
		if got := a.read(); got.calls != 1 || got.err != nil {
			t.Errorf("answer %+v", got)
		}
		b.fake.set(func(f *fake) { f.onCheck = nil })
		before := b.Status().Repairs
		close(goOn)
		synctest.Wait()
		if st := b.Status(); st.Repairs != before+1 || st.Enforced != 1 || st.Queued != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// A problem that a check saw before a load is not repaired again.
func TestALoadDuringACheckAnswersIt(t *testing.T) {
	withSyncer(t, func(f *fake) Backend { return asking{special{f, Traits{Quick: true}}} }, func(b *bench) {
		looking, goOn := make(chan struct{}), make(chan struct{})
		b.fake.set(func(f *fake) { f.onCheck = func() { close(looking); <-goOn } })
		<-looking
		if err := b.Replace(b.Context()); err != nil {
			t.Fatal(err)
		}
		b.fake.set(func(f *fake) { f.onCheck, f.problems = nil, []string{"seen in the midst of it"} })
		loads := get(b.fake, func(f *fake) int { return f.replaces })
		close(goOn)
		synctest.Wait()
		if n := get(b.fake, func(f *fake) int { return f.replaces }); n != loads {
			t.Errorf("%d loads, want %d", n, loads)
		}
	})
}

func TestFlushDoesNotWaitForALoad(t *testing.T) {
	withSyncer(t, promptly, func(b *bench) {
		loading, goOn := make(chan struct{}), make(chan struct{})
		b.fake.set(func(f *fake) {
			f.onReplace = func() error { close(loading); <-goOn; return nil }
		})
		go func() { _ = b.Replace(b.Context()) }()
		<-loading
		a := b.queue(b.ban("192.0.2.1/32"))
		b.Flush()
		close(goOn)
		synctest.Wait()
		if got := a.read(); got.calls != 1 || got.err != nil {
			t.Errorf("answer %+v", got)
		}
		if st := b.Status(); st.Enforced != 1 {
			t.Errorf("status %+v", st)
		}
	})
}

// prefixNumber returns the i-th address of 198.18.0.0/15.
func prefixNumber(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)
}
