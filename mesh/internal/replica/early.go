package replica

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// A frame refused as from the future is looked at again once its time has come, even if only because the clock was set:
// a machine without a battery for its clock starts in 1970, and to it the mesh's certificates and frames are from the
// future.

const (
	// maxRetake bounds the stored frames looked at again in one step.
	maxRetake = 512
	// recheckEvery is the least time between two comparisons with all peers for frames refused as from the future: any
	// holder of the mesh's key can send some.
	recheckEvery = 10 * time.Second
)

// early holds what was refused because its time had not come.
type early struct {
	stored   []frame.Frame // from the store, in its order: the authority's first
	storedAt time.Time     // when the first of stored may count
	retake   []frame.Frame // formerly stored, still to be looked at again
	// offeredAt is when the first refused frame from a peer may count; zero: none was refused. Peers offer it again when
	// digests are compared.
	offeredAt time.Time
	rechecked time.Time
}

// keep records a frame from the store that does not count yet.
func (e *early) keep(f frame.Frame) {
	e.stored = append(e.stored, f)
	e.storedAt = Earlier(e.storedAt, f.Issued.Add(-frame.FutureSkew))
}

// offered records that a peer's frame was refused because its time had not come.
func (e *early) offered(f frame.Frame) {
	e.offeredAt = Earlier(e.offeredAt, f.Issued.Add(-frame.FutureSkew))
}

// next returns when there may be something to look at again.
func (e *early) next() (at time.Time, ok bool) {
	switch {
	case len(e.retake) > 0:
		return time.Time{}, true
	case e.storedAt.IsZero():
		return e.offeredAt, !e.offeredAt.IsZero()
	case e.offeredAt.IsZero():
		return e.storedAt, true
	}
	return Earlier(e.storedAt, e.offeredAt), true
}

// lookAgain takes in stored frames whose time has come, and starts a comparison with all peers once the time of frames
// that they offered has come.
func (c *Core) lookAgain(now time.Time, out *Actions) {
	e := &c.early
	if len(e.retake) == 0 && len(e.stored) > 0 && !e.storedAt.After(now) {
		e.retake, e.stored, e.storedAt = e.stored, nil, time.Time{}
	}
	if n := min(len(e.retake), maxRetake); n > 0 {
		some := e.retake[:n]
		if e.retake = e.retake[n:]; len(e.retake) == 0 {
			e.retake, out.Rewound = nil, true
		}
		for _, f := range some {
			c.take(now, f, ViaRestore, out)
		}
	}
	if e.offeredAt.IsZero() || e.offeredAt.After(now) {
		return
	}
	if wait := e.rechecked.Add(recheckEvery); now.Before(wait) && !e.rechecked.After(now) {
		e.offeredAt = wait
		return
	}
	e.offeredAt, e.rechecked = time.Time{}, now
	// In order, so that each peer draws the same jitter in every run of a simulation.
	for _, id := range slices.SortedFunc(maps.Keys(c.peers), func(a, b frame.ID) int { return bytes.Compare(a[:], b[:]) }) {
		p := c.peers[id]
		if p.backoff = 0; p.phase == phaseIdle || p.phase == phaseDue {
			p.tries = 0
			c.set(p, phaseDue, now.Add(c.jitter(settleMax)))
		}
	}
}

// Earlier returns the earlier of two times; a zero a does not count.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
