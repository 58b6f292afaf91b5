package enforce

import (
	"context"
	"net/netip"
	"sync"

	"github.com/meshban/meshban/ban"
)

// acks tracks this node's own changes that the kernel has not answered yet. The zero value is ready to use.
type acks struct {
	mu      sync.Mutex // guards what follows
	last    uint64
	open    map[netip.Prefix]uint64 // the last batch about each prefix
	changed chan struct{}           // closed when something is answered; nil while nobody waits
}

// begin records the changes of a batch whose origin is ours, and returns the batch's number.
func (a *acks) begin(changes []ban.Change, ours func(ban.Origin) bool) (batch uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	for _, c := range changes {
		if ours(c.Origin) && (c.Enforce || c.Lift) {
			if a.open == nil {
				a.open = make(map[netip.Prefix]uint64)
			}
			a.open[c.Prefix] = a.last
		}
	}
	return a.last
}

// end records that the kernel has answered for a batch.
func (a *acks) end(batch uint64, changes []ban.Change) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range changes {
		if a.open[c.Prefix] == batch {
			delete(a.open, c.Prefix)
		}
	}
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

// Await returns when the kernel has answered for every change by this node that overlaps one of the prefixes, or with
// ctx's error.
func (s *State) Await(ctx context.Context, prefixes []netip.Prefix) error {
	return s.acks.wait(ctx, prefixes)
}

// wait returns when the kernel has answered for every change that overlaps one of the prefixes, or with ctx's error.
func (a *acks) wait(ctx context.Context, prefixes []netip.Prefix) error {
	for {
		a.mu.Lock()
		open := a.openLocked(prefixes)
		if open && a.changed == nil {
			a.changed = make(chan struct{})
		}
		changed := a.changed
		a.mu.Unlock()
		if !open {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *acks) openLocked(prefixes []netip.Prefix) bool {
	for p := range a.open {
		for _, q := range prefixes {
			if p.Overlaps(q) {
				return true
			}
		}
	}
	return false
}
