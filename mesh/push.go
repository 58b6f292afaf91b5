package mesh

import (
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
)

const (
	// maxPacket bounds a message sent by UDP, in bytes: with memberlist's encryption and the UDP and IPv6 headers it
	// stays below 1,500.
	maxPacket = 1380
	// maxPush bounds the jobs that wait for the sender; frames that find the queue full reach the others by sync.
	maxPush = 4096
	// pushBatch bounds the jobs whose frames are packed together.
	pushBatch = 64
	// maxPass is the number of waiting jobs from which frames are no longer passed on to the next node: under load a
	// sync repairs losses, and no sender can make the mesh send twice what it sends.
	maxPass = 64
	// flushTime bounds how long the end of Run waits for the sender.
	flushTime = 500 * time.Millisecond

	// memberlist's queue sends a frame gossipRetransmits times log10(members+1), rounded up: twice at 10 members.
	gossipRetransmits = 1
	// maxGossip bounds that queue; the frames sent most often are dropped first.
	maxGossip = 256
	// maxBulkGossip is the queue length from which it takes no more large frames.
	maxBulkGossip = 16
)

// appendPacked appends a frame to a packet of frames.
func appendPacked(b, raw []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(raw))), raw...)
}

// nextPacked takes the first frame off a packet.
func nextPacked(b []byte) (raw, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || n > frame.MaxSize || len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n : 2+n], b[2+n:], true
}

// packFrames packs frames into packets of a kind.
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

// pusher sends frames to members directly, on one goroutine, so that neither the publisher nor the core waits for the
// network.
type pusher struct {
	self    frame.ID
	jobs    chan pushJob // Publish and the core send, run receives, nobody closes; full: the job is dropped and counted
	later   chan pushJob // the same for large frames
	members func() []target
	send    func(to *memberlist.Node, msg []byte) error
	count   *counters
	busy    atomic.Int64 // unfinished jobs
}

// pushJob is frames to send. Relayed frames came along a tree and continue along it. Direct frames go to every member,
// however many there are: records, whose origin is not a member and so has no place in a tree.
type pushJob struct {
	frames []frame.Frame
	relay  bool
	direct bool
	pass   bool // each frame goes to one other member
}

func (p *pusher) put(job pushJob) {
	p.busy.Add(1)
	queue := p.jobs
	if len(job.frames) > 0 && len(job.frames[0].Raw) > replica.FreshSize {
		queue = p.later
	}
	select {
	case queue <- job:
	default:
		p.busy.Add(-1)
		p.count.dropped.Add(1)
	}
}

// pass sends each directly pushed frame on to one member, if there are enough members and few jobs waiting.
func (p *pusher) pass(frames []frame.Frame) {
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

// batch gathers what else is fresh and sends it: own frames to everybody, or along trees if there are too many members
// for that.
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
				direct = append(direct, f.Raw)
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

func (p *pusher) tree(f frame.Frame, members []target, relay bool) {
	ids := make([]frame.ID, 0, len(members))
	for _, t := range members {
		if !t.gone {
			ids = append(ids, t.id)
		} else if !relay {
			p.to(t.node, appendPacked([]byte{kindPush}, f.Raw))
			p.count.sent.Add(1)
		}
	}
	packet := appendPacked([]byte{kindTree}, f.Raw)
	children := treesChildren(f.Hash(), f.Origin, p.self, ids)
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

func (p *pusher) toNext(frames []frame.Frame, members []target) {
	for _, f := range frames {
		next := successor(f.Hash(), f.Origin, p.self, members)
		if i, ok := indexOf(members, next); ok {
			p.to(members[i].node, appendPacked([]byte{kindPush}, f.Raw))
			p.count.sent.Add(1)
			p.count.forwarded.Add(1)
		}
	}
}

// indexOf finds a member in the sorted list.
func indexOf(members []target, id frame.ID) (int, bool) {
	return slices.BinarySearchFunc(members, id, func(t target, id frame.ID) int { return slices.Compare(t.id[:], id[:]) })
}

// to sends one packet; if it is lost, its frames come by sync.
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

// gossip is a frame's second way: memberlist's queue, carried by pings and by packets to random members. Only the
// origin queues a frame, so the whole mesh sends only a few copies.
type gossip struct {
	queue memberlist.TransmitLimitedQueue
}

func newGossip(members func() []target) *gossip {
	return &gossip{memberlist.TransmitLimitedQueue{
		NumNodes:       func() int { return len(members()) + 1 },
		RetransmitMult: gossipRetransmits,
	}}
}

func (g *gossip) put(f frame.Frame) {
	if g.queue.NumNodes() < 2 {
		return // nobody would drain it
	}
	if len(f.Raw) > replica.FreshSize && g.queue.NumQueued() >= maxBulkGossip {
		return // a bulk would displace fresh frames; lost frames come by sync
	}
	g.queue.QueueBroadcast(&broadcast{f.Ref(), appendPacked([]byte{kindPush}, f.Raw)})
	if g.queue.NumQueued() > maxGossip {
		g.queue.Prune(maxGossip)
	}
}

// take returns the frames that fit into limit bytes and are still alive.
func (g *gossip) take(now time.Time, overhead, limit int) [][]byte {
	return slices.DeleteFunc(g.queue.GetBroadcasts(overhead, limit), func(msg []byte) bool {
		raw, _, ok := nextPacked(msg[1:])
		if !ok {
			return true
		}
		f, err := frame.Decode(raw)
		return err != nil || !f.Expires.After(now)
	})
}

// broadcast is a queued frame. It replaces no other, so every name is unique.
type broadcast struct {
	name frame.Ref
	msg  []byte
}

// Name returns a unique name for the frame.
func (b *broadcast) Name() string {
	var buf [32]byte
	copy(buf[:], b.name.Origin[:])
	binary.BigEndian.PutUint64(buf[16:], b.name.Epoch)
	binary.BigEndian.PutUint64(buf[24:], b.name.Seq)
	return string(buf[:])
}

// Invalidates is false: every frame counts.
func (*broadcast) Invalidates(memberlist.Broadcast) bool { return false }

// Message returns the encoded message.
func (b *broadcast) Message() []byte { return b.msg }

// Finished does nothing.
func (*broadcast) Finished() {}
