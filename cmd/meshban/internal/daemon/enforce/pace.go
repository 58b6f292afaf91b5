package enforce

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/fw"
)

// paceLimit bounds how long a bulk waits for the kernel before it goes on regardless.
const paceLimit = 100 * time.Millisecond

// Pace keeps a bulk at most two slices ahead of the kernel, so that a fresh ban queues behind no more than these.
type Pace struct {
	fw   *fw.Syncer
	rate *rate.Limiter // nil: as fast as the kernel takes it
	last chan struct{} // closed when the kernel has the previous slice; unbuffered, nobody sends
	off  bool          // the kernel is in trouble, or busy with something else: stop waiting
}

// Pace returns the pace of one bulk. rate limits it too, unless it is nil.
func (s *State) Pace(rate *rate.Limiter) *Pace { return &Pace{fw: s.kernel, rate: rate} }

// Slice is called after each slice of bans, with a cost of n, was submitted, and waits for the slice before it.
func (p *Pace) Slice(ctx context.Context, n int) {
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
