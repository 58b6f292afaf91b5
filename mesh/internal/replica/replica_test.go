package replica

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"pgregory.net/rapid"
)

func (w window) contains(v uint64) bool {
	i := w.find(v)
	return i < len(w) && w[i].first <= v
}

// A window is the set of numbers that were added, in its shortest form, whatever their order.
func TestWindowIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		set := make(map[uint64]bool)
		for _, v := range rapid.SliceOfN(rapid.Uint64Range(1, 60), 0, 80).Draw(t, "numbers") {
			if w.add(v) == set[v] {
				t.Fatalf("adding %d: wrong answer", v)
			}
			set[v] = true
		}
		gaps := w.gaps(1, math.MaxUint64)
		for v := uint64(1); v <= 62; v++ {
			if w.contains(v) != set[v] || gaps.contains(v) == set[v] {
				t.Fatalf("%d: in the window %v, in its gaps %v, was added %v", v, w.contains(v), gaps.contains(v), set[v])
			}
		}
		for i := 1; i < len(w); i++ {
			if w[i].first <= w[i-1].last+1 {
				t.Fatalf("spans touch: %v", w)
			}
		}
		back, err := decodeWindow(appendWindow(nil, w), maxSpans)
		if err != nil || fmt.Sprint(back) != fmt.Sprint(w) {
			t.Fatalf("decoded %v, %v; want %v", back, err, w)
		}
	})
}

func TestWindowBound(t *testing.T) {
	var w window
	for v := uint64(1); v < 4*maxSpans; v += 2 {
		w.add(v)
	}
	if len(w) > maxSpans || len(w) < maxSpans/2 {
		t.Errorf("%d spans, want %d to %d", len(w), maxSpans/2, maxSpans)
	}
	if last := w[len(w)-1]; last != (span{4*maxSpans - 1, 4*maxSpans - 1}) {
		t.Errorf("the newest span is %v", last)
	}
}

func TestWindowRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"bad: half a span":        {1},
		"bad: number 0":           {0, 0},
		"bad: spans that touch":   {1, 0, 1, 0},
		"bad: a longer varint":    {0x81, 0x00, 0},
		"bad: overflow":           {1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0},
		"bad: length overflows":   {2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"bad: a cut-short varint": {1, 0x80},
	} {
		if w, err := decodeWindow(b, maxSpans); err == nil {
			t.Errorf("%s: decoded as %v", name, w)
		}
	}
}

// The digest does not depend on the order, and removal undoes addition.
func TestDigest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var hashes []lanes
	for range 100 {
		var h [32]byte
		for i := range h {
			h[i] = byte(rng.Uint32())
		}
		hashes = append(hashes, expand(h))
	}
	var a, b digest
	for i := range hashes {
		a.add(&hashes[i])
	}
	for _, i := range rng.Perm(len(hashes)) {
		b.add(&hashes[i])
	}
	if a.sum() != b.sum() || a.sum() == [32]byte{} {
		t.Error("the order matters")
	}
	for n, i := range rng.Perm(len(hashes)) {
		a.sub(&hashes[i])
		if a.sum() == b.sum() {
			t.Fatalf("without %d frames the digest is the same", n+1)
		}
	}
	if a.sum() != [32]byte{} {
		t.Error("removing all does not give the empty digest")
	}
}

// Each lane adds and subtracts modulo 2^16, whatever its neighbours do.
func TestDigestLanes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		var a digest
		var b, added, taken lanes
		for i := range b {
			a.lanes[i], b[i] = rng.Uint64(), rng.Uint64()
			for shift := 0; shift < 64; shift += 16 {
				x, y := uint16(a.lanes[i]>>shift), uint16(b[i]>>shift)
				added[i] |= uint64(x+y) << shift
				taken[i] |= uint64(x-y) << shift
			}
		}
		sum, difference := a, a
		sum.add(&b)
		difference.sub(&b)
		if sum.lanes != added || difference.lanes != taken {
			t.Fatal("a lane is wrong")
		}
	}
}

