package daemon

import (
	"iter"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
	"github.com/meshban/meshban/mesh/frame"
)

// replaced removes the ops of frames that another frame with the same origin and number has replaced. It runs on the
// mesh's own goroutine, before the other frame is delivered.
func (d *Daemon) replaced(frames []frame.Frame) {
	now := time.Now()
	for _, f := range frames {
		// Decisions about this frame do not apply to the other one, which is stored next.
		d.store.Drop(store.KeyOf(f.Origin, f.Epoch, f.Seq))
		ops, err := ban.DecodeOps(f.Payload)
		if err != nil {
			continue // it held no ops
		}
		d.state.Change(now, func(t *ban.Table) []ban.Change { return t.Unsay(now, recordsOf(now, f, ops)) })
	}
}

// retold merges again the other frames of every origin whose frames were replaced.
func (d *Daemon) retold(live iter.Seq[frame.Frame]) {
	stored, err := d.syncedHolds()
	if err != nil {
		d.log.Error("a node signed two frames under one number; what it had said before of the same addresses counts again with the next start of the agent", "err", err)
		return
	}
	d.takeAgain(time.Now(), live, stored)
}
