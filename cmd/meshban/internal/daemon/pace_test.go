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
	"github.com/meshban/meshban/mesh"
)

// A kernel that does not answer must cost a bulk one pause, not one per slice.
func TestABulkWaitsForTheKernelButNotForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		syncer, err := fw.NewSyncer(fw.SyncerConfig{Backend: fw.NewNone(), Snapshot: func() fw.State { return fw.State{} }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stuck := pace{fw: syncer} // the syncer does not run yet
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

// A frame goes on as soon as the kernel has its bans, and otherwise after a millisecond.
func TestAheadDoesNotWaitForAStuckKernel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin, flushed := time.Now(), false
		<-ahead(func() { flushed = true })
		if took := time.Since(begin); took != 0 || !flushed {
			t.Errorf("with a kernel that answers: flushed %v after %v", flushed, took)
		}
		lock := make(chan struct{})
		done := ahead(func() { <-lock })
		if took := time.Since(begin); took != kernelFirst {
			t.Errorf("went on after %v, want %v", took, kernelFirst)
		}
		select {
		case <-done:
			t.Error("says that a stuck kernel has it")
		default:
		}
		close(lock)
		<-done
	})
}

// An IPv6 address costs more, because fewer fit into a frame.
func TestPaceCost(t *testing.T) {
	t.Parallel()
	some := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("198.51.100.0/24")}
	if got := paceCost(some); got != 4 {
		t.Errorf("costs %d, want 4", got)
	}
}

// A few frames go at once; in a long run each waits briefly, so that ops that come meanwhile travel together.
func TestGatherHoldsSmallFramesToARate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		frames := rate.NewLimiter(mesh.SayRate, mesh.SayBurst)
		begin := time.Now()
		for range mesh.SayBurst {
			gather(frames)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("%d frames took %v, want them to go at once", mesh.SayBurst, took)
		}
		for range mesh.SayRate {
			gather(frames)
		}
		if took := time.Since(begin); took < time.Second*9/10 || took > time.Second {
			t.Errorf("%d more took %v, want a second", mesh.SayRate, took)
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
