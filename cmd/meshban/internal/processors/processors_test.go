package processors

import (
	"context"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestScale(t *testing.T) {
	low := func(n int) (shares []float64) {
		for range n {
			shares = append(shares, little/2)
		}
		return shares
	}
	for name, test := range map[string]struct {
		wide   bool
		shares []float64
		want   bool
	}{
		"wide, quiet for a moment":    {true, low(patience - 1), true},
		"wide, quiet for long":        {true, low(patience), false},
		"wide, quiet with a break":    {true, append(append(low(patience-1), (much+little)/2), low(patience-1)...), true},
		"narrow, with enough":         {false, []float64{little, (much + little) / 2, little / 2}, false},
		"narrow, all of it used":      {false, []float64{much}, true},
		"narrow, and quiet after all": {false, append([]float64{1}, low(patience)...), false},
		"nothing is known":            {true, make([]float64, patience), false},
	} {
		s := scale{wide: test.wide}
		for _, share := range test.shares {
			s.next(share)
		}
		if s.wide != test.want {
			t.Errorf("%s: wide = %v", name, s.wide)
		}
	}
}

// unset takes GOMAXPROCS out of the environment until the test ends.
func unset(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	if err := os.Unsetenv("GOMAXPROCS"); err != nil {
		t.Fatal(err)
	}
}

// start runs Run until the test ends, when all processors must be in use again.
func start(t *testing.T) {
	all := runtime.GOMAXPROCS(0)
	ctx, stop := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { Run(ctx) })
	t.Cleanup(func() {
		stop()
		tasks.Wait()
		if n := runtime.GOMAXPROCS(0); n != all {
			t.Errorf("%d processors in the end, want %d", n, all)
		}
	})
}

// become waits until so many processors are in use, calling meanwhile.
func become(t *testing.T, n int, meanwhile func()) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for end := time.Now().Add(time.Minute); runtime.GOMAXPROCS(0) != n; meanwhile() {
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
	start(t)
	become(t, 1, func() {})
	become(t, all, func() {
		for begin := time.Now(); time.Since(begin) < every; {
		}
	})
	become(t, 1, func() {})
}

func TestRunLeavesAloneWhatTheEnvironmentSays(t *testing.T) {
	t.Setenv("GOMAXPROCS", "2")
	before := runtime.GOMAXPROCS(0)
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	Run(ctx)
	if ctx.Err() != nil {
		t.Error("it went on for as long as it might")
	}
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors, want %d", n, before)
	}
}
