package mesh

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// simGather is how long writes gather before a commit, as in the store.
const simGather = 50 * time.Millisecond

// simDisk is a node's store: writes are queued, and committed together; the epoch is written at once.
type simDisk struct {
	n       *simNode
	state   simState
	last    simState // before the last commit
	copied  simState // a snapshot of the machine
	torn    bool     // the next start finds it damaged
	spoiled bool     // it has lost committed data
	queue   []simWrite
	waiting bool // a commit is planned
}

// simState is the state after a commit.
type simState struct {
	frames map[frame.Ref][]byte
	epoch  uint64
}

func (s simState) clone() simState { return simState{maps.Clone(s.frames), s.epoch} }

// simWrite puts a frame, or drops one if raw is nil.
type simWrite struct {
	ref frame.Ref
	raw []byte
}

func newSimDisk(n *simNode) *simDisk {
	empty := simState{frames: map[frame.Ref][]byte{}}
	return &simDisk{n: n, state: empty, last: empty.clone(), copied: empty.clone()}
}

// boundary marks a point between two writes, where the machine may stop.
func (d *simDisk) boundary() {
	w := d.n.w
	if !w.calm && !d.n.dying && w.chance(w.plan.crashWrite) {
		w.faults[faultCrashWrite]++
		d.n.dying = true
	}
}

func (d *simDisk) put(ref frame.Ref, raw []byte) { d.enqueue(simWrite{ref, raw}) }
func (d *simDisk) drop(ref frame.Ref)            { d.enqueue(simWrite{ref, nil}) }

func (d *simDisk) enqueue(write simWrite) {
	if d.n.dying {
		return
	}
	d.queue = append(d.queue, write)
	if !d.waiting {
		d.waiting = true
		d.n.after(simGather, "commit", d.commit)
	}
}

func (d *simDisk) commit() {
	d.waiting = false
	if d.boundary(); d.n.dying {
		return
	}
	d.last = d.state.clone()
	for _, write := range d.queue {
		if write.raw == nil {
			delete(d.state.frames, write.ref)
		} else {
			d.state.frames[write.ref] = write.raw
		}
	}
	d.queue = nil
	d.boundary()
}

// raiseEpoch stores and returns the next epoch; it is on disk when it returns.
func (d *simDisk) raiseEpoch(atLeast uint64) uint64 {
	if d.boundary(); !d.n.dying {
		d.last = d.state.clone()
		d.state.epoch = max(d.state.epoch, atLeast) + 1
		d.boundary()
	}
	return max(d.state.epoch, atLeast, 1)
}

// crash loses what was not committed, and perhaps more.
func (d *simDisk) crash() {
	w := d.n.w
	d.queue, d.waiting = nil, false
	was := w.faults
	switch {
	case w.calm:
	case w.chance(w.plan.torn):
		w.faults[faultTorn]++
		d.torn = true
	case w.chance(w.plan.lostWrite):
		w.faults[faultLostWrite]++
		d.state = d.last.clone()
	case w.chance(w.plan.rollback):
		w.faults[faultRollback]++
		d.state = d.copied.clone()
	}
	d.spoiled = d.spoiled || was != w.faults
}

// open returns the frames in the store's order. A damaged store is set aside.
func (d *simDisk) open() [][]byte {
	if d.torn {
		d.torn = false
		d.state = simState{frames: map[frame.Ref][]byte{}}
	}
	refs := slices.SortedFunc(maps.Keys(d.state.frames), compareRefs)
	raws := make([][]byte, len(refs))
	for i, ref := range refs {
		raws[i] = d.state.frames[ref]
	}
	return raws
}

func compareRefs(r, o frame.Ref) int {
	return cmp.Or(bytes.Compare(r.Origin[:], o.Origin[:]), cmp.Compare(r.Epoch, o.Epoch), cmp.Compare(r.Seq, o.Seq))
}
