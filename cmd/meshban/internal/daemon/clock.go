package daemon

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh/frame"
)

// rewound applies the held frames again after the clock was set: a clock that was ahead has ended some ops too early,
// and with a clock that was behind some did not count yet. Ops that lift bans come before bans, so that a lifted ban
// never counts, not even for a moment: they have come back from peers or the store or, if all clocks were ahead, are
// still in the table. rewound runs on the mesh's own goroutine, so all held frames were judged before.
func (d *Daemon) rewound(live iter.Seq[frame.Frame]) {
	now := time.Now()
	stored, err := d.syncedHolds()
	if err != nil {
		d.log.Error("the clock was set; what did not count by it counts with the next start of the agent", "err", err)
		return
	}
	d.log.Warn("the clock was set; what did not count by it counts now")
	var ended []ban.Record
	d.state.View(func(t *ban.Table) { ended = t.Ended() })
	d.merge(now, ended)
	d.takeAgain(now, live, stored)
}

// syncedHolds returns the stored holds once everything queued is on disk.
func (d *Daemon) syncedHolds() (storedHolds, error) {
	ctx, cancel := context.WithTimeout(context.Background(), keepLimit)
	defer cancel()
	if err := d.store.Sync(ctx); err != nil {
		return storedHolds{}, err
	}
	return d.storedHolds()
}

// takeAgain merges frames that were judged before: ops that lift bans first, then bans.
func (d *Daemon) takeAgain(now time.Time, live iter.Seq[frame.Frame], stored storedHolds) {
	for _, bans := range []bool{false, true} {
		for f := range live {
			records := slices.DeleteFunc(d.decode(now, now, f), func(r ban.Record) bool { return (r.Kind == ban.KindBan) != bans })
			d.admit(now, []*arrival{{f, records}}, func(at time.Time, t *ban.Table, r *ban.Record) error {
				if f.Issued.After(at) { // it was admitted while the clock was ahead
					at = f.Issued
				}
				return stored.judgeLocked(at, t, r)
			})
		}
	}
}
