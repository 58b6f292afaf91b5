package enforce

import (
	"context"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
	"github.com/meshban/meshban/fw"
)

var (
	self = ban.Origin{1}
	peer = ban.Origin{2}
)

// openStore opens a store that lasts as long as the test.
func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// newState returns a State that reports to the functions of cfg, where they are set.
func newState(t *testing.T, cfg Config) *State {
	t.Helper()
	cfg.Table, cfg.Gate = ban.Config{Self: self}, ban.AdmissionConfig{Self: self}
	cfg.Escalation = func() config.Escalation { return config.Escalation{} }
	if cfg.Changed == nil {
		cfg.Changed = func(time.Time, ban.Change) {}
	}
	if cfg.Answered == nil {
		cfg.Answered = func([]ban.Change, time.Time, time.Time, error) {}
	}
	s, err := New(time.Now(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// drive has the state's changes go to a kernel that runs until the function is called.
func (s *State) drive(t *testing.T, kernel fw.Backend) (stop func()) {
	t.Helper()
	syncer, err := fw.NewSyncer(fw.SyncerConfig{Backend: kernel, Snapshot: s.Snapshot, Exceptions: s.Exceptions})
	if err != nil {
		t.Fatal(err)
	}
	s.Drive(syncer)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- syncer.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// record is what an origin says about 192.0.2.1.
func record(now time.Time, by ban.Origin, seq uint64, kind ban.Kind, length time.Duration) ban.Record {
	return ban.Record{
		Op:     ban.Op{Kind: kind, Prefix: netip.MustParsePrefix("192.0.2.1/32"), Until: now.Add(length).Truncate(time.Millisecond)},
		Origin: by, Version: ban.Version{Epoch: 1, Seq: seq}, Issued: now, Arrived: now,
	}
}

func (s *State) merge(now time.Time, rs ...ban.Record) {
	s.Change(now, func(t *ban.Table) []ban.Change { return t.Merge(now, rs) })
}

// log is a kernel that remembers what it was told, in order.
type log struct {
	fw.Backend
	mu  sync.Mutex
	got []fw.Update
}

func (*log) Name() string { return "log" }

func (l *log) Apply(_ context.Context, _ time.Time, updates []fw.Update) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, updates...)
	return nil
}

// The kernel gets changes in the order in which the table changed, however many goroutines change it.
func TestTheKernelFollowsTheTable(t *testing.T) {
	t.Parallel()
	const writers, each = 4, 200
	s := newState(t, Config{Store: openStore(t)})
	kernel := &log{Backend: fw.NewNone()}
	stop := s.drive(t, kernel)
	now := time.Now()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				kind := ban.KindBan
				if i%2 == 1 {
					kind = ban.KindRevoke
				}
				s.merge(now, record(now, ban.Origin{byte(w + 1)}, uint64(i+1), kind, time.Hour+time.Duration(i)*time.Second))
			}
		})
	}
	all.Wait()
	s.merge(now, record(now, self, each+1, ban.KindBan, 3*time.Hour))
	if err := s.Await(t.Context(), []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}); err != nil {
		t.Fatal(err)
	}
	stop()
	last := kernel.got[len(kernel.got)-1]
	for e := range s.Snapshot().Entries {
		if last.Remove || !last.Until.Equal(e.Until) {
			t.Errorf("the kernel was last told %+v, the table has %+v", last, e)
		}
	}
	if n := s.Counts().Active; n != 1 {
		t.Errorf("%d bans, want 1", n)
	}
}

// A function that is told of a change may ask the State, even if the kernel's queue refuses the change: a lift that
// came while the agent stopped used to wait for ever.
func TestAnsweredHoldsNoLock(t *testing.T) {
	t.Parallel()
	var s *State
	var told []ban.Event
	s = newState(t, Config{Store: openStore(t), Answered: func(changes []ban.Change, _, _ time.Time, _ error) {
		s.Counts()
		for _, c := range changes {
			told = append(told, c.Event)
		}
	}})
	now := time.Now()
	s.merge(now, record(now, peer, 1, ban.KindBan, time.Hour)) // before Drive: told to nobody
	s.drive(t, fw.NewNone())()
	s.merge(now, record(now, peer, 2, ban.KindRevoke, 2*time.Hour))
	s.merge(now, record(now, peer, 3, ban.KindAllow, time.Hour))
	if len(told) != 2 || told[0] != ban.EventUnban || told[1] != ban.EventAllow {
		t.Errorf("told %v", told)
	}
}

// The task that ends bans sleeps until the next end, and is woken only by an earlier one.
func TestExpireWakesForAnEarlierEnd(t *testing.T) {
	t.Parallel()
	files := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var ended []time.Duration
		s := newState(t, Config{Store: files, Changed: func(now time.Time, c ban.Change) {
			if c.Event == ban.EventExpire {
				ended = append(ended, now.Sub(begin))
			}
		}})
		stop := s.drive(t, fw.NewNone())
		ctx, cancel := context.WithCancel(t.Context())
		rounds, done := 0, make(chan error, 1)
		go func() { done <- s.Expire(ctx, func(time.Time) { rounds++ }) }()
		wakes := func(after time.Duration) {
			t.Helper()
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.wakeAt.Equal(begin.Add(after)) {
				t.Errorf("sleeps until %v, want %v", s.wakeAt.Sub(begin), after)
			}
		}
		wakes(expiryIdle)
		<-time.After(time.Second) // of the bubble
		s.merge(time.Now(), record(begin, peer, 1, ban.KindBan, time.Hour))
		wakes(expiryIdle) // it was not woken
		s.merge(time.Now(), record(begin, peer, 2, ban.KindBan, 10*time.Second))
		wakes(10 * time.Second)
		<-time.After(time.Minute)
		synctest.Wait()
		if len(ended) != 1 || ended[0] != 10*time.Second {
			t.Errorf("ended after %v, want 10s", ended)
		}
		if rounds == 0 || rounds > 3 {
			t.Errorf("%d rounds for one end", rounds)
		}
		cancel()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
