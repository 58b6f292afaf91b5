package daemon

import (
	"context"
	"time"

	"github.com/meshban/meshban/fw"
)

// paceLimit is how long a bulk waits for the kernel at most before it goes on without.
const paceLimit = 100 * time.Millisecond

// pace keeps a bulk no more than two slices ahead of the kernel, so that a fresh ban finds only these in front of it.
// The zero value with fw set is ready.
type pace struct {
	fw   *fw.Syncer
	last chan struct{} // closed when the kernel has the slice before; capacity 0, nobody sends
	off  bool          // the kernel is in trouble, or busy with something else: do not wait any more
}

// slice is called after each slice was submitted, and waits for the one before.
func (p *pace) slice(ctx context.Context) {
	if p.off {
		return
	}
	before, now := p.last, make(chan struct{})
	p.last = now
	p.fw.Submit(nil, func(time.Time, error) { close(now) })
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
