package spread

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// maxPush bounds the jobs that wait for the sender; frames that find the queue full reach the others by sync.
	maxPush = 4096
	// pushBatch bounds the jobs whose frames are packed together.
	pushBatch = 64
	// maxPass is the number of waiting jobs from which frames are no longer passed on to the next node: under load a
	// sync repairs losses, and no sender can make the mesh send twice what it sends.
	maxPass = 64
	// flushTime bounds how long Flush waits for the sender.
	flushTime = 500 * time.Millisecond
)

// Target is a member to push frames to.
type Target struct {
	ID   frame.ID
	Node *memberlist.Node
	Gone bool // as others say; nodes disagree about that, so it has no place in a tree
}

// Find returns the index of a member in a list sorted by id.
func Find(members []Target, id frame.ID) (int, bool) {
	return slices.BinarySearchFunc(members, id, func(t Target, id frame.ID) int { return slices.Compare(t.ID[:], id[:]) })
}

// Pusher sends frames to members directly, on one goroutine, so that neither the publisher nor the core waits for the
// network.
type Pusher struct {
	// Count is what it has sent.
	Count struct {
		Sent, Forwarded, Dropped atomic.Uint64
	}
	// AlwaysTrees makes all frames go along trees, however few members there are. For simulations.
	AlwaysTrees bool
	// Send sends one packet and reports whether it could. Frames of a lost packet come by sync.
	Send func(to *memberlist.Node, msg []byte) bool

	self    frame.ID
	jobs    chan Job // Put sends, Run receives, nobody closes; full: the job is dropped and counted
	later   chan Job // the same for large frames
	members func() []Target
	busy    atomic.Int64 // unfinished jobs
}

// NewPusher returns a pusher of the node self. members returns the others, sorted by id.
func NewPusher(self frame.ID, members func() []Target, send func(to *memberlist.Node, msg []byte) bool) *Pusher {
	return &Pusher{self: self, jobs: make(chan Job, maxPush), later: make(chan Job, maxPush), members: members, Send: send}
}

// Job is frames to send. Relayed frames came along a tree and continue along it. Direct frames go to every member, however
// many there are: records, whose origin is not a member and so has no place in a tree.
type Job struct {
	Frames []frame.Frame
	Relay  bool
	Direct bool
	pass   bool // each frame goes to one other member
}

// Put queues a job. It does not block.
func (p *Pusher) Put(job Job) {
	p.busy.Add(1)
	queue := p.jobs
	if len(job.Frames) > 0 && len(job.Frames[0].Raw) > wire.FreshSize {
		queue = p.later
	}
	select {
	case queue <- job:
	default:
		p.busy.Add(-1)
		p.Count.Dropped.Add(1)
	}
}

// Pass sends each directly pushed frame on to one member, if there are enough members and few jobs waiting.
func (p *Pusher) Pass(frames []frame.Frame) {
	if n := len(p.members()); n > PassAbove && n <= MaxDirect && len(p.jobs) < maxPass {
		p.Put(Job{Frames: frames, pass: true})
	}
}

// Waiting returns the number of jobs that wait.
func (p *Pusher) Waiting() int { return len(p.jobs) + len(p.later) }

// Run sends until ctx ends.
func (p *Pusher) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if p.Step() {
			continue
		}
		select {
		case job := <-p.jobs:
			p.batch(job)
		case job := <-p.later:
			p.batch(job)
		case <-ctx.Done():
		}
	}
}

// Step sends what waits, small frames first, and reports whether anything did.
func (p *Pusher) Step() bool {
	select {
	case job := <-p.jobs:
		p.batch(job)
		return true
	default:
	}
	select {
	case job := <-p.later:
		p.batch(job)
		return true
	default:
		return false
	}
}

// batch sends a job together with the small jobs that wait: own frames to everybody, or along trees if there are more
// than MaxDirect members.
func (p *Pusher) batch(first Job) {
	jobs := int64(1)
	var direct [][]byte
	members := p.members()
	add := func(job Job) {
		if job.pass {
			p.toNext(job.Frames, members)
			return
		}
		if !p.AlwaysTrees && (job.Direct || len(members) <= MaxDirect && !job.Relay) {
			for _, f := range job.Frames {
				direct = append(direct, f.Raw)
			}
			return
		}
		for _, f := range job.Frames {
			p.tree(f, members, job.Relay)
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
	if packets := wire.Pack(wire.KindPush, direct); len(packets) > 0 {
		for _, t := range members {
			for _, packet := range packets {
				p.Send(t.Node, packet)
			}
		}
		p.Count.Sent.Add(uint64(len(direct) * len(members)))
	}
	p.busy.Add(-jobs)
}

func (p *Pusher) tree(f frame.Frame, members []Target, relay bool) {
	ids := make([]frame.ID, 0, len(members))
	for _, t := range members {
		if !t.Gone {
			ids = append(ids, t.ID)
		} else if !relay {
			p.Send(t.Node, wire.AppendPacked([]byte{wire.KindPush}, f.Raw))
			p.Count.Sent.Add(1)
		}
	}
	packet := wire.AppendPacked([]byte{wire.KindTree}, f.Raw)
	children := Children(f.Hash(), f.Origin, p.self, ids)
	for _, id := range children {
		if i, ok := Find(members, id); ok {
			p.Send(members[i].Node, packet)
		}
	}
	p.Count.Sent.Add(uint64(len(children)))
	if relay {
		p.Count.Forwarded.Add(uint64(len(children)))
	}
}

func (p *Pusher) toNext(frames []frame.Frame, members []Target) {
	for _, f := range frames {
		next := Successor(f.Hash(), f.Origin, p.self, members)
		if i, ok := Find(members, next); ok {
			p.Send(members[i].Node, wire.AppendPacked([]byte{wire.KindPush}, f.Raw))
			p.Count.Sent.Add(1)
			p.Count.Forwarded.Add(1)
		}
	}
}

// Flush waits until everything put so far is sent, at most flushTime.
func (p *Pusher) Flush() {
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
