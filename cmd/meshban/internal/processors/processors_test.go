package processors

import (
	"context"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestScale(t *testing.T) {
	quiet := func(n int) (shares []float64) {
		for range n {
			shares = append(shares, low/2)
		}
		return shares
	}
	for name, test := range map[string]struct {
		wide   bool
		shares []float64
		want   bool
	}{
		"wide, quiet for a moment": {true, quiet(patience - 1), true},
		"wide, quiet for long":     {true, quiet(patience), false},
		"wide, quiet with a break": {true, append(append(quiet(patience-1), (high+low)/2), quiet(patience-1)...), true},
		"narrow, with enough":      {false, []float64{low, (high + low) / 2, low / 2}, false},
		"narrow, all of it used":   {false, []float64{high}, true},
		"narrow, busy, then quiet": {false, append([]float64{1}, quiet(patience)...), false},
		"load unknown":             {true, make([]float64, patience), false},
	} {
		s := scale{wide: test.wide}
		for _, share := range test.shares {
			s.update(share)
		}
		if s.wide != test.want {
			t.Errorf("%s: wide = %v", name, s.wide)
		}
	}
}

// unset removes GOMAXPROCS from the environment until the test ends.
func unset(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	if err := os.Unsetenv("GOMAXPROCS"); err != nil {
		t.Fatal(err)
	}
}

// start runs run until the test ends, with a load that the test sets, in thousandths of a processor. At the end all
// processors must be in use again.
func start(t *testing.T, load *atomic.Int64) {
	all := runtime.GOMAXPROCS(0)
	ctx, stop := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	begun := time.Now()
	var total, last time.Duration // only used's caller reads and writes them
	used := func() time.Duration {
		now := time.Since(begun)
		total += (now - last) * time.Duration(load.Load()) / 1000
		last = now
		return total
	}
	tasks.Go(func() { run(ctx, used) })
	t.Cleanup(func() {
		stop()
		tasks.Wait()
		if n := runtime.GOMAXPROCS(0); n != all {
			t.Errorf("%d processors in the end, want %d", n, all)
		}
	})
}

// become waits until n processors are in use.
func become(t *testing.T, n int) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for end := time.Now().Add(time.Minute); runtime.GOMAXPROCS(0) != n; {
		if time.Now().After(end) {
			t.Fatalf("%d processors, want %d", runtime.GOMAXPROCS(0), n)
		}
		<-look.C
	}
}

func TestRunFollowsTheWork(t *testing.T) {
	unset(t)
	runtime.SetDefaultGOMAXPROCS()
	all := runtime.GOMAXPROCS(0)
	var load atomic.Int64
	start(t, &load)
	become(t, 1)
	load.Store(1000)
	become(t, all)
	load.Store(0)
	become(t, 1)
}

func TestRunRespectsTheEnvironment(t *testing.T) {
	t.Setenv("GOMAXPROCS", "2")
	before := runtime.GOMAXPROCS(0)
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	Run(ctx)
	if ctx.Err() != nil {
		t.Error("Run did not return")
	}
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors, want %d", n, before)
	}
}
