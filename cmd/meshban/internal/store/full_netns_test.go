//go:build linux && netns

package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// On a full disk a commit fails with ENOSPC, the file stays sound and in place, and what waits is written once there is
// room.
func TestFullDisk(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread has a mount namespace of its own and ends with the test
	dir := t.TempDir()
	err := errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store.db")
	s, err := Open(path, Options{OnDamage: func(d Damage) { t.Errorf("set aside: %v", d.Cause) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	seq := uint64(0)
	put := func() {
		for range 100 {
			seq++
			s.Put(KeyOf([16]byte{1}, 1, seq), arrived, bytes.Repeat([]byte{1}, 400))
		}
	}
	put()
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	for range 3 {
		put()
		if err := s.Sync(t.Context()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("on a full disk: %v", err)
		}
		if s.Stats().LastError == nil {
			t.Error("status says nothing")
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for s.Sync(t.Context()) != nil { // Run tries again after Retry
	}
	cancel()
	if err := errors.Join(<-done, s.Close()); err != nil {
		t.Fatal(err)
	}
	s = opened(t, path)
	if got := len(frames(t, s)); got != int(seq) {
		t.Errorf("%d of %d frames", got, seq)
	}
	if err := errors.Join(s.Close(), unix.Unmount(dir, unix.MNT_DETACH)); err != nil {
		t.Fatal(err)
	}
}
