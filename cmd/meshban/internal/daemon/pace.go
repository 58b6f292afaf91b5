package daemon

import (
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/mesh"
)

// pacing keeps this node within the rates that peers accept.
type pacing struct {
	bulkRate  *rate.Limiter // for all imports together
	smallRate *rate.Limiter // for partial frames
}

// smallWait bounds how long a partial frame waits if there are more than mesh.SayRate of them: the next one carries
// what came meanwhile.
const smallWait = time.Second / mesh.SayRate

// gather waits before a partial frame if there were many of them.
func gather(frames *rate.Limiter) {
	now := time.Now()
	turn := frames.ReserveN(now, 1)
	wait := turn.DelayFrom(now)
	if wait > smallWait {
		turn.CancelAt(now) // peers fetch whatever still exceeds their limit by sync
		wait = smallWait
	}
	time.Sleep(wait)
}

// paceCost returns the cost of a slice: fewer IPv6 addresses fit into a frame, and a peer limits the frames that it
// takes from one address per second.
func paceCost(some []netip.Prefix) int {
	n := len(some)
	for _, p := range some {
		if p.Addr().Is6() {
			n++
		}
	}
	return n
}
