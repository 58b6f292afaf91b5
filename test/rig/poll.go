//go:build linux && netns

package rig

import (
	"context"
	"fmt"
	"time"
)

const (
	// pollEvery is the shortest time between two checks of Poll. It limits the
	// precision of no figure, because times come from packets, not from checks.
	pollEvery = 5 * time.Millisecond
	// Poll rests pollRest times as long as its last check took, but at most pollSlowest: checks that run commands
	// must not load the machine that they wait for.
	pollRest    = 3
	pollSlowest = time.Second
)

// Poll calls check until it returns nil. If ctx ends first, the error wraps
// check's last one.
func Poll(ctx context.Context, check func() error) error {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	for {
		begin := time.Now()
		err := check()
		if err == nil {
			return nil
		}
		timer.Reset(min(max(pollEvery, pollRest*time.Since(begin)), pollSlowest))
		select {
		case <-ctx.Done():
			return fmt.Errorf("not in time: %w", err)
		case <-timer.C:
		}
	}
}

// Within is Poll with a limit instead of a context.
func Within(limit time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := Poll(ctx, check); err != nil {
		return fmt.Errorf("%v: %w", limit, err)
	}
	return nil
}
