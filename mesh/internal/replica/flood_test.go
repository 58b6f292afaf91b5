package replica

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// A member that exceeds its share displaces only its own last frames, and all nodes keep the same frames in whatever order
// they arrive.
func TestLedgerBoundsAnOrigin(t *testing.T) {
	for _, most := range []load{{frames: 5, bytes: 1 << 20, epochs: 100}, {frames: 100, bytes: 5 * 250, epochs: 100}, {frames: 100, bytes: 1 << 20, epochs: 2}} {
		var frames []frame.Frame
		for i := range uint64(12) {
			frames = append(frames, testFrame(t, signers[0], 1+i/4, 1+i%4, simStart, time.Hour, "payload"))
		}
		other := testFrame(t, signers[1], 9, 9, simStart, time.Hour, "of another")
		var want [32]byte
		for try := range 20 {
			c := New(frame.ID{1}, frame.ID{}, 1, rand.New(rand.NewPCG(1, 2)))
			c.most = most
			order := rand.New(rand.NewPCG(uint64(try), 3)).Perm(len(frames))
			expired := map[frame.Ref]bool{}
			feed := func(f frame.Frame) {
				out := c.Step(simStart, FramesEvent{Via: ViaSync, Frames: []frame.Frame{f}})
				for _, ref := range out.Expired {
					expired[ref] = true
				}
			}
			feed(other)
			for range 3 { // as syncs do, until nothing changes
				for _, i := range order {
					feed(frames[i])
				}
			}
			o := c.origins[signers[0].ID()]
			if o.frames > most.frames || o.bytes > most.bytes || o.epochs > most.epochs || o.frames < 2 {
				t.Fatalf("%+v are held, want at most %+v", *o, most)
			}
			if _, ok := c.get(other.Ref()); !ok {
				t.Fatal("another origin had to make room")
			}
			for ref := range expired {
				if _, held := c.get(ref); held && try == 0 {
					t.Logf("%v came back", ref)
				}
			}
			if root := c.root.sum(); try == 0 {
				want = root
			} else if root != want {
				t.Fatalf("order %v leaves something else", order)
			}
		}
	}
}

// A window also covers expired frames: a node that leaves gaps in its numbers and lets most of its frames end at once
// cannot make others keep more spans than the bound, and the count stays right whatever happens to the frames.
func TestWindowsOfAnOriginAreBounded(t *testing.T) {
	const most, epochs = 200, 5
	c := New(frame.ID{1}, frame.ID{}, 1, rand.New(rand.NewPCG(1, 2)))
	c.most.spans = most
	now, left := simStart, []frame.Ref(nil)
	rng := rand.New(rand.NewPCG(3, 4))
	check := func(what string) {
		t.Helper()
		spans := 0
		for _, s := range c.streamsOf(frame.ID{2}) {
			spans += len(s.seen)
		}
		o := c.origins[frame.ID{2}]
		if o == nil {
			o = &load{}
		}
		if spans != o.spans || spans > most+epochs {
			t.Fatalf("%s: %d spans, counted as %d, want at most %d", what, spans, o.spans, most+epochs)
		}
	}
	for i := range uint64(2000) {
		f := frame.Frame{Origin: frame.ID{2}, Epoch: 1 + i%epochs, Seq: 2 * (1 + rng.Uint64N(5000)), Expires: now.Add(time.Minute), Raw: expiringRaw}
		if _, held := c.get(f.Ref()); held {
			continue
		}
		c.insert(f)
		if check("a frame more"); i >= epochs {
			left = append(left, f.Ref()) // one frame of each epoch stays
		}
		if len(left) > 20 {
			c.remove(c.streams[StreamKey{left[0].Origin, left[0].Epoch}], left[0].Seq)
			left = left[1:]
			check("a frame less")
		}
	}
	c.rebuildWindows()
	check("windows made anew")
	for _, s := range c.streamsOf(frame.ID{2}) {
		c.letGo(s)
		check("a stream less")
	}
}

// Deadlines of frames that are no longer held do not pile up.
func TestLedgerForgetsStaleEnds(t *testing.T) {
	c := New(frame.ID{1}, frame.ID{}, 1, rand.New(rand.NewPCG(1, 2)))
	c.most.frames = 1
	for seq := uint64(3 * maxStale); seq > 0; seq-- { // each displaces the one before
		f := frame.Frame{Origin: frame.ID{2}, Epoch: 1, Seq: seq, Expires: simStart.Add(time.Minute), Raw: expiringRaw}
		c.makeRoom(f)
		c.insert(f)
	}
	if c.count != 1 || len(c.expiry) > 2+maxStale {
		t.Errorf("%d frames are held, and %d ends", c.count, len(c.expiry))
	}
}

