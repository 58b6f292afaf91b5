package enforce

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshban/meshban/fw"
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
		stuck := Pace{fw: syncer} // the syncer does not run yet
		begin := time.Now()
		for range 10 {
			stuck.Slice(ctx, Chunk)
		}
		if took := time.Since(begin); took != paceLimit {
			t.Errorf("ten slices took %v, want %v", took, paceLimit)
		}
		done := make(chan error, 1)
		go func() { done <- syncer.Run(ctx) }()
		flowing := Pace{fw: syncer}
		begin = time.Now()
		for range 10 {
			flowing.Slice(ctx, Chunk)
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
