package spread

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// memberlist's queue sends a frame gossipRetransmits times log10(members+1), rounded up: twice at 10 members.
	gossipRetransmits = 1
	// maxGossip bounds that queue; the frames sent most often are dropped first.
	maxGossip = 256
	// maxBulkGossip is the queue length from which it takes no more large frames.
	maxBulkGossip = 16
)

// Gossip is a frame's second way: memberlist's queue, carried by pings and by packets to random members. Only the
// origin queues a frame, so the whole mesh sends only a few copies.
type Gossip struct {
	queue memberlist.TransmitLimitedQueue
}

// NewGossip returns a queue; members returns the other members.
func NewGossip(members func() []Target) *Gossip {
	return &Gossip{memberlist.TransmitLimitedQueue{
		NumNodes:       func() int { return len(members()) + 1 },
		RetransmitMult: gossipRetransmits,
	}}
}

// Put queues a frame.
func (g *Gossip) Put(f frame.Frame) {
	if g.queue.NumNodes() < 2 {
		return // nobody would drain it
	}
	if len(f.Raw) > wire.FreshSize && g.queue.NumQueued() >= maxBulkGossip {
		return // a bulk would displace fresh frames; lost frames come by sync
	}
	g.queue.QueueBroadcast(&broadcast{f.Ref(), wire.AppendPacked([]byte{wire.KindPush}, f.Raw)})
	if g.queue.NumQueued() > maxGossip {
		g.queue.Prune(maxGossip)
	}
}

// Take returns the frames that fit into limit bytes and are still alive.
func (g *Gossip) Take(now time.Time, overhead, limit int) [][]byte {
	return slices.DeleteFunc(g.queue.GetBroadcasts(overhead, limit), func(msg []byte) bool {
		raw, _, ok := wire.NextPacked(msg[1:], frame.MaxSize)
		if !ok {
			return true
		}
		f, err := frame.Decode(raw)
		return err != nil || !f.Expires.After(now)
	})
}

// Len returns the number of queued frames.
func (g *Gossip) Len() int { return g.queue.NumQueued() }

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
