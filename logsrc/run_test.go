package logsrc

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// running is a Follower with a running Run.
type running struct {
	t     testing.TB
	f     *Follower
	lines chan Line     // every accepted line; Handle waits when it is full
	ready chan struct{} // closed by the first Handle: the position is known
	end   func()        // stops Run and waits for it
}

// runDeadline is how long a test waits.
const runDeadline = 20 * time.Second

// run follows path. Without a tick, only the kernel's events trigger a poll.
func run(t testing.TB, path string, own *OwnRanges, tick time.Duration) *running {
	t.Helper()
	if tick == 0 {
		tick = time.Hour
	}
	r := &running{t: t, lines: make(chan Line, 1<<16), ready: make(chan struct{})}
	var once sync.Once
	f, err := NewFollower(FollowerConfig{Path: path, Own: own, Tick: tick, Handle: func(batch []Line, _ Position) {
		once.Do(func() { close(r.ready) })
		for _, l := range batch {
			r.lines <- l
		}
	}})
	must(t, err)
	r.f = f
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	r.end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(runDeadline):
			t.Error("Run does not return")
		}
	})
	t.Cleanup(r.end)
	select {
	case <-r.ready:
	case <-time.After(runDeadline):
		t.Fatal("Run does not begin")
	}
	return r
}

func (r *running) want(n int) {
	r.t.Helper()
	select {
	case l := <-r.lines:
		if want := fmt.Sprintf("192.0.2.%d", n); l.Addr.String() != want {
			r.t.Fatalf("got %v, want %s", l.Addr, want)
		}
	case <-time.After(runDeadline):
		r.t.Fatalf("line %d does not come; %+v", n, r.f.Stats())
	}
}

// await polls cond until it holds.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(runDeadline); !cond(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("timed out waiting for: " + what)
		}
	}
}

func TestRunIsToldOfEveryChange(t *testing.T) {
	path := logPath(t)
	r := run(t, path, nil, 0) // the file is not there yet
	for n := 1; n <= 40; n += 4 {
		add(t, path, line(n))
		r.want(n)
		add(t, path, line(n + 1)[:30])
		add(t, path, line(n + 1)[30:])
		r.want(n + 1)
		rotate(t, path)
		add(t, path, line(n+2))
		r.want(n + 2)
		copyTruncate(t, path)
		add(t, path, line(n+3))
		r.want(n + 3)
	}
	must(t, os.Remove(path))
	await(t, "problem", func() bool { return r.f.Stats().Problem != nil })
	add(t, path, line(99))
	r.want(99)
	await(t, "no problem", func() bool { return r.f.Stats().Problem == nil })
	r.end()
}

func TestRunFollowsASymbolicLink(t *testing.T) {
	path, real := logPath(t), filepath.Join(t.TempDir(), "bans")
	add(t, real, line(1))
	must(t, os.Symlink(real, path))
	r := run(t, path, nil, 0)
	add(t, real, line(2))
	r.want(2)
	rotate(t, real)
	add(t, real, line(3))
	r.want(3)
}

func TestRunFindsAFolderThatComesLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "newbans.log")
	r := run(t, path, nil, 5*time.Millisecond)
	must(t, EnsureFile(path, 0o640))
	add(t, path, line(1))
	r.want(1)
	must(t, os.RemoveAll(filepath.Dir(path)))
	must(t, EnsureFile(path, 0o640))
	add(t, path, line(2))
	r.want(2)
}

func TestRunDoesNotBlockOnAFIFO(t *testing.T) {
	path := logPath(t)
	must(t, syscall.Mkfifo(path, 0o600))
	r := run(t, path, nil, 5*time.Millisecond)
	await(t, "problem", func() bool { return r.f.Stats().Problem != nil })
	r.end()
}

// Many programs and the emitter append while the file is rotated: every line comes once.
func TestRunWithManyWriters(t *testing.T) {
	const writers, each = 4, 300
	path := logPath(t)
	own := new(OwnRanges)
	must(t, EnsureFile(path, 0o640))
	r := run(t, path, own, 0)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for n := range each {
				add(t, path, fmt.Sprintf("HOST 10.%d.%d.%d PORT 22\n", w, n>>8, n&255))
			}
		})
	}
	group.Go(func() {
		e := newEmitter(t, path, own)
		for n := range each {
			if err := e.Emit(time.Now(), []Emission{emission(n), emission(n + 1)}); err != nil {
				t.Error(err)
			}
		}
	})
	for range 3 {
		before := r.f.Stats()
		enough := min(before.Accepted+writers*each/8, writers*each)
		await(t, "lines between rotations", func() bool { return r.f.Stats().Accepted >= enough })
		rotate(t, path)
		must(t, EnsureFile(path, 0o640)) // the writers may be done
		await(t, "rotation", func() bool { return r.f.Stats().Rotations > before.Rotations })
	}
	seen := map[netip.Addr]int{}
	for range writers * each {
		select {
		case l := <-r.lines:
			if seen[l.Addr]++; seen[l.Addr] > 1 || l.Emitted {
				t.Fatalf("%v came %d times, emitted %v", l.Addr, seen[l.Addr], l.Emitted)
			}
		case <-time.After(runDeadline):
			t.Fatalf("%d of %d lines came; %+v", len(seen), writers*each, r.f.Stats())
		}
	}
	group.Wait()
	r.end()
	select {
	case l := <-r.lines:
		t.Fatalf("one line too many: %+v", l)
	default:
	}
}