// A peer that begins syncs endlessly, in its own name and in those of others, keeps two honest nodes apart for a few
// seconds at most.
func TestLiesDoNotStarveASync(t *testing.T) {
	honest := []*Core{New(signers[0].ID(), frame.ID{}, 1, rand.New(rand.NewPCG(1, 1))), New(signers[1].ID(), frame.ID{}, 1, rand.New(rand.NewPCG(2, 2)))}
	ids := []frame.ID{honest[0].self, honest[1].self, {9}}
	now := simStart
	deliver := func(out Actions) {
		for queue := out.Send; len(queue) > 0; {
			msg := queue[0]
			queue = queue[1:]
			for _, c := range honest {
				if c.self != msg.To {
					continue
				}
				m, err := DecodeMessage(msg.Msg)
				if err != nil {
					t.Fatal(err)
				}
				fresh := 0
				for _, raw := range m.Frames {
					f, err := frame.Decode(raw)
					if err != nil {
						t.Fatal(err)
					}
					got := c.Step(now, FramesEvent{Via: ViaSync, Frames: []frame.Frame{f}, From: m.From})
					fresh += len(got.Admitted)
					queue = append(queue, got.Send...)
				}
				queue = append(queue, c.Step(now, MessageEvent{m, fresh}).Send...)
			}
		}
	}
	for _, c := range honest {
		for _, id := range ids {
			if id != c.self {
				deliver(c.Step(now, UpEvent{id}))
			}
		}
	}
	rng := rand.New(rand.NewPCG(5, 5))
	missed := simStart.Add(5 * time.Second)
	for i := 1; now.Before(missed) || honest[0].root.sum() != honest[1].root.sum(); i++ {
		if now.Sub(missed) > 15*time.Second {
			t.Fatal("the honest nodes are still apart after 15 s")
		}
		if now = now.Add(5 * time.Millisecond); now.Equal(missed) {
			honest[0].Step(now, FramesEvent{Via: ViaPush, Frames: []frame.Frame{testFrame(t, signers[2], 1, 1, now, time.Hour, "missed")}})
		}
		for _, c := range honest {
			deliver(c.Step(now, TickEvent{}))
			if i%20 == 0 { // ten checks a second, in each name in turn, with no follow-up
				from := ids[i/20%3]
				m := &Message{kind: syncCheck, From: from, Session: rng.Uint64(), root: [32]byte{byte(i), 7}}
				out := c.Step(now, MessageEvent{Msg: m})
				if from == (frame.ID{9}) {
					continue
				}
				deliver(out)
			}
			if i%400 == 0 { // a ping
				for _, other := range honest {
					if other != c {
						deliver(c.Step(now, rootOf(other.self, other.root.sum(), now)))
					}
				}
			}
		}
	}
	t.Logf("in step after %v", now.Sub(missed))
}

// A million bans of one node fit, even if each came in its own frame: that is how many peers let it have in force by
// default.
func TestAMillionFramesOfOneNodeFit(t *testing.T) {
	one := testFrame(t, signers[0], 1<<33, 1<<20, time.Now(), time.Hour, string(make([]byte, 55)))
	const most = 1_250_000
	c := New(frame.ID{1}, frame.ID{}, 1, nil)
	c.origins[one.Origin] = &load{frames: most - 1, bytes: (most - 1) * len(one.Raw), epochs: 1}
	if v := c.Judge(time.Now(), one); v != VerdictNew {
		t.Errorf("frame %d of one node, %d bytes each, is judged %d, want %d", most, len(one.Raw), v, VerdictNew)
	}
}

// A peer that has filled the ledger keeps nobody from banning at home.
func TestOwnFrameInAFullLedger(t *testing.T) {
	c := New(signers[1].ID(), frame.ID{}, 1, nil)
	c.count = maxHeld
	other := testFrame(t, signers[0], 1, 1, simStart, time.Hour, "of another")
	own := testFrame(t, signers[1], 1, 1, simStart, time.Hour, "at home")
	if v, o := c.Judge(simStart, other), c.JudgeOwn(simStart, own); v != VerdictFull || o != VerdictNew {
		t.Errorf("in a full ledger the frame of another is judged %d, ours %d, want %d and %d", v, o, VerdictFull, VerdictNew)
	}
	c.Step(simStart, FramesEvent{Via: ViaOwn, Frames: []frame.Frame{own}})
	c.Step(simStart, FramesEvent{Via: ViaPush, Frames: []frame.Frame{other}})
	if !c.Holds(own.Ref()) || c.Holds(other.Ref()) {
		t.Errorf("ours is held: %v, the other's: %v", c.Holds(own.Ref()), c.Holds(other.Ref()))
	}
}
