package daemon

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/mesh"
)

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
