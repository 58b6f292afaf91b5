package daemon

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/errgroup"
)

// A task that hangs in a kernel or file system call does not keep the agent from ending, is named, and the debug log shows
// where it hangs.
func TestTaskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		tasks, ctx := errgroup.WithContext(ctx)
		var running sync.Map
		hung := make(chan struct{})
		running.Store("line file", true)
		tasks.Go(func() error { <-hung; return nil })
		cancel()
		var log logBuffer
		d := &Daemon{given: given{log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}}
		if err := d.await(ctx, tasks, &running); err == nil || !strings.Contains(err.Error(), "line file") {
			t.Error(err)
		}
		if got := log.String(); !strings.Contains(got, "TestTaskThatHangs") {
			t.Errorf("logged: %s", got)
		}
		close(hung)
	})
}
