package fw

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCheckMendsAndTells(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		b.submit(b.ban("192.0.2.1/32"))
		b.pass(DefaultCheckEvery + time.Second)
		b.expect("checks", b.Status().Checks, 1)
		b.expect("repairs", b.Status().Repairs, 0)
		b.fake.set(func(f *fake) { f.held, f.problems = map[Key]time.Time{}, []string{"the set is missing"} })
		b.pass(DefaultCheckEvery)
		b.expect("repairs", b.Status().Repairs, 1)
		b.expect("told", b.told(), [][]string{{"the set is missing"}})
		b.expect("held", b.held(), 1)
		b.pass(10 * DefaultCheckEvery)
		b.expect("repairs", b.Status().Repairs, 1)
	})
}

func TestRepairThatFailsIsCountedWhenItSucceeds(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		b.fake.set(func(f *fake) {
			f.problems = []string{"gone"}
			f.onReplace = func() error { return errors.New("locked") }
		})
		b.pass(DefaultCheckEvery + time.Second)
		b.expect("repairs", b.Status().Repairs, 0)
		b.fake.set(func(f *fake) { f.onReplace = nil })
		b.pass(5 * time.Second)
		b.expect("repairs", b.Status().Repairs, 1)
		b.expect("told", len(b.told()), 1)
	})
}

func TestAllowedPrefixesAreSetAndComeWithAFullLoad(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		allow := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28")}
		b.mu.Lock()
		b.allow = allow
		b.mu.Unlock()
		b.ExceptionsChanged()
		synctest.Wait()
		b.expect("allowed", get(b.fake, func(f *fake) []netip.Prefix { return f.except.Allow }), allow)
		b.fake.set(func(f *fake) { f.except, f.flushed = Exceptions{}, true })
		b.pass(DefaultCheckEvery)
		b.expect("allowed", get(b.fake, func(f *fake) []netip.Prefix { return f.except.Allow }), allow)
	})
}

func TestTimeoutsThatTheKernelCutsAreSetAnew(t *testing.T) {
	const longest = 24 * time.Hour
	withSyncer(t, with(Traits{MaxTimeout: longest}), func(b *bench) {
		b.submit(b.ban("192.0.2.1/32")) // an hour: nothing to do
		b.pass(longest)
		b.expect("full loads", b.snaps(), 0)
		long := b.ban("192.0.2.2/32")
		long.Until = time.Now().Add(3 * longest)
		b.keep(long.Entry)
		b.submit(long)
		b.pass(longest/2 + time.Second)
		b.expect("full loads by half of the longest timeout", b.snaps(), 1)
		b.pass(longest/2 + time.Second)
		b.expect("full loads", b.snaps(), 2)
		b.pass(10 * longest)
		b.expect("full loads, no more than needed", b.snaps(), 4)
		b.expect("repairs", b.Status().Repairs, 0)
	})
}

func TestWhatHasNoRoomIsSaidAndComesInLater(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		b.fake.set(func(f *fake) { f.room = 2 })
		b.submit(b.ban("192.0.2.1/32"), b.ban("192.0.2.2/32"), b.ban("192.0.2.3/32"))
		synctest.Wait()
		st := b.Status()
		b.expect("enforced", st.Enforced, 2)
		b.expect("not enforced", st.NotEnforced, 1)
		b.expect("last error", st.LastError, "1 ban is not enforced: no room")
		b.pass(DefaultCheckEvery + time.Second)
		b.expect("full loads without a removal", b.snaps(), 0)
		b.submit(b.ban("192.0.2.4/32"), b.lift("192.0.2.1/32"))
		b.pass(DefaultCheckEvery + time.Second)
		b.expect("full loads after a removal", b.snaps(), 1)
		b.submit(b.lift("192.0.2.2/32"))
		b.pass(DefaultCheckEvery + time.Second)
		b.expect("last error", b.Status().LastError, "")
	})
}

// What went wrong once stayed a problem in status for ever.
func TestAProblemThatIsOverIsNone(t *testing.T) {
	broken := errors.New("no such set")
	for _, tt := range []struct {
		name  string
		fail  func(*fake)
		begin func(*bench)
		mend  func(*fake)
	}{
		{"ok: a check", func(f *fake) { f.blind = broken }, func(b *bench) { b.pass(DefaultCheckEvery + time.Second) }, func(f *fake) { f.blind = nil }},
		{"ok: a check, then something to repair", func(f *fake) { f.blind = broken }, func(b *bench) { b.pass(DefaultCheckEvery + time.Second) }, func(f *fake) {
			f.blind, f.flushed = nil, true
		}},
		{"ok: a batch and the load after it", func(f *fake) { f.onApply = func() error { return broken }; f.onReplace = f.onApply },
			func(b *bench) { b.submit(b.ban("192.0.2.1/32")); b.pass(time.Second) }, func(f *fake) { f.onApply, f.onReplace = nil, nil }},
		{"ok: a load that worked only in part", func(f *fake) { f.onReplace = func() error { return &PartialError{Why: broken.Error()} } },
			func(b *bench) { _ = b.Replace(b.Context()) }, func(f *fake) { f.onReplace, f.flushed = nil, true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withSyncer(t, nil, func(b *bench) {
				b.fake.set(tt.fail)
				tt.begin(b)
				if p := b.Status().Problem; !strings.Contains(p, broken.Error()) {
					b.Errorf("problem %q", p)
				}
				b.fake.set(tt.mend)
				b.pass(2 * DefaultCheckEvery)
				b.expect("problem", b.Status().Problem, "")
				b.expect("last error is kept", strings.Contains(b.Status().LastError, broken.Error()), true)
			})
		})
	}
}