// Digests travel between nodes, so all Go releases must expand a hash alike: c2sp.org/chacha8rand is fixed.
func TestDigestIsFixed(t *testing.T) {
	var d digest
	e := expand([32]byte([]byte("ABCDEFGHIJKLMNOPQRSTUVWXYZ123456")))
	if e[0] != 0xb773b6063d4616a5 || e[1] != 0x1160af22a66abc3c {
		t.Errorf("expanded to %#x, %#x", e[0], e[1])
	}
	d.add(&e)
	t.Logf("%x", d.sum())
}

func coreFor(seed uint64) *Core {
	return New(frame.ID{9}, frame.ID{}, 1, rand.New(rand.NewPCG(seed, 0)))
}

func TestCoreTakesFrames(t *testing.T) {
	const hour = time.Hour
	id := signers[0]
	base := testFrame(t, id, 1, 5, simStart, hour, "a")
	twin := testFrame(t, id, 1, 5, simStart, hour, "b")
	for _, tt := range []struct {
		name  string
		f     frame.Frame
		at    time.Duration // after simStart
		want  Verdict
		count int
	}{
		{"ok: next", testFrame(t, id, 1, 6, simStart, hour, ""), 0, VerdictNew, 2},
		{"ok: far ahead", testFrame(t, id, 1, 1<<40, simStart, hour, ""), 0, VerdictNew, 2},
		{"ok: an older epoch", testFrame(t, id, 7, 1, simStart, hour, ""), 0, VerdictNew, 2},
		{"bad: again", base, 0, VerdictDuplicate, 1},
		{"bad: another of that name", twin, 0, VerdictEquivocal, 1},
		{"bad: over", testFrame(t, id, 1, 6, simStart, time.Minute, ""), time.Minute, VerdictExpired, 1},
		{"ok: a millisecond before its end", testFrame(t, id, 1, 6, simStart, time.Minute, ""), time.Minute - 1, VerdictNew, 2},
		{"bad: from the future", testFrame(t, id, 1, 6, simStart.Add(frame.FutureSkew+time.Millisecond), hour, ""), 0, VerdictFuture, 1},
		{"ok: a clock that is a little ahead", testFrame(t, id, 1, 6, simStart.Add(frame.FutureSkew), hour, ""), 0, VerdictNew, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := coreFor(1)
			c.Step(simStart, FramesEvent{Via: ViaPush, Frames: []frame.Frame{base}})
			now := simStart.Add(tt.at)
			if got := c.Judge(now, tt.f); got != tt.want {
				t.Errorf("judged %d, want %d", got, tt.want)
			}
			out := c.Step(now, FramesEvent{Via: ViaPush, Frames: []frame.Frame{tt.f}})
			if out.Verdicts[tt.want] != 1 || c.count != tt.count {
				t.Errorf("verdicts %v, %d held; want %d, %d", out.Verdicts, c.count, tt.want, tt.count)
			}
			if len(out.Relay) != 0 {
				t.Error("passed on though it came straight from its origin")
			}
			if (tt.want == VerdictEquivocal) != (len(out.Equivocal) == 1) {
				t.Errorf("%d reports of equivocation", len(out.Equivocal))
			}
		})
	}
}

func TestCoreDeliversByWay(t *testing.T) {
	f := testFrame(t, signers[0], 1, 1, simStart, time.Hour, "")
	for _, tt := range []struct {
		by                       Via
		admitted, deliver, relay int
	}{
		{ViaOwn, 1, 0, 0}, {ViaRestore, 0, 0, 0}, {ViaPush, 1, 1, 0}, {ViaTree, 1, 1, 1}, {ViaSync, 1, 1, 0},
	} {
		out := coreFor(1).Step(simStart, FramesEvent{Via: tt.by, Frames: []frame.Frame{f}})
		if len(out.Admitted) != tt.admitted || len(out.Deliver) != tt.deliver || len(out.Relay) != tt.relay {
			t.Errorf("way %d: %d admitted, %d delivered, %d relayed", tt.by, len(out.Admitted), len(out.Deliver), len(out.Relay))
		}
	}
}

