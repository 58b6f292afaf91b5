package replica

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// simulation runs cores on a simulated network and clock; a seed gives one history.
type simulation struct {
	tb     meshtest.TB
	now    time.Time
	rng    *rand.Rand
	cores  []*Core
	online []bool
	byID   map[frame.ID]int
	queue  packetHeap
	order  uint64 // breaks ties among simultaneous packets
	loss   float64
	dup    float64
	bytes  uint64
	// chunkDelay is how much longer a chunk takes than other messages.
	chunkDelay time.Duration
	// largest is the size of the largest message.
	largest int
	seen    []map[frame.Ref]int // deliveries per core
}

type packet struct {
	at    time.Time
	order uint64
	to    int
	out   Outgoing
}

type packetHeap []packet

func (h packetHeap) Len() int { return len(h) }
func (h packetHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].order < h[j].order
}
func (h packetHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *packetHeap) Push(x any)   { *h = append(*h, x.(packet)) }
func (h *packetHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	*h = old[:len(old)-1]
	return p
}

func newSimulation(tb meshtest.TB, nodes int, seed uint64) *simulation {
	s := &simulation{tb: tb, now: simStart, rng: rand.New(rand.NewPCG(seed, 1)), byID: make(map[frame.ID]int)}
	for i := range nodes {
		var id frame.ID
		binary.BigEndian.PutUint64(id[:], uint64(i+1)*0x9e3779b97f4a7c15)
		s.cores = append(s.cores, New(id, frame.ID{}, 1, rand.New(rand.NewPCG(seed, uint64(i+2)))))
		s.online = append(s.online, true)
		s.seen = append(s.seen, make(map[frame.Ref]int))
		s.byID[id] = i
	}
	return s
}

// step gives a core an event and sends its messages.
func (s *simulation) step(i int, ev any) Actions {
	out := s.cores[i].Step(s.now, ev)
	for _, f := range out.Deliver {
		s.seen[i][f.Ref()]++
	}
	for _, m := range out.Send {
		s.largest = max(s.largest, len(m.Msg))
		copies := 1
		if s.rng.Float64() < s.dup {
			copies = 2
		}
		for range copies {
			if s.rng.Float64() < s.loss {
				continue
			}
			s.order++
			s.bytes += uint64(len(m.Msg))
			delay := time.Duration(100+s.rng.IntN(5000)) * time.Microsecond
			if m.Kind == wire.KindChunk {
				delay += s.chunkDelay
			}
			heap.Push(&s.queue, packet{s.now.Add(delay), s.order, s.byID[m.To], m})
		}
	}
	return out
}

func (s *simulation) receive(p packet) {
	if !s.online[p.to] {
		return
	}
	msg, err := DecodeMessage(p.out.Msg)
	if err != nil {
		s.tb.Fatalf("a core sent what cannot be decoded: %v", err)
	}
	fresh := 0
	if len(msg.Frames) > 0 && !s.cores[p.to].Expects(s.now, msg) {
		msg.Frames = nil
	}
	for _, raw := range msg.Frames {
		f, err := frame.Decode(slices.Clone(raw))
		if err != nil {
			s.tb.Fatalf("a core sent a frame that cannot be decoded: %v", err)
		}
		if v := s.cores[p.to].Judge(s.now, f); v == VerdictNew || v == VerdictEquivocal || v == VerdictUnknown {
			fresh += len(s.step(p.to, FramesEvent{ViaSync, []frame.Frame{f}, msg.From}).Admitted)
		}
	}
	for part := range msg.Split {
		s.step(p.to, MessageEvent{part, fresh})
	}
}

// run advances the clock by d. Every second each core learns the digest of one other, as from a ping.
func (s *simulation) run(d time.Duration) {
	end := s.now.Add(d)
	nextPing := s.now
	for s.now.Before(end) {
		at := nextPing
		if len(s.queue) > 0 && s.queue[0].at.Before(at) {
			at = s.queue[0].at
		}
		due := -1
		for i, c := range s.cores {
			if t, ok := c.Next(); ok && s.online[i] && t.Before(at) {
				at, due = t, i
			}
		}
		if at.After(s.now) {
			s.now = at
		}
		switch {
		case due >= 0:
			s.step(due, TickEvent{})
		case len(s.queue) > 0 && !s.queue[0].at.After(at):
			s.receive(heap.Pop(&s.queue).(packet))
		default:
			for i := range s.cores {
				if j := s.rng.IntN(len(s.cores)); j != i && s.online[i] && s.online[j] {
					s.step(i, rootOf(s.cores[j].self, s.cores[j].root.sum(), s.now))
				}
			}
			nextPing = nextPing.Add(time.Second)
		}
	}
}

