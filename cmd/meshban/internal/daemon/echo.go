package daemon

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/meshban/meshban/ban"
)

const (
	// maxEmitQueue bounds the bans that wait for the line file. Beyond it the oldest are not emitted, and counted.
	maxEmitQueue = 1 << 17
	// maxEmitBatch bounds the lines of one write.
	maxEmitBatch = 4096
	// emitGather is how long the first of a batch waits for more. Whoever reads the lines polls (fail2ban once a second);
	// the kernel and the peers get the processor first. While one batch follows another within a second, it is
	// emitGatherMore.
	emitGather, emitGatherMore = 20 * time.Millisecond, 100 * time.Millisecond
)

// emitQueue holds bans that wait for the line file.
type emitQueue struct {
	wake chan struct{} // holds one token; add sends, take receives
	last time.Time     // take's alone: when it last gave a batch

	mu    sync.Mutex // guards what follows
	queue []emission
	lost  uint64
}

// emission is a ban as the classic line says it.
type emission struct {
	origin ban.Origin
	addr   netip.Addr
	port   uint16
}

func newEmitQueue() *emitQueue { return &emitQueue{wake: make(chan struct{}, 1)} }

// add queues c and never blocks. A CIDR has no classic form.
func (q *emitQueue) add(c ban.Change) {
	if !c.Prefix.IsSingleIP() {
		return
	}
	q.mu.Lock()
	if len(q.queue) >= maxEmitQueue {
		q.queue = q.queue[1:]
		q.lost++
	}
	q.queue = append(q.queue, emission{c.Origin, c.Prefix.Addr(), onlyPort(c.Ports)})
	q.mu.Unlock()
	kick(q.wake)
}

// take waits for bans, gathers, and returns up to maxEmitBatch of them; false when ctx has ended.
func (q *emitQueue) take(ctx context.Context) ([]emission, bool) {
	gather := time.NewTimer(0)
	defer gather.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case <-q.wake:
		}
		pause := emitGather
		if time.Since(q.last) < time.Second {
			pause = emitGatherMore
		}
		gather.Reset(pause)
		select {
		case <-ctx.Done():
			return nil, false
		case <-gather.C:
		}
		q.mu.Lock()
		n := min(len(q.queue), maxEmitBatch)
		batch := q.queue[:n:n]
		q.queue = q.queue[n:]
		more := len(q.queue) > 0
		q.mu.Unlock()
		if more {
			kick(q.wake)
		}
		if n > 0 {
			q.last = time.Now()
			return batch, true
		}
	}
}

// dropped tells how many bans never reached the line file because the queue was full.
func (q *emitQueue) dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

const (
	// echoGrace is how long after the end of a ban from the mesh a line about all ports of its address counts as the
	// late answer of a local fail2ban that had read the emitted line. fail2ban polls once a second; a minute covers a
	// busy one.
	echoGrace = time.Minute
	// maxEchoes bounds the addresses remembered for that.
	maxEchoes = 1 << 16
)

// echoes remembers addresses whose ban from the mesh has just ended.
type echoes struct {
	mu     sync.Mutex // guards what follows
	until  map[netip.Addr]time.Time
	purged time.Time
}

func newEchoes() *echoes { return &echoes{until: map[netip.Addr]time.Time{}} }

// lifted notes that the ban of a single address has ended at now.
func (e *echoes) lifted(now time.Time, prefix netip.Prefix) {
	if !prefix.IsSingleIP() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.until) >= maxEchoes && now.Sub(e.purged) > time.Second {
		e.purged = now
		for addr, until := range e.until {
			if now.After(until) {
				delete(e.until, addr)
			}
		}
	}
	if len(e.until) < maxEchoes {
		e.until[prefix.Addr()] = now.Add(echoGrace)
	}
}

// fresh tells whether the ban of addr from the mesh ended less than echoGrace ago.
func (e *echoes) fresh(now time.Time, addr netip.Addr) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	until, ok := e.until[addr]
	if ok && now.After(until) {
		delete(e.until, addr)
		return false
	}
	return ok
}
