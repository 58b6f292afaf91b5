package daemon

import (
	"context"
	"iter"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh"
)

// rewound takes over again what the frames say that are held, once the clock was set: some of it had ended by a clock that
// was ahead, or had not counted yet by one that was behind. What lifts bans comes before what bans, so that no ban that was
// lifted counts for a moment: it has come back from peers or from the store, or, if all clocks were ahead, the table
// remembers it. It is called from the mesh's own goroutine: all that is held was judged before.
func (d *Daemon) rewound(live iter.Seq[mesh.Frame]) {
	now := time.Now()
	stored, err := d.syncedHolds()
	if err != nil {
		d.log.Error("the clock was set; what did not count by it counts with the next start of the agent", "err", err)
		return
	}
	d.log.Warn("the clock was set; what did not count by it counts now")
	d.mu.Lock()
	ended := d.table.Ended()
	d.mu.Unlock()
	d.apply(now, ended)
	d.takeAgain(now, live, stored)
}

// syncedHolds returns what waits for the operator, as the disk tells.
func (d *Daemon) syncedHolds() (storedHolds, error) {
	ctx, cancel := context.WithTimeout(context.Background(), keepLimit)
	defer cancel()
	if err := d.store.Sync(ctx); err != nil {
		return storedHolds{}, err
	}
	return d.storedHolds()
}

// takeAgain takes over what frames say that were judged before: what lifts bans before what bans.
func (d *Daemon) takeAgain(now time.Time, live iter.Seq[mesh.Frame], stored storedHolds) {
	for _, bans := range []bool{false, true} {
		var some []ban.Record
		for frame := range live {
			begin, at := len(some), now
			if frame.Issued.After(at) { // it was let in when the clock was ahead
				at = frame.Issued
			}
			some = d.decode(some, at, now, frame, stored.judgeLocked)
			kept := some[:begin]
			for _, r := range some[begin:] {
				if (r.Kind == ban.KindBan) == bans {
					kept = append(kept, r)
				}
			}
			if some = kept; len(some) >= lockChunk {
				d.apply(now, some)
				some = some[:0]
			}
		}
		d.apply(now, some)
	}
}
