package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

func opened(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// arrived is the arrival time of the tests' frames.
var arrived = time.Date(2026, 11, 22, 11, 2, 11, 687e6, time.UTC)

func frames(t *testing.T, s *Store) [][]byte {
	t.Helper()
	var out [][]byte
	if err := s.Frames(func(_ time.Time, raw []byte) error { out = append(out, bytes.Clone(raw)); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRestartGivesBackFramesValuesAndRaisesTheEpoch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := opened(t, path)
	first, err := s.RaiseEpoch(0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.Put(KeyOf([16]byte{1}, 1, 2), arrived, []byte("second"))
	s.Put(KeyOf([16]byte{1}, 1, 1), arrived, []byte("first"))
	s.Put(KeyOf([16]byte{2}, 9, 9), arrived, []byte("dropped"))
	s.Drop(KeyOf([16]byte{2}, 9, 9))
	s.Set("position", []byte("42"))
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = opened(t, path)
	defer func() { _ = s.Close() }()
	if err := s.Frames(func(at time.Time, raw []byte) error {
		if !at.Equal(arrived) {
			t.Errorf("%q arrived at %v, want %v", raw, at, arrived)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	got := frames(t, s)
	if len(got) != 2 || string(got[0]) != "first" || string(got[1]) != "second" {
		t.Errorf("frames after restart = %q, want first and second in order", got)
	}
	if v := s.Value("position"); string(v) != "42" {
		t.Errorf("value after restart = %q, want 42", v)
	}
	if v := s.Value("absent"); v != nil {
		t.Errorf("absent value = %q, want nil", v)
	}
	second, err := s.RaiseEpoch(0)
	if err != nil {
		t.Fatal(err)
	}
	if second <= first {
		t.Errorf("epoch after restart = %d, want above %d", second, first)
	}
	if third, err := s.RaiseEpoch(100); err != nil || third != 101 {
		t.Errorf("RaiseEpoch(100) = %d, %v; want 101", third, err)
	}
}

func TestSecondOpenSaysInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := opened(t, path)
	defer func() { _ = s.Close() }()
	if _, err := Open(path, Options{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("second open: %v, want ErrInUse", err)
	}
}

// A failed commit once lost its writes. They must stay queued, in order, for the next try.
func TestFailedCommitKeepsItsWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := opened(t, path)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.Put(KeyOf([16]byte{1}, 1, 1), arrived, []byte("a"))
	if err := s.Flush(); err == nil {
		t.Fatal("flush into a closed database succeeded")
	}
	if s.Stats().LastError == nil {
		t.Error("a failed commit is not visible in Stats")
	}
	again := opened(t, path)
	defer func() { _ = again.Close() }()
	s.db = again.db
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := frames(t, s); len(got) != 1 || string(got[0]) != "a" {
		t.Errorf("frames = %q, want the write that failed first", got)
	}
}

// The writes of a command that had exited with 0 were lost if a kill followed at once: the commit was still gathering.
func TestSyncReturnsWhenItIsOnDisk(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.db"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for seq := range uint64(20) {
		s.Put(KeyOf([16]byte{1}, 1, seq), arrived, []byte("a"))
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(frames(t, s)); got != int(seq)+1 {
			t.Fatalf("after Sync %d frames are on disk, want %d", got, seq+1)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatalf("sync of nothing: %v", err)
	}
	s.Set("late", nil)
	if err := s.Sync(ctx); err == nil {
		t.Error("sync without a commit returned nil")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkPut(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "store.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	raw := make([]byte, 1200)
	n := uint64(0)
	for b.Loop() {
		n++
		s.Put(KeyOf([16]byte{1}, 1, n), arrived, raw)
		if n%10_000 == 0 {
			if err := s.Flush(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func TestHoldsLastAsLongAsTheirFrame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := opened(t, path)
	stays, goes := KeyOf([16]byte{1}, 1, 2), KeyOf([16]byte{1}, 1, 3)
	s.Put(stays, arrived, []byte("stays"))
	s.Put(goes, arrived, []byte("goes"))
	for op := range uint16(300) {
		s.Hold(goes, op, 1)
	}
	s.Hold(stays, 0, 1)
	s.Hold(stays, 299, 3)
	s.Hold(stays, 7, 2)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	s.Hold(stays, 299, 4)
	s.Hold(stays, 7, 0)
	s.Drop(goes)
	if err := errors.Join(s.Flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = opened(t, path)
	defer func() { _ = s.Close() }()
	got := map[uint16]uint8{}
	if err := s.Holds(func(key FrameKey, op uint16, hold uint8) {
		if key != stays {
			t.Errorf("hold %d of op %d outlived its frame", hold, op)
		}
		got[op] = hold
	}); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0] != 1 || got[7] != 0 || got[299] != 4 {
		t.Errorf("holds after a restart: %v", got)
	}
}

// A commit sorts its writes, but the last one for a name or a frame still wins.
func TestTheLastWriteStands(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.db"))
	defer func() { _ = s.Close() }()
	key := func(i int) FrameKey { return KeyOf([16]byte{1}, 1, uint64(i)) }
	for round := range 4 {
		for i := range 100 {
			i = i * 37 % 100
			s.Set(fmt.Sprint("name", i), []byte(fmt.Sprint(round)))
			s.Put(key(i), arrived, []byte(fmt.Sprint(round)))
			if (i+round)%2 == 0 {
				s.Set(fmt.Sprint("name", i), nil)
				s.Drop(key(i))
			}
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		want := ""
		if i%2 == 0 {
			want = "3"
		}
		if got := string(s.Value(fmt.Sprint("name", i))); got != want {
			t.Errorf("value %d is %q, want %q", i, got, want)
		}
	}
	if got := frames(t, s); len(got) != 50 {
		t.Errorf("%d frames, want 50", len(got))
	}
}
