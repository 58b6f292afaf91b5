package daemon

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh"
)

// paceLimit bounds how long a bulk waits for the kernel before it goes on regardless.
const paceLimit = 100 * time.Millisecond

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

// kernelFirst is how long a frame waits for the kernel, which takes 0.1 ms, before it is signed: whatever holds the
// kernel's lock here must not keep a ban from the peers.
const kernelFirst = time.Millisecond

// ahead gives flush a head start of kernelFirst. The channel is closed when flush has returned.
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

// pace keeps a bulk at most two slices ahead of the kernel, so that a fresh ban queues behind no more than these. The
// zero value with fw set is ready to use.
type pace struct {
	fw   *fw.Syncer
	rate *rate.Limiter // nil: as fast as the kernel takes it
	last chan struct{} // closed when the kernel has the previous slice; unbuffered, nobody sends
	off  bool          // the kernel is in trouble, or busy with something else: stop waiting
}

// paceCost returns what a slice counts as: fewer IPv6 addresses fit into a frame, and a peer limits the frames that it
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

// slice is called after each slice of bans, with a cost of n, was submitted, and waits for the slice before it.
func (p *pace) slice(ctx context.Context, n int) {
	if p.rate != nil {
		_ = p.rate.WaitN(ctx, n) // fails only if ctx ends, and the request is carried out regardless
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
