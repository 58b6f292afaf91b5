package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
)

// storeDamaged reports that a damaged file of the store was set aside, and has refillStore restore what is missing.
func (d *Daemon) storeDamaged(damage store.Damage) {
	d.problems.set("store", fmt.Sprintf("%s was damaged, and is set aside as %s: %d of its frames are sound, peers give back the others (%v)",
		d.home.Store(), damage.Aside, damage.Kept, damage.Cause), fileRemedy(d.home.Store(), damage.Cause))
	d.log.Error("the store was damaged, and is set aside; peers give back what is missing", "aside", damage.Aside, "frames", damage.Kept, "err", damage.Cause)
	wake(d.refillWake)
}

// storeMissing reports if a node that has run before has no store. Call it before the store is created.
func (d *Daemon) storeMissing() {
	_, errStore := os.Lstat(d.home.Store())
	_, errAudit := os.Lstat(d.home.Audit())
	if !errors.Is(errStore, fs.ErrNotExist) || errAudit != nil {
		return
	}
	d.problems.set("store", fmt.Sprintf("%s was missing, though this node has run before; peers give back what was in it", d.home.Store()),
		"nothing need be done, unless you know of no reason: then look at its disk with `dmesg`")
	d.log.Error("the store was missing, though this node has run before; peers give back what was in it", "store", d.home.Store())
}

// refillStore calls refill whenever a new store has replaced a damaged one.
func (d *Daemon) refillStore(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.refillWake:
			d.refill(ctx)
		}
	}
}

// refillLast refills the store if damage was found while the agent stopped. Call it after the tasks and the store
// have stopped.
func (d *Daemon) refillLast() error {
	select {
	case <-d.refillWake:
		d.refill(context.Background())
		return d.store.Flush()
	default:
		return nil
	}
}

// refill writes what this node knows to the store. Holds go before the frames, so that no crash leaves frames without
// their holds.
func (d *Daemon) refill(ctx context.Context) {
	err := d.eachHeld(ctx, func(records []ban.Record) error {
		for _, r := range records {
			d.store.Hold(holdOf(&r), r.Version.Index, uint8(r.Hold))
		}
		return nil
	})
	if err != nil { // ctx has ended: refillLast continues
		wake(d.refillWake)
		return
	}
	now := time.Now()
	for frame := range d.mesh.Frames() {
		d.store.Refill(store.KeyOf(frame.Origin, frame.Epoch, frame.Seq), now, frame.Raw)
	}
}
