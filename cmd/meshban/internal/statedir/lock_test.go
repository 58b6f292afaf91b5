package statedir

import (
	"context"
	"errors"
	"testing"
	"time"
)

// An agent that started while a killed one was still exiting was refused.
func TestLockIsWaitedFor(t *testing.T) {
	dir := Dir(t.TempDir())
	release, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.LockWithin(t.Context(), 0); !errors.Is(err, ErrLocked) {
		t.Errorf("without a wait: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := dir.LockWithin(ended, time.Hour); !errors.Is(err, ErrLocked) {
		t.Errorf("with an ended context: %v", err)
	}
	holder := release
	time.AfterFunc(2*lockRetry, func() { _ = holder() })
	if release, err = dir.LockWithin(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}
