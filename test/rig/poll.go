//go:build linux && netns

package rig

import (
	"context"
	"fmt"
	"time"
)

// pollEvery is how often Poll looks. It bounds no figure: times come from
// packets, not from when somebody looked.
const pollEvery = 5 * time.Millisecond

// Poll calls check until it returns nil. When ctx ends first, the error wraps
// check's last one.
func Poll(ctx context.Context, check func() error) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not in time: %w", err)
		case <-ticker.C:
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
