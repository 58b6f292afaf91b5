package replica

import (
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// An empty node among full ones gets everything once, in chunks, however many peers notice that it has nothing.
func TestCoreStreamsOnce(t *testing.T) {
	for _, tt := range []struct {
		name   string
		loss   float64
		budget float64 // bytes on the wire per byte of frames
		within time.Duration
	}{
		{"ok: a good network", 0, 1.2, 3 * time.Second},
		{"ok: a bad network", 0.2, 8, 2 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const frames = 5000
			s := newSimulation(t, 8, 7)
			size := 0
			for seq := uint64(1); seq <= frames; seq++ {
				f := testFrame(t, signers[seq%4], 1, 1+seq/4, s.now, time.Hour, "a payload of some length, as one ban has")
				size += len(f.Raw)
				for i := range s.cores[1:] {
					s.step(i+1, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{f}})
				}
			}
			s.loss = tt.loss
			s.connect()
			start := s.now
			for s.cores[0].count < frames && s.now.Sub(start) < tt.within {
				s.run(10 * time.Millisecond)
			}
			t.Logf("%d frames after %v, %.2f bytes on the wire per byte", s.cores[0].count, s.now.Sub(start), float64(s.bytes)/float64(size))
			if got := float64(s.bytes) / float64(size); got > tt.budget {
				t.Errorf("%.2f bytes on the wire per byte of frames, want at most %.1f", got, tt.budget)
			}
			if s.largest > maxChunk+64 {
				t.Errorf("a message of %d bytes", s.largest)
			}
			s.checkEqual()
		})
	}
}

// Frames that end while they are streamed, a peer that vanishes half way, and one that comes back.
func TestCoreStreamInterrupted(t *testing.T) {
	s := newSimulation(t, 2, 9)
	for seq := uint64(1); seq <= 8000; seq++ {
		life := time.Hour
		if seq%3 == 0 {
			life = time.Duration(seq) * time.Millisecond
		}
		f := testFrame(t, signers[seq%4], 1, 1+seq/4, s.now, life, "a payload of some length, as one ban has")
		s.step(0, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{f}})
	}
	s.connect()
	for s.cores[1].count == 0 {
		s.run(time.Millisecond)
	}
	s.online[1] = false
	s.run(2 * transferTimeout)
	if len(s.cores[0].transfers) != 0 {
		t.Error("a transfer to a peer that vanished goes on")
	}
	if s.cores[1].count >= s.cores[0].count {
		t.Fatal("the test is too slow to interrupt anything")
	}
	s.online[1] = true
	s.run(30 * time.Second)
	s.checkEqual()
}

// A peer that says nothing after a vector, or acknowledges what was never sent, holds up nobody.
func TestCoreLyingPeer(t *testing.T) {
	s := newSimulation(t, 3, 11)
	for seq := uint64(1); seq <= 100; seq++ {
		s.step(0, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{testFrame(t, signers[0], 1, seq, s.now, time.Hour, "")}})
	}
	s.connect()
	liar := frame.ID{0xee}
	for i := range s.cores {
		s.step(i, UpEvent{liar})
	}
	s.byID[liar] = 0 // messages to the liar end up at core 0, which ignores them
	for i := range s.cores {
		for session := range uint64(100) {
			s.step(i, MessageEvent{&Message{kind: syncCheck, From: liar, Session: session, root: [32]byte{1}}, 0})
			s.step(i, MessageEvent{&Message{kind: syncVector, From: liar, Session: session, root: [32]byte{1}}, 0})
			s.step(i, MessageEvent{&Message{kind: syncAck, From: liar, Session: session, num: 77, fresh: 9}, 0})
			s.step(i, MessageEvent{&Message{kind: syncChunk, From: liar, Session: session, num: 77}, 0})
		}
		if n := len(s.cores[i].transfers); n > maxTransfers {
			t.Errorf("core %d serves %d transfers", i, n)
		}
	}
	s.run(20 * time.Second)
	s.checkEqual()
}

// A chunk that arrives after its session has timed out is still accepted.
func TestCoreSlowLink(t *testing.T) {
	s := newSimulation(t, 2, 15)
	s.chunkDelay = transferTimeout - time.Second
	size := 0
	for seq := uint64(1); seq <= 6000; seq++ {
		f := testFrame(t, signers[seq%4], 1, 1+seq/4, s.now, time.Hour, "a payload of some length, as one ban has")
		size += len(f.Raw)
		s.step(1, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{f}})
	}
	s.connect()
	for start := s.now; s.cores[0].count < 6000; s.run(100 * time.Millisecond) {
		if s.now.Sub(start) > time.Minute {
			t.Fatalf("%d frames after a minute", s.cores[0].count)
		}
	}
	if got := float64(s.bytes) / float64(size); got > 1.3 {
		t.Errorf("%.2f bytes on the wire per byte of frames", got)
	}
	s.checkEqual()
}
