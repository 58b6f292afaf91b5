package daemon

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/fw"
)

// A kernel that does not answer must cost a bulk one pause, not one for each slice.
func TestABulkWaitsForTheKernelButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		syncer, err := fw.NewSyncer(fw.SyncerConfig{Backend: fw.NewNone(), Snapshot: func() fw.State { return fw.State{} }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stuck := pace{fw: syncer} // nobody runs it yet
		begin := time.Now()
		for range 10 {
			stuck.slice(ctx, lockChunk)
		}
		if took := time.Since(begin); took != paceLimit {
			t.Errorf("ten slices took %v, want %v", took, paceLimit)
		}
		done := make(chan error, 1)
		go func() { done <- syncer.Run(ctx) }()
		flowing := pace{fw: syncer}
		begin = time.Now()
		for range 10 {
			flowing.slice(ctx, lockChunk)
		}
		if took := time.Since(begin); took != 0 || flowing.off {
			t.Errorf("ten slices took %v with a kernel that answers", took)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A frame goes on as soon as the kernel has it. It waits for a stuck one once, and then a millisecond at a time.
func TestAHeadStartDoesNotWaitForAStuckKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h headStart
		begin := time.Now()
		gone := func(what string, ended <-chan struct{}, took time.Duration, want bool) {
			t.Helper()
			if got := time.Since(begin); got != took {
				t.Errorf("%s: went on after %v, want %v", what, got, took)
			}
			select {
			case <-ended:
				if !want {
					t.Errorf("%s: says that a stuck kernel has it", what)
				}
			default:
				if want {
					t.Errorf("%s: does not say that the kernel has it", what)
				}
			}
			begin = time.Now()
		}
		quick := func() {}
		slow := func() { <-time.After(5 * kernelFirst) }
		gone("a kernel that answers", h.give(quick), 0, true)
		gone("the first time that it is late", h.give(slow), 5*kernelFirst, true)
		lock := make(chan struct{})
		ended := h.give(func() { <-lock })
		gone("a stuck one", ended, kernelFirst, false)
		close(lock)
		<-ended
		begin = time.Now()
		gone("late still", h.give(quick), 0, true)
		gone("no longer", h.give(slow), 5*kernelFirst, true)
	})
}

// Fewer IPv6 addresses fit into a frame.
func TestPaceCost(t *testing.T) {
	some := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("198.51.100.0/24")}
	if got := paceCost(some); got != 4 {
		t.Errorf("costs %d, want 4", got)
	}
}

// A few frames go at once and many in a row wait a little, so that what comes meanwhile travels together; nobody waits long.
func TestGatherHoldsSmallFramesToARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		frames := rate.NewLimiter(smallRate, smallBurst)
		begin := time.Now()
		for range smallBurst {
			gather(frames)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("%d frames took %v, want them to go at once", smallBurst, took)
		}
		for range smallRate {
			gather(frames)
		}
		if took := time.Since(begin); took < time.Second*9/10 || took > time.Second {
			t.Errorf("%d more took %v, want a second", smallRate, took)
		}
		var all sync.WaitGroup
		begin = time.Now()
		for range 100 {
			all.Go(func() { gather(frames) })
		}
		all.Wait()
		if took := time.Since(begin); took > smallWait {
			t.Errorf("of 100 at once one took %v, want at most %v", took, smallWait)
		}
		<-time.After(time.Second)
		begin = time.Now()
		gather(frames)
		if took := time.Since(begin); took != 0 {
			t.Errorf("one waited %v although there were none before", took)
		}
	})
}
