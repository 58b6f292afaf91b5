package mesh

import (
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxPacket bounds a message that goes by UDP, in bytes: with memberlist's encryption and the headers of UDP and IPv6
	// it stays below 1,500.
	maxPacket = 1380
	// freshSize is the most bytes of a packet or frame that goes before larger ones, at both ends: a few fresh bans are
	// that small, and the frames of a bulk are not, so that a fresh ban passes a bulk on its way.
	freshSize = 512
	// maxPush bounds the jobs that wait for the sender; what finds it full reaches the others by sync.
	maxPush = 4096
	// pushBatch bounds the jobs whose frames are packed together.
	pushBatch = 64
	// maxPass bounds the jobs in front of which frames are still passed on to the next node: under load a sync repairs
	// what is lost, and nobody can make the mesh send twice what he sends.
	maxPass = 64
	// flushTime bounds how long Run's end waits for the sender.
	flushTime = 500 * time.Millisecond

	// gossipRetransmits times log10(members+1), rounded up, is how often memberlist's queue sends a frame: twice at 10.
	gossipRetransmits = 1
	// maxGossip bounds that queue; what was sent most often goes first.
	maxGossip = 256
	// maxBulkGossip is the length from which on it takes no more large frames.
	maxBulkGossip = 16
)

// appendPacked adds a frame to a packet of several.
func appendPacked(b, raw []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(raw))), raw...)
}

// nextPacked takes a frame off a packet.
func nextPacked(b []byte) (raw, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || n > MaxFrame || len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n : 2+n], b[2+n:], true
}

// packFrames fills packets of a kind.
func packFrames(kind byte, raws [][]byte) [][]byte {
	var packets [][]byte
	for _, raw := range raws {
		last := len(packets) - 1
		if last < 0 || len(packets[last])+2+len(raw) > maxPacket {
			packets, last = append(packets, append(make([]byte, 0, 3+len(raw)), kind)), last+1
		}
		packets[last] = appendPacked(packets[last], raw)
	}
	return packets
}

// pusher sends frames to members directly. One goroutine does it, so that neither the publisher nor the core waits for
// the network.
type pusher struct {
	self    ID
	jobs    chan pushJob // Publish and the core send, run receives, nobody closes; full: the job is dropped and counted
	later   chan pushJob // the same for large frames
	members func() []target
	send    func(to *memberlist.Node, msg []byte) error
	count   *counters
	busy    atomic.Int64 // jobs not finished
}

// pushJob is frames to send; relayed ones came along a tree and go on along it. Direct ones go to every member however
// many there are: records, whose origin is no member and so stands in no tree.
type pushJob struct {
	frames []Frame
	relay  bool
	direct bool
	pass   bool // each frame to one other member
}

func (p *pusher) put(job pushJob) {
	p.busy.Add(1)
	queue := p.jobs
	if len(job.frames) > 0 && len(job.frames[0].raw) > freshSize {
		queue = p.later
	}
	select {
	case queue <- job:
	default:
		p.busy.Add(-1)
		p.count.dropped.Add(1)
	}
}

// pass sends frames that were pushed directly on to one member each, where there are enough of them and nothing else to do.
func (p *pusher) pass(frames []Frame) {
	if n := len(p.members()); n > passAbove && n <= maxDirect && len(p.jobs) < maxPass {
		p.put(pushJob{frames: frames, pass: true})
	}
}

func (p *pusher) run(ctx context.Context) {
	for {
		select {
		case job := <-p.jobs:
			p.batch(job)
			continue
		default:
		}
		select {
		case job := <-p.jobs:
			p.batch(job)
		case job := <-p.later:
			p.batch(job)
		case <-ctx.Done():
			return
		}
	}
}

// batch takes what else is fresh and sends it: own frames to everybody, or along trees when there are too many for that.
func (p *pusher) batch(first pushJob) {
	jobs := int64(1)
	var direct [][]byte
	members := p.members()
	add := func(job pushJob) {
		if job.pass {
			p.toNext(job.frames, members)
			return
		}
		if job.direct || len(members) <= maxDirect && !job.relay {
			for _, f := range job.frames {
				direct = append(direct, f.raw)
			}
			return
		}
		for _, f := range job.frames {
			p.tree(f, members, job.relay)
		}
	}
	add(first)
	for more := true; more && jobs < pushBatch; {
		select {
		case job := <-p.jobs:
			jobs++
			add(job)
		default:
			more = false
		}
	}
	if packets := packFrames(kindPush, direct); len(packets) > 0 {
		for _, t := range members {
			for _, packet := range packets {
				p.to(t.node, packet)
			}
		}
		p.count.sent.Add(uint64(len(direct) * len(members)))
	}
	p.busy.Add(-jobs)
}

