package daemon

import (
	"context"
	"time"
)

const (
	// expiryIdle bounds the sleep when nothing expires soon, so that a stepped clock is noticed.
	expiryIdle = 30 * time.Second
	// expiryPause is the shortest time between two rounds: bans that end within it go to the kernel as one batch.
	expiryPause = 20 * time.Millisecond
	// slicePause is the time left to others between two slices of what ends together; each slice holds the lock for
	// less than 1 ms.
	slicePause = 200 * time.Microsecond
)

// expire removes what has ended, on time, until ctx ends.
func (d *Daemon) expire(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-d.expireKick:
		}
		now := time.Now()
		d.mu.Lock()
		next, ok := d.table.Next()
		d.mu.Unlock()
		if ok && !next.After(now) {
			d.mesh.Expire(now) // so that it notices when a clock that was ahead is set back
			d.mu.Lock()
			d.settleLocked(d.table.Expire(now))
			next, ok = d.table.Next()
			d.mu.Unlock()
			d.fw.Flush()
		}
		wait := expiryIdle
		if ok {
			wait = min(wait, max(time.Until(next), expiryPause))
			if !next.After(now) {
				wait = slicePause
			}
		}
		timer.Reset(wait)
	}
}
