package mesh

import (
	cmdline "flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

var (
	simSeed  = cmdline.Uint64("sim.seed", 0, "simulate this `seed` alone")
	simSeeds = cmdline.Int("sim.seeds", 0, "simulate this `number` of seeds (0: a short run)")
	simFirst = cmdline.Uint64("sim.first", 1, "begin with this `seed`")
	simMost  = cmdline.Int("sim.most", 5, "stop when this `number` of seeds has failed")
	simTrace = cmdline.Bool("sim.trace", false, "print the history of -sim.seed")
)

// simulate runs a seed from start to end.
func simulate(seed uint64, trace io.Writer) *simWorld {
	w := newSimWorld(seed, trace)
	w.begin()
	w.run(w.plan.length + 3*time.Second)
	if w.failure == nil {
		w.heal()
	}
	w.copies += w.received()
	if w.failure == nil && w.plan.clock == 0 && w.faults[faultStale] == 0 && w.copies > simCopies*w.wanted {
		w.fail(-1, "%d copies of frames, where %d were wanted", w.copies, w.wanted)
	}
	return w
}

// replay returns the command that shows a seed's history.
func replay(seed uint64) string {
	return fmt.Sprintf("go test ./mesh -run 'TestSimulator$' -sim.seed=%d -sim.trace", seed)
}

// Whatever happens to a fleet, all nodes agree on the right state once the troubles end. -sim.seeds=2000 runs more seeds.
func TestSimulator(t *testing.T) {
	if *simSeed != 0 {
		var trace io.Writer
		if *simTrace {
			trace = os.Stdout
		}
		if w := simulate(*simSeed, trace); w.failure != nil {
			t.Fatal(w.failure)
		}
		return
	}
	seeds := *simSeeds
	short := seeds == 0 // too few seeds for every kind of fault
	if short {
		seeds = simShort
	}
	start, goroutines := time.Now(), runtime.NumGoroutine()
	faults, failed := simulateAll(t, *simFirst, seeds, *simMost)
	for kind, name := range faultNames {
		t.Logf("%8.1f times in 1,000 seeds: %s", float64(faults[kind])/float64(seeds)*1000, name)
		if faults[kind] == 0 && failed == 0 && !short {
			t.Errorf("%d seeds, and never this: %s", seeds, name)
		}
	}
	eventually(t, 10*time.Second, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
	t.Logf("%d seeds in %v", seeds, time.Since(start).Round(time.Second))
}

// simulateAll runs seeds on all cores until as many as most have failed.
func simulateAll(t *testing.T, first uint64, seeds, most int) (faults [faultKinds]int, failed int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var copies, wanted uint64
	next := 0
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= seeds || failed >= most
				mu.Unlock()
				if stop {
					return
				}
				w := simulate(first+uint64(i), nil)
				mu.Lock()
				copies, wanted = copies+w.copies, wanted+w.wanted
				for kind, n := range w.faults {
					faults[kind] += n
				}
				if w.failure != nil {
					failed++
					t.Errorf("seed %d (%d of %d): %v\n\t%s", w.seed, i+1, seeds, w.failure, replay(w.seed))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if wanted > 0 {
		t.Logf("%.2f copies of a frame per node", float64(copies)/float64(wanted))
	}
	return faults, failed
}

// A simulated clock gives both readings that time.Now gives.
func TestSimTime(t *testing.T) {
	a, b := simTime(simEpoch, time.Minute), simTime(simEpoch.Add(-time.Hour+time.Millisecond), time.Hour)
	if !a.Equal(simEpoch) && !a.Round(0).Equal(simEpoch) {
		t.Errorf("the wall clock shows %v, want %v", a, simEpoch)
	}
	if got := b.Sub(a); got != 59*time.Minute {
		t.Errorf("monotonic difference %v, want 59m", got)
	}
	if got := b.Round(0).Sub(a.Round(0)); got != -time.Hour+time.Millisecond {
		t.Errorf("difference of the wall clocks %v, want -59m59.999s", got)
	}
	if got := b.UnixMilli() - simEpoch.UnixMilli(); got != -3600_000+1 {
		t.Errorf("%d ms", got)
	}
}
