package replica

import (
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// A fleet that started in 1970 kept no frames of others once its clocks were right: certificates had been refused as too
// early, and nobody looked at them again.
func TestCoreLooksAgainWhenTimeHasCome(t *testing.T) {
	s := newSimulation(t, 3, 1)
	r := newRecorder(t)
	s.trust(r)
	var all []frame.Frame
	for i, id := range signers[:3] {
		all = append(all, r.cert(id.Public(), uint64(i+1), 24*time.Hour))
	}
	for i, id := range signers[:3] {
		for seq := range uint64(maxRetake) {
			all = append(all, testFrame(t, id, 1, seq+1, simStart, time.Hour, string(rune('a'+i))))
		}
	}
	dead := testFrame(t, signers[0], 2, 1, simStart, time.Second, "ends before the clock is right")
	stranger := testFrame(t, signers[3], 1, 1, simStart, time.Hour, "no certificate")
	past := testFrame(t, signers[0], 3, 1, time.UnixMilli(1).UTC(), 300*24*time.Hour, "of 1970")
	s.now = time.UnixMilli(60_000).UTC()
	for i := range s.cores {
		out := s.step(i, FramesEvent{Via: ViaRestore, Frames: append(slices.Clone(all), dead, stranger, past)})
		if len(out.Expired) != 0 || s.cores[i].count != 0 {
			t.Fatalf("in 1970 %d are dropped from the store, %d held", len(out.Expired), s.cores[i].count)
		}
	}
	s.now = simStart.Add(time.Minute)
	for i, c := range s.cores {
		var dropped []frame.Ref
		rewound, steps := 0, 0
		for due := true; due; steps++ {
			out := s.step(i, TickEvent{})
			dropped = append(dropped, out.Expired...)
			if out.Rewound {
				rewound++
			}
			if len(out.Deliver) > 0 {
				t.Fatal("what was judged before is delivered as new")
			}
			at, ok := c.early.next()
			due = ok && !at.After(s.now)
		}
		if c.count != len(all) || rewound != 1 || steps < 4 {
			t.Errorf("core %d: %d held, want %d; told %d times in %d steps", i, c.count, len(all), rewound, steps)
		}
		want := []frame.Ref{dead.Ref(), stranger.Ref(), past.Ref()}
		for _, ref := range want {
			if !slices.Contains(dropped, ref) {
				t.Errorf("core %d: %v stays in the store", i, ref)
			}
		}
		if len(dropped) != len(want) {
			t.Errorf("core %d: %d frames are dropped, want %d", i, len(dropped), len(want))
		}
	}
}

// Frames that a peer offered too early are requested when their time has come, even if fruitless comparisons have made the
// pauses long. A sender of future frames cannot make that happen all the time.
func TestCoreComparesWhenTimeHasCome(t *testing.T) {
	c, peer, now := coreFor(1), frame.ID{1}, simStart
	c.Step(now, UpEvent{peer})
	p := c.peers[peer]
	rest := func() { p.phase, p.at, p.backoff = phaseDue, now.Add(time.Hour), backoffMax }
	checks := func(at time.Time) int { return len(c.Step(at, TickEvent{}).Send) }
	rest()
	c.early.offered(testFrame(t, signers[0], 1, 1, now.Add(frame.FutureSkew+time.Minute), time.Hour, ""))
	c.early.offered(testFrame(t, signers[0], 1, 2, now.Add(time.Hour), time.Hour, ""))
	if n := checks(now.Add(time.Minute - time.Millisecond)); n != 0 {
		t.Errorf("%d checks before the time", n)
	}
	if at, ok := c.Next(); !ok || at.After(now.Add(time.Minute)) {
		t.Errorf("wakes at %v", at)
	}
	now = now.Add(time.Minute)
	checks(now)
	if n := checks(now.Add(settleMax)); n != 1 {
		t.Errorf("%d checks when the time has come, want 1", n)
	}
	rest()
	c.early.offered(testFrame(t, signers[0], 1, 3, now.Add(frame.FutureSkew), time.Hour, ""))
	if n := checks(now.Add(recheckEvery-time.Second)) + checks(now.Add(recheckEvery-time.Second+settleMax)); n != 0 {
		t.Errorf("%d checks soon after, want 0", n)
	}
	checks(now.Add(recheckEvery))
	if n := checks(now.Add(recheckEvery + settleMax)); n != 1 {
		t.Errorf("%d checks later, want 1", n)
	}
}