// Bans that the backend refused used to be counted as enforced, and nobody could ask which ones.
func TestWhatIsRefusedIsNamed(t *testing.T) {
	withSyncer(t, func(f *fake) Backend { f.room = 2; return f }, func(b *bench) {
		holds := func(u Update, want bool) {
			t.Helper()
			ok, why := b.Holds(u.Entry)
			b.expect(u.Prefix.String()+" held", ok, want)
			if !want {
				b.expect("why "+u.Prefix.String()+" is not", why, "no room")
			}
		}
		one, two, three, ports := b.ban("192.0.2.1/32"), b.ban("192.0.2.0/24"), b.ban("192.0.2.3/32"), b.ban("192.0.2.4/32")
		ports.Ports = []PortRange{{ProtoTCP, 22, 22}}
		b.keep(ports.Entry)
		b.lift("192.0.2.4/32")
		got := b.submit(one, two, three, ports)
		synctest.Wait()
		if err := got.read().err; !isPartial(err) {
			t.Errorf("told %v", err)
		}
		holds(one, true)
		holds(two, true)
		holds(three, false)
		holds(ports, false)
		st := b.Status()
		b.expect("enforced", st.Enforced, 2)
		b.expect("not enforced", st.NotEnforced, 2)
		b.expect("last error", st.LastError, "2 bans are not enforced: no room")
		b.pass(DefaultCheckEvery + time.Second)
		b.expect("full loads without a removal", b.snaps(), 0)
		b.submit(one, b.lift("192.0.2.0/24"), b.lift("192.0.2.3/32"))
		synctest.Wait()
		holds(one, true)
		holds(ports, false)
		b.pass(DefaultCheckEvery + time.Second)
		b.expect("full loads after a removal", b.snaps(), 1)
		holds(ports, true)
		b.expect("last error", b.Status().LastError, "")
		b.fake.set(func(f *fake) { f.room = 1 })
		if err := b.Replace(context.Background()); err != nil {
			t.Error(err)
		}
		b.expect("enforced after a load", b.Status().Enforced, 1)
		b.expect("not enforced after a load", b.Status().NotEnforced, 1)
	})
}

// While the kernel refuses a load, later bans are not enforced, and the reason is known.
func TestHoldsSaysWhyALoadFails(t *testing.T) {
	withSyncer(t, func(f *fake) Backend { return f }, func(b *bench) {
		broken := errors.New("no such table")
		b.fake.set(func(f *fake) {
			f.onApply = func() error { return broken }
			f.onReplace = f.onApply
		})
		u := b.ban("192.0.2.1/32")
		if ok, why := b.Holds(u.Entry); ok || why != "" {
			t.Errorf("before it was submitted: %v, %q", ok, why)
		}
		b.submit(u)
		synctest.Wait()
		if ok, why := b.Holds(u.Entry); ok || !strings.Contains(why, broken.Error()) || b.Behind() != why {
			t.Errorf("while all fails: %v, %q, %q", ok, why, b.Behind())
		}
		b.fake.set(func(f *fake) { f.onApply, f.onReplace = nil, nil })
		b.pass(replaceDelayMax)
		if ok, _ := b.Holds(u.Entry); !ok || b.Behind() != "" {
			t.Errorf("once it succeeds: %v, %q", ok, b.Behind())
		}
	})
}

func TestWhatIsOverIsRemovedWhereTheKernelDoesNot(t *testing.T) {
	withSyncer(t, func(f *fake) Backend { return ending{f} }, func(b *bench) {
		short, long := b.ban("192.0.2.1/32"), b.ban("192.0.2.2/32")
		short.Until = time.Now().Add(time.Minute)
		b.submit(short, long)
		b.pass(59 * time.Second)
		b.expect("held before the end", b.held(), 2)
		b.pass(2 * time.Second)
		b.expect("held after the end", b.held(), 1)
		b.expect("calls", get(b.fake, func(f *fake) int { return len(f.endings) }), 2)

		b.fake.set(func(f *fake) { f.endError = errors.New("no such rule") })
		b.pass(time.Hour)
		b.fake.set(func(f *fake) { f.endError = nil })
		b.pass(time.Minute)
		if n := get(b.fake, func(f *fake) int { return len(f.endings) }); n > 100 {
			b.Errorf("%d calls", n)
		}
		b.expect("it ended in a full load", b.snaps() > 0, true)
	})
}

func TestSyncerConfigIsChecked(t *testing.T) {
	snap := func() State { return State{} }
	for name, c := range map[string]struct {
		cfg SyncerConfig
		ok  bool
	}{
		"ok: as little as may be": {SyncerConfig{Backend: NewNone(), Snapshot: snap}, true},
		"bad: no backend":         {SyncerConfig{Snapshot: snap}, false},
		"bad: no snapshot":        {SyncerConfig{Backend: NewNone()}, false},
		"bad: checks in the past": {SyncerConfig{Backend: NewNone(), Snapshot: snap, CheckEvery: -1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewSyncer(c.cfg); (err == nil) != c.ok {
				t.Error(err)
			}
		})
	}
}