func TestCoreExpires(t *testing.T) {
	c := coreFor(1)
	for seq := uint64(1); seq <= 3*maxExpireStep; seq++ {
		c.insert(frame.Frame{Origin: frame.ID{1}, Epoch: 1, Seq: seq, Expires: simStart.Add(time.Minute), Raw: expiringRaw})
	}
	if at, ok := c.Next(); !ok || !at.Equal(simStart.Add(time.Minute)) {
		t.Errorf("next at %v, %v", at, ok)
	}
	for left := 3 * maxExpireStep; left > 0; {
		out := c.Step(simStart.Add(time.Minute), TickEvent{})
		if len(out.Expired) == 0 || len(out.Expired) > maxExpireStep {
			t.Fatalf("%d frames expired in one step", len(out.Expired))
		}
		if left -= len(out.Expired); c.count != left {
			t.Fatalf("%d held, want %d", c.count, left)
		}
	}
	if c.root.sum() != [32]byte{} || c.index.Len() != 0 || len(c.streams) != 0 || len(c.expiry) != 0 {
		t.Errorf("left behind: root %x, %d streams, %d deadlines", c.root.sum(), len(c.streams), len(c.expiry))
	}
}

// expiringRaw is a frame that ends a minute after simStart.
var expiringRaw = func() []byte {
	f, err := signers[0].Sign(frame.Frame{Epoch: 1, Seq: 1, Issued: simStart, Expires: simStart.Add(time.Minute)})
	if err != nil {
		panic(err)
	}
	return f.Raw
}()

// A node whose clock was ahead dropped frames that live on elsewhere. Once the clock is right, it must not claim them as
// seen.
func TestCoreClockStepsBack(t *testing.T) {
	s := newSimulation(t, 2, 3)
	for seq := uint64(1); seq <= 20; seq++ {
		f := testFrame(t, signers[0], 1, seq, s.now, time.Duration(seq)*10*time.Minute, "")
		for i := range s.cores {
			s.step(i, FramesEvent{Via: ViaPush, Frames: []frame.Frame{f}})
		}
	}
	s.cores[1].Step(s.now.Add(time.Hour), TickEvent{}) // its clock is an hour ahead for a moment
	if got := s.cores[1].count; got != 14 {
		t.Fatalf("%d frames held, want 14", got)
	}
	s.connect()
	s.run(20 * time.Second)
	s.checkEqual()
	if got := s.cores[1].count; got != 20 {
		t.Errorf("%d frames held, want 20", got)
	}
}

// The core notices that its key is in use elsewhere.
func TestCoreNoticesItsKeyElsewhere(t *testing.T) {
	self := signers[0]
	for _, tt := range []struct {
		name       string
		epoch, seq uint64
		payload    string
		by         Via
		want       uint64
	}{
		{"ok: an echo of ours", 3, 1, "mine", ViaPush, 0},
		{"ok: of an earlier run", 2, 9, "old", ViaSync, 0},
		{"ok: from our store", 4, 1, "stored", ViaRestore, 0},
		{"bad: our epoch, a number that we did not use", 3, 2, "x", ViaSync, 3},
		{"bad: our epoch and number, other bytes", 3, 1, "x", ViaPush, 3},
		{"bad: a later epoch", 8, 1, "x", ViaSync, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := New(self.ID(), frame.ID{}, 3, rand.New(rand.NewPCG(1, 1)))
			c.Step(simStart, FramesEvent{Via: ViaOwn, Frames: []frame.Frame{testFrame(t, self, 3, 1, simStart, time.Hour, "mine")}})
			out := c.Step(simStart, FramesEvent{Via: tt.by, Frames: []frame.Frame{testFrame(t, self, tt.epoch, tt.seq, simStart, time.Hour, tt.payload)}})
			if out.RollPast != tt.want {
				t.Errorf("roll past %d, want %d", out.RollPast, tt.want)
			}
		})
	}
}