func (p *pusher) tree(f Frame, members []target, relay bool) {
	ids := make([]ID, 0, len(members))
	for _, t := range members {
		if !t.gone {
			ids = append(ids, t.id)
		} else if !relay {
			p.to(t.node, appendPacked([]byte{kindPush}, f.raw))
			p.count.sent.Add(1)
		}
	}
	packet := appendPacked([]byte{kindTree}, f.raw)
	children := treesChildren(f.hash(), f.Origin, p.self, ids)
	for _, id := range children {
		if i, ok := indexOf(members, id); ok {
			p.to(members[i].node, packet)
		}
	}
	p.count.sent.Add(uint64(len(children)))
	if relay {
		p.count.forwarded.Add(uint64(len(children)))
	}
}

func (p *pusher) toNext(frames []Frame, members []target) {
	for _, f := range frames {
		next := successor(f.hash(), f.Origin, p.self, members)
		if i, ok := indexOf(members, next); ok {
			p.to(members[i].node, appendPacked([]byte{kindPush}, f.raw))
			p.count.sent.Add(1)
			p.count.forwarded.Add(1)
		}
	}
}

// indexOf finds a member in their order.
func indexOf(members []target, id ID) (int, bool) {
	return slices.BinarySearchFunc(members, id, func(t target, id ID) int { return slices.Compare(t.id[:], id[:]) })
}

// to sends one packet; what is lost comes by sync.
func (p *pusher) to(n *memberlist.Node, packet []byte) {
	if err := p.send(n, packet); err != nil {
		p.count.sendErrors.Add(1)
	}
}

// flush waits until everything put so far is sent, at most flushTime.
func (p *pusher) flush() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(flushTime)
	defer end.Stop()
	for p.busy.Load() > 0 {
		select {
		case <-tick.C:
		case <-end.C:
			return
		}
	}
}

// gossip is the second way of a frame: memberlist's queue, which rides on pings and on packets to random members. Only
// the origin queues, so it costs a few copies of a frame in the whole mesh.
type gossip struct {
	queue memberlist.TransmitLimitedQueue
}

func newGossip(members func() []target) *gossip {
	return &gossip{memberlist.TransmitLimitedQueue{
		NumNodes:       func() int { return len(members()) + 1 },
		RetransmitMult: gossipRetransmits,
	}}
}

func (g *gossip) put(f Frame) {
	if g.queue.NumNodes() < 2 {
		return // nobody would drain it
	}
	if len(f.raw) > freshSize && g.queue.NumQueued() >= maxBulkGossip {
		return // a bulk would push out what is fresh; what is lost of it comes by sync
	}
	g.queue.QueueBroadcast(&broadcast{f.Ref(), appendPacked([]byte{kindPush}, f.raw)})
	if g.queue.NumQueued() > maxGossip {
		g.queue.Prune(maxGossip)
	}
}

// take gives what fits into limit bytes and is alive still.
func (g *gossip) take(now time.Time, overhead, limit int) [][]byte {
	return slices.DeleteFunc(g.queue.GetBroadcasts(overhead, limit), func(msg []byte) bool {
		raw, _, ok := nextPacked(msg[1:])
		if !ok {
			return true
		}
		f, err := DecodeFrame(raw)
		return err != nil || !f.Expires.After(now)
	})
}

// broadcast is a queued frame. A frame replaces none, so only its own name is unique.
type broadcast struct {
	name FrameRef
	msg  []byte
}

// Name tells frames apart.
func (b *broadcast) Name() string {
	var buf [32]byte
	copy(buf[:], b.name.Origin[:])
	binary.BigEndian.PutUint64(buf[16:], b.name.Epoch)
	binary.BigEndian.PutUint64(buf[24:], b.name.Seq)
	return string(buf[:])
}

// Invalidates is false: every frame counts.
func (*broadcast) Invalidates(memberlist.Broadcast) bool { return false }

// Message gives the encoded message.
func (b *broadcast) Message() []byte { return b.msg }

// Finished does nothing.
func (*broadcast) Finished() {}