func (s *simulation) connect() {
	for i := range s.cores {
		for j := range s.cores {
			if i != j {
				s.step(i, UpEvent{s.cores[j].self})
			}
		}
	}
}

// live returns the frames that a core holds, and checks that its digests match them.
func (s *simulation) live(i int) map[frame.Ref]string {
	frames := make(map[frame.Ref]string)
	var root digest
	count := 0
	s.cores[i].index.Ascend(func(st *stream) bool {
		var sum digest
		st.frames.Ascend(func(h held) bool {
			f, err := frame.Decode(h.raw)
			if err != nil {
				s.tb.Fatalf("core %d holds a broken frame: %v", i, err)
			}
			frames[f.Ref()] = string(h.raw)
			e := expand(f.Hash())
			root.add(&e)
			sum.add(&e)
			count++
			return true
		})
		if sum.lanes != st.sum.lanes || s.cores[i].streams[st.key] != st {
			s.tb.Errorf("core %d: the digest of a stream is not that of its frames", i)
		}
		return true
	})
	if root.lanes != s.cores[i].root.lanes || count != s.cores[i].count {
		s.tb.Errorf("core %d: digest or count is not that of its frames", i)
	}
	return frames
}

func (s *simulation) checkEqual() {
	s.tb.Helper()
	for i := range s.cores {
		s.step(i, TickEvent{}) // drop what has ended by now
	}
	want := s.live(0)
	for i := range s.cores {
		got := s.live(i)
		if len(got) != len(want) {
			s.tb.Errorf("core %d holds %d frames, core 0 %d", i, len(got), len(want))
			continue
		}
		for ref, raw := range want {
			if got[ref] != raw {
				s.tb.Errorf("core %d holds another frame than core 0 as %v", i, ref)
			}
		}
		if s.cores[i].root.sum() != s.cores[0].root.sum() {
			s.tb.Errorf("core %d: equal frames, different digests", i)
		}
	}
}

// Frames in any order, duplicated and lost, followed by anti-entropy over a lossy network, leave the same frames and the
// same digest everywhere, and no frame is delivered twice under one name.
func TestCoresConverge(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		n := rapid.IntRange(2, 5).Draw(rt, "nodes")
		s := newSimulation(rt, n, seed)
		s.loss = rapid.Float64Range(0, 0.5).Draw(rt, "loss")
		s.dup = rapid.Float64Range(0, 0.5).Draw(rt, "dup")
		var frames []frame.Frame
		equivocal := rapid.Bool().Draw(rt, "equivocation")
		for _, id := range signers[:rapid.IntRange(1, len(signers)).Draw(rt, "origins")] {
			epochs := rapid.Uint64Range(1, 3).Draw(rt, "epochs")
			for epoch := range epochs {
				count := rapid.Uint64Range(0, 12).Draw(rt, "frames")
				for seq := range count {
					life := time.Duration(1+s.rng.IntN(400)) * time.Second
					frames = append(frames, testFrame(rt, id, epoch+1, seq+1, s.now, life, fmt.Sprint("a", seq)))
					if equivocal && s.rng.IntN(4) == 0 {
						life = time.Duration(1+s.rng.IntN(400)) * time.Second
						frames = append(frames, testFrame(rt, id, epoch+1, seq+1, s.now, life, fmt.Sprint("b", seq)))
					}
				}
			}
		}
		names := make(map[frame.Ref]int)
		for _, f := range frames {
			names[f.Ref()]++
		}
		s.connect()
		for range 2 { // in the second round, what arrived in the first is a duplicate
			s.rng.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
			for _, f := range frames {
				for i := range s.cores {
					if s.rng.Float64() < 0.5 {
						s.step(i, FramesEvent{Via: ViaPush, Frames: []frame.Frame{f}})
					}
				}
				s.run(time.Duration(s.rng.IntN(50)) * time.Millisecond)
			}
		}
		s.run(30 * time.Second)
		s.loss, s.dup = 0, 0
		s.run(180 * time.Second)
		s.checkEqual()
		for i := range s.cores {
			for ref, times := range s.seen[i] {
				if times > 1 && names[ref] == 1 { // of two under one name, the loser may come back once the winner has expired
					rt.Errorf("core %d delivered %v %d times", i, ref, times)
				}
			}
		}
	})
}
