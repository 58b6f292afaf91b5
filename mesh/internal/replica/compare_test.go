package replica

import (
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// rootOf is a signed answer to a ping.
func rootOf(peer frame.ID, root [32]byte, at time.Time) RootEvent {
	return RootEvent{peer, [RootLen]byte(root[:]), ClockOf(at), func(r [32]byte) bool { return r == root }}
}

// compared steps a core with a peer's answer to a ping, and returns the results of the comparison and the number of
// messages that follow.
func compared(c *Core, now time.Time, e RootEvent) (same []bool, sent int) {
	for _, r := range c.Step(now, e).Compared {
		same = append(same, r.Same)
	}
	return same, len(c.Step(now.Add(settleMax), TickEvent{}).Send)
}

// Only a digest that the peer has just signed settles a comparison. Anything else leads to a check in a session.
func TestCoreBelievesSignedRoots(t *testing.T) {
	peer := frame.ID{1}
	for _, tt := range []struct {
		name    string
		ahead   time.Duration // of the peer's clock
		clock   time.Duration // of the answer from now, by the peer's clock
		forged  bool
		other   int // index of the digest byte that differs; -1: none
		settles bool
	}{
		{"ok: just signed", 0, 0, false, -1, true},
		{"ok: the peer's clock is ahead", time.Hour, 0, false, -1, true},
		{"ok: the peer's clock is behind", -time.Hour, 0, false, -1, true},
		{"ok: some seconds old", 0, -ackFresh, false, -1, true},
		{"bad: not signed", 0, 0, true, -1, false},
		{"bad: older than that", 0, -ackFresh - time.Millisecond, false, -1, false},
		{"bad: not yet", 0, ackFresh + time.Millisecond, false, -1, false},
		{"bad: another digest", 0, 0, false, 0, false},
		{"bad: another digest behind the same first bytes", 0, 0, false, RootLen, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := coreFor(1)
			c.Step(simStart, UpEvent{peer})
			c.Step(simStart.Add(time.Second), TickEvent{}) // the first check
			c.Step(simStart.Add(time.Second), MessageEvent{&Message{kind: syncSame, From: peer, Session: c.peers[peer].own.id, clock: ClockOf(simStart.Add(time.Second + tt.ahead))}, 0})
			now := simStart.Add(time.Minute)
			root := c.root.sum()
			if tt.other >= 0 {
				root[tt.other]++
			}
			e := rootOf(peer, root, now.Add(tt.ahead+tt.clock))
			if tt.forged {
				e.Signed = func([32]byte) bool { return false }
			}
			same, sent := compared(c, now, e)
			if tt.settles != slices.Equal(same, []bool{true}) || tt.settles != (sent == 0) {
				t.Errorf("compared: %v, %d messages", same, sent)
			}
		})
	}
}

// An answer counts only if no later one has counted, so that nobody can keep an old one and replay it. After a session, the
// peer's clock is what it said there.
func TestCoreRefusesOldRoots(t *testing.T) {
	c, peer, now := coreFor(1), frame.ID{1}, simStart
	session := func(clock time.Time) {
		c.peers[peer].tries = 0
		c.set(c.peers[peer], phaseDue, now)
		c.Step(now, TickEvent{})
		c.Step(now, MessageEvent{&Message{kind: syncSame, From: peer, Session: c.peers[peer].own.id, clock: ClockOf(clock)}, 0})
	}
	c.Step(now, UpEvent{peer})
	session(now)
	early, late := now.Add(time.Second), now.Add(2*time.Second)
	now = now.Add(2 * time.Second)
	if same, _ := compared(c, now, rootOf(peer, c.root.sum(), late)); len(same) != 1 {
		t.Error("the later answer did not settle it")
	}
	if same, _ := compared(c, now, rootOf(peer, c.root.sum(), early)); len(same) != 0 {
		t.Error("an earlier answer settled it afterwards")
	}
	now, c.peers[peer].phase = now.Add(time.Hour), phaseIdle
	back := now.Add(-24 * time.Hour) // the peer sets its clock back
	if same, sent := compared(c, now, rootOf(peer, c.root.sum(), back)); len(same) != 0 || sent != 1 {
		t.Errorf("a clock of yesterday: %v, %d messages, want a check", same, sent)
	}
	session(back)
	if same, _ := compared(c, now.Add(time.Second), rootOf(peer, c.root.sum(), back.Add(time.Second))); len(same) != 1 {
		t.Error("after a session its new clock does not count")
	}
}

// A peer whose digest this node had a few seconds ago is in sync: the rest may be in flight. The difference is checked all
// the same.
func TestCoreCountsPastRoots(t *testing.T) {
	c, peer, now := coreFor(1), frame.ID{1}, simStart
	c.Step(now, UpEvent{peer})
	c.peers[peer].phase = phaseIdle
	c.peers[peer].clock.set(now, now, ClockOf(now))
	before := c.root.sum()
	c.Step(now, FramesEvent{Via: ViaPush, Frames: []frame.Frame{testFrame(t, signers[0], 1, 1, now, time.Hour, "")}})
	for _, tt := range []struct {
		after time.Duration
		root  [32]byte
		same  []bool
	}{
		{time.Second, before, []bool{true}},
		{rootKept, before, []bool{true}},
		{rootKept + time.Millisecond, before, nil},
		{rootKept + time.Second, [32]byte{9}, nil},
	} {
		at := now.Add(tt.after)
		c.peers[peer].phase = phaseIdle
		if same, sent := compared(c, at, rootOf(peer, tt.root, at)); !slices.Equal(same, tt.same) || sent != 1 {
			t.Errorf("after %v: %v and %d messages, want %v and a check", tt.after, same, sent, tt.same)
		}
	}
	// The result of a session decides.
	for _, tt := range []struct {
		root [32]byte
		same bool
	}{{[32]byte{9}, false}, {c.root.sum(), true}} {
		now = now.Add(time.Minute)
		p := c.peers[peer]
		p.tries, p.own = 0, session{}
		c.set(p, phaseDue, now)
		c.Step(now, TickEvent{})
		out := c.Step(now, MessageEvent{&Message{kind: syncDiffer, From: peer, Session: p.own.id, token: 7, root: tt.root}, 0})
		if len(out.Compared) != 1 || out.Compared[0].Same != tt.same {
			t.Errorf("a session: %+v, want %v", out.Compared, tt.same)
		}
	}
}

// Whatever changes, only digests of the last seconds are kept, and at most maxRoots.
func TestPastRootsBounded(t *testing.T) {
	var r pastRoots
	root := func(i int) (b [32]byte) {
		b[0], b[1], b[2] = byte(i), byte(i>>8), byte(i>>16)
		return b
	}
	now := simStart
	for i := range 3 * maxRoots {
		r.note(now, root(i+1))
		r.note(now, root(i+1))
		now = now.Add(rootKept / maxRoots / 2)
		if len(r.past) > maxRoots {
			t.Fatalf("%d are kept, want at most %d", len(r.past), maxRoots)
		}
	}
	if !r.had(now, root(3*maxRoots)) || !r.had(now, root(2*maxRoots+2)) || r.had(now, root(maxRoots)) {
		t.Error("the last ones are not what is kept")
	}
	now = now.Add(2 * rootKept)
	r.note(now, root(0))
	r.note(now, root(1))
	if len(r.past) > 2 {
		t.Errorf("%d are kept after a pause", len(r.past))
	}
}
