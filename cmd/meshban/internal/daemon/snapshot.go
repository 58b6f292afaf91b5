package daemon

import (
	"runtime"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/fw"
)

// lockChunk is how many entries are processed under one hold of the lock: about 0.1 ms, which a fresh ban may have to
// wait each time.
const lockChunk = 256

// giveWay lets goroutines that wait for a processor, or for the lock that was just released, go first. Without it a
// busy goroutine keeps both for up to 10 ms.
func giveWay() { runtime.Gosched() }

// snapshot returns all that the kernel should hold. Its entries are read in chunks, so that bans go on meanwhile.
func (d *Daemon) snapshot() fw.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fw.State{
		Len: d.table.Counts().Active,
		Entries: func(yield func(fw.Entry) bool) {
			rules := make([]ban.Rule, 0, lockChunk)
			for cursor, more := uint32(0), true; more; more = cursor != 0 {
				d.mu.Lock()
				rules, cursor = d.table.EnforcedAfter(cursor, lockChunk, rules[:0])
				d.mu.Unlock()
				giveWay()
				for _, r := range rules {
					if !yield(kernelEntry(r)) {
						return
					}
				}
			}
		},
	}
}

// exceptions returns what the kernel should never drop.
func (d *Daemon) exceptions() fw.Exceptions {
	d.mu.Lock()
	all := d.table.Exceptions()
	d.mu.Unlock()
	never, allow := all.Lists()
	x := fw.Exceptions{Never: never, Allow: allow}
	if networks := d.networks.Load(); networks != nil {
		x.Networks = *networks
	}
	return x
}

// entries calls yield with each entry of the table, holding the lock only while a chunk is copied. An entry that
// changes meanwhile is seen before or after its change.
func (d *Daemon) entries(yield func(ban.Entry) bool) {
	var chunk []ban.Entry
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		d.mu.Lock()
		chunk, cursor = d.table.EntriesAfter(cursor, lockChunk)
		d.mu.Unlock()
		giveWay()
		for _, e := range chunk {
			if !yield(e) {
				return
			}
		}
	}
}
