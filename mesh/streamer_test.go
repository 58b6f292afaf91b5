package mesh

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
)

// A peer that does not read what is streamed to it keeps nobody else waiting, and memory is bounded.
func TestStreamerIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalled, reading := make(chan struct{}), make(chan struct{})
		var mu sync.Mutex
		sent := make(map[frame.ID]int)
		s := newStreamer(&Mesh{})
		s.send = func(job replica.Outgoing) bool {
			if job.To[0] == 1 {
				<-stalled
			} else {
				<-reading
			}
			mu.Lock()
			defer mu.Unlock()
			sent[job.To]++
			return true
		}
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { s.run(ctx) })
		for i := range byte(9) { // a captured node and eight made-up ones
			for n := range 100 {
				if ok := s.put(replica.Outgoing{To: frame.ID{1, i}}); ok != (n < streamJobsOf) {
					t.Fatalf("message %d to a receiver that does not read: taken %v", n, ok)
				}
			}
		}
		synctest.Wait()
		for i := range byte(7) {
			for range streamJobsOf {
				if !s.put(replica.Outgoing{To: frame.ID{2, i}}) {
					t.Fatal("no room for a receiver that reads")
				}
			}
		}
		if s.put(replica.Outgoing{To: frame.ID{3}}) {
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

// Sending a message to a member that accepts the stream and never reads it ends.
func TestStreamsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h, here, there := newHub(), netip.MustParseAddrPort("10.0.0.1:7946"), netip.MustParseAddrPort("10.0.0.2:7946")
		inner, err := h.open(here)
		if err != nil {
			t.Fatal(err)
		}
		deaf, err := h.open(there)
		if err != nil {
			t.Fatal(err)
		}
		tr := startTransport(inner, newGuard(func() [][]byte { return nil }, time.Now, &counters{}, nil), nil, nil)
		go func() { <-deaf.StreamCh() }()
		conn, err := tr.DialAddressTimeout(memberlist.Address{Addr: there.String()}, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if n, err := conn.Write(make([]byte, 256<<10)); err == nil {
			t.Errorf("%d bytes went to a node that reads none", n)
		}
		if took := time.Since(begun); took > streamTimeout {
			t.Errorf("ended after %v", took)
		}
		for _, f := range []func() error{conn.Close, tr.Shutdown, deaf.Shutdown} {
			if err := f(); err != nil {
				t.Error(err)
			}
		}
	})
}
