package daemon

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/errgroup"
)

// A task that hangs in a kernel or file system call does not keep the agent from ending, and is named.
func TestTaskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		tasks, ctx := errgroup.WithContext(ctx)
		var running sync.Map
		hung := make(chan struct{})
		running.Store("line file", true)
		tasks.Go(func() error { <-hung; return nil })
		cancel()
		if err := await(ctx, tasks, &running); err == nil || !strings.Contains(err.Error(), "line file") {
			t.Error(err)
		}
		close(hung)
	})
}
