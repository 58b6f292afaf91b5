package daemon

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh"
)

// paceLimit is how long a bulk waits for the kernel at most before it goes on without.
const paceLimit = 100 * time.Millisecond

// smallWait is how long a frame that is not full waits at most where there are more than mesh.SayRate of them: the next one
// carries what came meanwhile.
const smallWait = time.Second / mesh.SayRate

// gather waits before a frame that is not full when there were many of these.
func gather(frames *rate.Limiter) {
	now := time.Now()
	turn := frames.ReserveN(now, 1)
	wait := turn.DelayFrom(now)
	if wait > smallWait {
		turn.CancelAt(now) // of what is too much all the same the peers get the rest by sync
		wait = smallWait
	}
	time.Sleep(wait)
}

// kernelFirst is how long a frame waits for the kernel, which takes 0.1 ms, before it is signed: what holds the kernel's
// lock here must not keep a ban from the peers.
const kernelFirst = time.Millisecond

// ahead gives flush a start of kernelFirst. The channel is closed when flush has ended.
func ahead(flush func()) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		flush()
	}()
	wait := time.NewTimer(kernelFirst)
	defer wait.Stop()
	select {
	case <-ended:
	case <-wait.C:
	}
	return ended
}

// pace keeps a bulk no more than two slices ahead of the kernel, so that a fresh ban finds only these in front of it.
// The zero value with fw set is ready.
type pace struct {
	fw   *fw.Syncer
	rate *rate.Limiter // nil: as fast as the kernel takes it
	last chan struct{} // closed when the kernel has the slice before; capacity 0, nobody sends
	off  bool          // the kernel is in trouble, or busy with something else: do not wait any more
}

// paceCost is what a slice counts as: fewer IPv6 addresses fit into a frame, and it is frames that a peer takes only
// so many of from one address in a second.
func paceCost(some []netip.Prefix) int {
	n := len(some)
	for _, p := range some {
		if p.Addr().Is6() {
			n++
		}
	}
	return n
}

// slice is called after each slice of bans that count as n was submitted, and waits for the one before.
func (p *pace) slice(ctx context.Context, n int) {
	if p.rate != nil {
		_ = p.rate.WaitN(ctx, n) // fails only when ctx ends, and what is asked for is done all the same
	}
	if p.off {
		return
	}
	before, now := p.last, make(chan struct{})
	p.last = now
	if p.fw.Submit(nil, func(time.Time, error) { close(now) }) != nil {
		close(now)
	}
	if before == nil {
		return
	}
	timer := time.NewTimer(paceLimit)
	defer timer.Stop()
	select {
	case <-before:
	case <-ctx.Done():
		p.off = true
	case <-timer.C:
		p.off = true
	}
}
