package listener

import (
	"container/heap"
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Touch says that the ban of a prefix has changed.
type Touch struct {
	Prefix netip.Prefix
	Source string // of the ban that is in force, or was until now; "" = unknown
	Gone   bool   // it is no longer in force
	// Fresh means that the prefix was not in force before.
	Fresh bool
	// Was is the end that was said before, if the ban now lasts longer.
	Was time.Time
}

// changes is a bounded log of what was touched. Entry numbers only grow; a client's cursor is the number of the first
// entry that it has not been told of.
type changes struct {
	wake chan struct{} // holds one token: there are new entries or repeats. add sends, run receives

	mu       sync.Mutex // guards what follows
	log      []entry
	first    uint64                  // number of log[0]; at least 1
	last     map[netip.Prefix]uint64 // number of the newest entry of each prefix in the log
	changed  chan struct{}           // closed when held answers should look again
	repeats  repeats
	overflow time.Time // until when repeats may be missing
}

// entry is one touch. Only the newest of a prefix counts.
type entry struct {
	prefix netip.Prefix
	at     int64  // Unix time
	stale  uint64 // number of the prefix's newest entry that was not fresh: who knows less than that has never seen it
	list   string // the list that the ban came from, or ""
	source string // of the newest ban in force; "" = unknown
	mixed  bool   // clients may have been told of a ban from another source
}

// repeat is a ban that lasts longer than some clients know, who ignore it until the end that they know.
type repeat struct {
	at     time.Time
	prefix netip.Prefix
	again  bool
}

type repeats []repeat

func (h repeats) Len() int           { return len(h) }
func (h repeats) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h repeats) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *repeats) Push(x any)        { *h = append(*h, x.(repeat)) }
func (h *repeats) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

func newChanges(known []Ended) *changes {
	c := &changes{wake: make(chan struct{}, 1), first: 1, last: make(map[netip.Prefix]uint64), changed: make(chan struct{})}
	for _, e := range known {
		c.addLocked(e.At, Touch{Prefix: e.Prefix, Source: e.Source, Gone: true})
	}
	return c
}

// add notes touches. It is quick: the daemon calls it.
func (c *changes) add(now time.Time, touches []Touch) {
	if len(touches) == 0 {
		return
	}
	c.mu.Lock()
	for _, t := range touches {
		c.addLocked(now, t)
		if !t.Was.IsZero() {
			c.repeatLocked(repeat{t.Was.Add(repeatAfter), t.Prefix, true})
		}
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *changes) addLocked(now time.Time, t Touch) {
	n := c.first + uint64(len(c.log))
	e := entry{prefix: t.Prefix, at: now.Unix(), stale: n, source: t.Source, mixed: !t.Fresh && (!t.Gone || t.Source == "")}
	name, ok := strings.CutPrefix(t.Source, listSource)
	if ok {
		e.list = name
	}
	if old, known := c.last[t.Prefix]; known {
		was := c.log[old-c.first]
		if t.Fresh {
			e.stale = was.stale
		} else if !ok {
			e.list = was.list // an unban does not say where the ban came from
		}
		if t.Source == "" && t.Gone {
			e.source = was.source
		}
		e.mixed = was.mixed || e.source != was.source
	} else if t.Fresh {
		e.stale = 0
	}
	c.log, c.last[t.Prefix] = append(c.log, e), n
	for len(c.log) > maxChanges || c.log[0].at < now.Add(-changesKept).Unix() {
		if e := c.log[0]; c.last[e.prefix] == c.first {
			delete(c.last, e.prefix)
		}
		c.log, c.first = c.log[1:], c.first+1
		if len(c.log) == 0 {
			break
		}
	}
}

func (c *changes) repeatLocked(r repeat) {
	if len(c.repeats) >= maxRepeats {
		if r.at.After(c.overflow) {
			c.overflow = r.at
		}
		return
	}
	heap.Push(&c.repeats, r)
}

// run wakes held answers and notes repeats until ctx ends.
func (c *changes) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.wake:
			select {
			case <-ctx.Done():
				return
			case <-time.After(gather):
			}
		}
		timer.Reset(c.tell(time.Now()))
	}
}

// overflowEvery is how often everybody is told everything anew while repeats are missing.
const overflowEvery = time.Minute

// tell notes what is due to be said again, has held answers look, and returns when it is to be called again.
func (c *changes) tell(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.repeats) > 0 && !c.repeats[0].at.After(now) {
		r := heap.Pop(&c.repeats).(repeat)
		var source string
		if n, ok := c.last[r.prefix]; ok {
			source = c.log[n-c.first].source
		}
		c.addLocked(now, Touch{Prefix: r.prefix, Source: source})
		if r.again {
			c.repeatLocked(repeat{r.at.Add(repeatAgain - repeatAfter), r.prefix, false})
		}
	}
	wait := overflowEvery
	if !c.overflow.IsZero() {
		if now.After(c.overflow) {
			c.overflow = time.Time{}
		}
		c.forgetLocked()
	}
	if len(c.repeats) > 0 {
		wait = min(wait, max(c.repeats[0].at.Sub(now), time.Millisecond))
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return wait
}

// forgetLocked makes every cursor too old. Entries keep their order under new numbers.
func (c *changes) forgetLocked() {
	shift := uint64(len(c.log)) + 1
	c.first += shift
	for p := range c.last {
		c.last[p] += shift
	}
	for i := range c.log {
		if c.log[i].stale > 0 {
			c.log[i].stale += shift
		}
	}
}

// look returns where the log begins and ends, and a channel that is closed when it is to be looked at again.
func (c *changes) look() (first, end uint64, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first, c.first + uint64(len(c.log)), c.changed
}

// after appends to dst up to n entries from a number on, before end, without those that have a newer one, and returns the
// number to continue with; ok is false if entries from this number on are already gone.
func (c *changes) after(from, end uint64, n int, dst []entry) (es []entry, next uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from < c.first {
		return dst, end, false
	}
	end = min(end, c.first+uint64(len(c.log)))
	for next = from; next < end && len(dst) < n; next++ {
		if e := c.log[next-c.first]; c.last[e.prefix] == next {
			dst = append(dst, e)
		}
	}
	return dst, next, true
}