// A difference that lasts no longer than a frame is in flight causes no packet; one that stays causes a session.
func TestCoreToleratesFramesOnTheirWay(t *testing.T) {
	c := coreFor(1)
	peer := frame.ID{1}
	c.Step(simStart, UpEvent{peer})
	now := simStart.Add(time.Second)
	c.Step(now, TickEvent{}) // the first comparison
	c.Step(now, MessageEvent{&Message{kind: syncSame, From: peer, Session: c.peers[peer].own.id, clock: ClockOf(now)}, 0})
	c.Step(now, rootOf(peer, [32]byte{1}, now))
	if out := c.Step(now.Add(settleMin), TickEvent{}); len(out.Send) != 0 {
		t.Error("a difference was followed up at once")
	}
	c.Step(now.Add(settleMin), rootOf(peer, c.root.sum(), now.Add(settleMin)))
	if out := c.Step(now.Add(2*settleMax), TickEvent{}); len(out.Send) != 0 {
		t.Error("a difference that is over was followed up")
	}
	now = now.Add(time.Second)
	c.Step(now, rootOf(peer, [32]byte{1}, now))
	if out := c.Step(now.Add(settleMax), TickEvent{}); len(out.Send) != 1 {
		t.Errorf("a difference that stays made %d messages, want 1", len(out.Send))
	}
}

// Pings can be lost: a node that has long compared with nobody asks one peer, and not again at once.
func TestCoreAsksWhenPingsAreLost(t *testing.T) {
	c := coreFor(1)
	for i := range byte(3) {
		c.Step(simStart, UpEvent{frame.ID{1 + i}})
		c.peers[frame.ID{1 + i}].clock.set(simStart, simStart, ClockOf(simStart))
		c.Step(simStart, rootOf(frame.ID{1 + i}, c.root.sum(), simStart))
	}
	c.Step(simStart.Add(overdue/2), TickEvent{})
	if at, ok := c.Next(); !ok || at != simStart.Add(overdue) {
		t.Errorf("wakes at %v, want %v", at, simStart.Add(overdue))
	}
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{overdue - time.Millisecond, 0}, {overdue, 1}, {overdue + time.Millisecond, 0}} {
		if out := c.Step(simStart.Add(tt.after), TickEvent{}); len(out.Send) != tt.want {
			t.Errorf("after %v: %d messages, want %d", tt.after, len(out.Send), tt.want)
		}
	}
}

// Roots that differ although nothing can be moved must not cause more and more traffic.
func TestCoreBacksOff(t *testing.T) {
	s := newSimulation(t, 2, 5)
	f := testFrame(t, signers[0], 1, 1, s.now.Add(frame.FutureSkew/2), 24*time.Hour, "")
	s.step(0, FramesEvent{Via: ViaPush, Frames: []frame.Frame{f}})
	s.connect()
	s.run(10 * time.Second)
	s.checkEqual()
	// Core 1 loses a frame unnoticed, and its peer cannot know: the window still claims it.
	st := s.cores[1].streams[StreamKey{f.Origin, 1}]
	s.cores[1].remove(st, 1)
	s.cores[1].root.add(&lanes{7}) // and its root stays wrong for ever
	s.run(time.Minute)
	before := s.bytes
	s.run(10 * time.Minute)
	if got := s.bytes - before; got > 30_000 {
		t.Errorf("%d bytes in ten minutes for a difference that cannot be repaired", got)
	}
}

// Raising the epoch is rate-limited: the second of two epochs found in use within 10 s was forgotten, and the node went on
// with sequence numbers that were taken.
func TestEpochIsRaisedAgain(t *testing.T) {
	id := signers[0]
	c := New(id.ID(), frame.ID{}, 1, nil)
	at := func(epoch uint64) frame.Frame { return testFrame(t, id, epoch, 1, simStart, time.Hour, "") }
	if out := c.Step(simStart, FramesEvent{Via: ViaSync, Frames: []frame.Frame{at(1)}}); out.RollPast != 1 {
		t.Errorf("epoch %d was found in use, want 1", out.RollPast)
	}
	c.RaiseEpoch(2)
	if out := c.Step(simStart, TickEvent{}); out.RollPast != 0 {
		t.Errorf("epoch %d was found in use, though it was raised", out.RollPast)
	}
	c.Step(simStart, FramesEvent{Via: ViaSync, Frames: []frame.Frame{at(2)}})
	if out := c.Step(simStart, TickEvent{}); out.RollPast != 2 {
		t.Errorf("epoch %d was found in use, want 2 until it is raised", out.RollPast)
	}
}
