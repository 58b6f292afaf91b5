package daemon

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/logsrc"
)

const (
	// maxEmitQueue bounds the bans that wait for the line file. Beyond it the oldest are dropped and counted.
	maxEmitQueue = 1 << 17
	// maxEmitBatch bounds the lines of one write.
	maxEmitBatch = 4096
	// emitGather is how long the first ban of a batch waits for more. Readers of the lines poll (fail2ban once a
	// second), so the kernel and the peers get the processor first. If the last batch is less than a second old, the
	// wait is emitGatherMore.
	emitGather, emitGatherMore = 20 * time.Millisecond, 100 * time.Millisecond
)

// emitQueue holds bans that wait for the line file.
type emitQueue struct {
	wake chan struct{} // holds one token; add sends, take receives
	last time.Time     // used only by take: when it last returned a batch

	mu    sync.Mutex // guards what follows
	queue []emission
	lost  uint64
}

// emission is a ban as the classic line states it.
type emission struct {
	origin ban.Origin
	addr   netip.Addr
	port   uint16
}

func newEmitQueue() *emitQueue { return &emitQueue{wake: make(chan struct{}, 1)} }

// emits reports whether the line file gets a line for another node's ban: a CIDR has no classic form, and an imported
// list is nobody's sighting. Nor is a drill.
func emits(c ban.Change) bool {
	return c.Prefix.IsSingleIP() && !ban.Imported(c.Source) && !isDrill(c)
}

// add queues c if it is to be emitted. It never blocks.
func (q *emitQueue) add(c ban.Change) {
	if !emits(c) {
		return
	}
	q.mu.Lock()
	if len(q.queue) >= maxEmitQueue {
		q.queue = q.queue[1:]
		q.lost++
	}
	q.queue = append(q.queue, emission{c.Origin, c.Prefix.Addr(), onlyPort(c.Ports)})
	q.mu.Unlock()
	wake(q.wake)
}

// take waits for bans, gathers more, and returns up to maxEmitBatch of them, or false if ctx has ended.
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
			wake(q.wake)
		}
		if n > 0 {
			q.last = time.Now()
			return batch, true
		}
	}
}

// dropped returns how many bans never reached the line file because the queue was full.
func (q *emitQueue) dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

const (
	// echoGrace bounds how late a local fail2ban answers an emitted line with a line of its own. The ban of such a
	// line ends that much later than the emitted one, and such a line may still come that long after the emitted ban
	// has ended. fail2ban polls once a second; a minute covers a busy one.
	echoGrace = time.Minute
	// maxEchoes bounds the addresses remembered for echoGrace.
	maxEchoes = 1 << 16
)

// echoLocked reports whether a line exists only because this node emitted one: either an earlier run emitted this
// line, or a local fail2ban wrote it after reading an emitted one. Such a line is no sighting.
//
// A jail that reads the line file writes only echoes; any other jail writes none. If the jails are not known, the
// recipe's action is recognised: it repeats the address with all ports and no length. Any other line can be an echo
// only if a peer's ban already covers its ports and lasts as long.
func (d *Daemon) echoLocked(now time.Time, t *ban.Table, line logsrc.Line) bool {
	// A syslog daemon that writes what `logger -t newbans` said produces the same form, with this machine's name in it.
	// This node emits only what others banned.
	if line.Emitted && line.Origin != d.hostName {
		return true
	}
	if line.Net != 0 || !d.cfg.Lines.Emit {
		return false
	}
	if reads, known := d.fail2ban.Reads(line.Jail); known {
		return reads
	}
	ports, err := ban.ParsePorts(line.Ports)
	if err != nil || line.Misread != 0 {
		return false
	}
	recipes := ports.IsAll() && line.BanTime == 0 && line.Jail == ""
	if recipes && d.echoes.fresh(now, line.Addr) {
		return true
	}
	ends := now.Add(lineLength(&d.cfg, line) - echoGrace)
	for r := range t.RemoteBans(now, line.Addr) {
		if !ban.Imported(r.Source) && (recipes || covers(r.Ports, ports) && !r.Until.Before(ends)) {
			return true
		}
	}
	return false
}

// covers reports whether all contains every port in some.
func covers(all, some ban.Ports) bool {
	if all.IsAll() || some.IsAll() {
		return all.IsAll()
	}
	both, err := ban.PortsOf(slices.Concat(all.Ranges(), some.Ranges()))
	return err == nil && both == all
}

// echoes remembers addresses whose ban from the mesh has just ended.
type echoes struct {
	mu     sync.Mutex // guards what follows
	until  map[netip.Addr]time.Time
	purged time.Time
}

func newEchoes() *echoes { return &echoes{until: map[netip.Addr]time.Time{}} }

// lifted notes that another node's ban has ended at now.
func (e *echoes) lifted(now time.Time, c ban.Change) {
	if !emits(c) {
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
		e.until[c.Prefix.Addr()] = now.Add(echoGrace)
	}
}

// fresh reports whether the ban of addr from the mesh ended less than echoGrace ago.
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
