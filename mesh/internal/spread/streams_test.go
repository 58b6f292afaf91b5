package spread

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/meshban/meshban/mesh/frame"
)

// A peer that does not read what is streamed to it keeps nobody else waiting, and memory is bounded.
func TestStreamerIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalled, reading := make(chan struct{}), make(chan struct{})
		var mu sync.Mutex
		sent := make(map[frame.ID]int)
		s := NewStreams(func(job Message) bool {
			if job.To[0] == 1 {
				<-stalled
			} else {
				<-reading
			}
			mu.Lock()
			defer mu.Unlock()
			sent[job.To]++
			return true
		}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { s.Run(ctx) })
		for i := range byte(9) { // a captured node and eight made-up ones
			for n := range 100 {
				if ok := s.Put(Message{To: frame.ID{1, i}}); ok != (n < streamJobsOf) {
					t.Fatalf("message %d to a receiver that does not read: taken %v", n, ok)
				}
			}
		}
		synctest.Wait()
		for i := range byte(7) {
			for range streamJobsOf {
				if !s.Put(Message{To: frame.ID{2, i}}) {
					t.Fatal("no room for a receiver that reads")
				}
			}
		}
		if s.Put(Message{To: frame.ID{3}}) {
			t.Error("more than so many messages wait")
		}
		close(reading)
		synctest.Wait()
		for i := range byte(7) {
			if n := sent[frame.ID{2, i}]; n != streamJobsOf {
				t.Errorf("%d of %d messages reached a receiver that reads", n, streamJobsOf)
			}
		}
		close(stalled)
		synctest.Wait()
		if s.jobs != 0 || len(s.to) != 0 || sent[frame.ID{1, 0}] != streamJobsOf {
			t.Errorf("%d jobs of %d receivers are left", s.jobs, len(s.to))
		}
		cancel()
		run.Wait()
	})
}
