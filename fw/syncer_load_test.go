package fw

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// steady makes a fake take updates during a load.
var steady = with(Traits{DuringLoad: true})

// A load of a million entries once held up every fresh ban until it was done.
func TestALoadHoldsUpNoFreshEntry(t *testing.T) {
	for _, c := range []struct {
		name  string
		stuck bool // the old sets refuse everything
	}{{"ok: at once", false}, {"ok: with the load, when the old sets are broken", true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				at := func(i int) Entry {
					addr := netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
					return Entry{Prefix: netip.PrefixFrom(addr, 32), Until: time.Now().Add(time.Hour)}
				}
				const n, fresh, gone = 4 * loadLook, 10_000, 5
				fake := newFake()
				var s *Syncer
				var called []error
				early := false
				snapshot := func() State {
					return State{Len: n, Entries: func(yield func(Entry) bool) {
						for i := range n {
							if i == loadLook+1 {
								if c.stuck {
									fake.onApply = func() error { fake.onApply = nil; return errors.New("broken") }
								}
								s.Submit([]Update{{Entry: at(fresh)}, {Entry: at(gone), Remove: true}}, func(_ time.Time, err error) { called = append(called, err) })
							}
							if !yield(at(i)) {
								return
							}
						}
						_, early = fake.held[at(fresh).Key()]
					}}
				}
				var err error
				if s, err = NewSyncer(SyncerConfig{Backend: steady(fake), Snapshot: snapshot}); err != nil {
					t.Fatal(err)
				}
				if err := s.Replace(t.Context()); err != nil {
					t.Fatal(err)
				}
				if early == c.stuck {
					t.Errorf("in the kernel before the load was over: %v", early)
				}
				if _, ok := fake.held[at(fresh).Key()]; !ok {
					t.Error("not in the kernel right after the load")
				}
				if fmt.Sprint(called) != "[<nil>]" {
					t.Errorf("callbacks: %v", called)
				}
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx) }()
				synctest.Wait()
				if _, ok := fake.held[at(gone).Key()]; ok {
					t.Error("an entry removed during the load came back with it")
				}
				if got := s.Status().Enforced; got != n || len(fake.held) != n {
					t.Errorf("%d counted, %d in the kernel, want %d", got, len(fake.held), n)
				}
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
