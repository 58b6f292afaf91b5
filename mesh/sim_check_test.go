package mesh

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// simHealTime bounds how long the nodes may differ once the troubles have ended.
	simHealTime = 4 * time.Minute
	// simFreshTime is how soon a frame must be everywhere while nothing is wrong.
	simFreshTime = 100 * time.Millisecond
	// simTransfers is how many transfers a node may have under way.
	simTransfers = 4
	// simCopies is the budget of copies per frame and node, averaged over a fleet in trouble. It does not hold while a
	// clock is ahead: each peer refuses that node's frames again and again, once a minute.
	simCopies = 12
)

func (n *simNode) deliver(frames []frame.Frame) {
	if n.dying {
		return
	}
	now := n.now()
	for _, f := range frames {
		known := n.w.published[f.Ref()]
		switch {
		case n.withdrawn[f.Origin]:
			n.w.fail(n.slot, "a frame was delivered of an origin that is no longer trusted: %v", f.Ref())
		case !slices.Contains(known, string(f.Raw)):
			n.w.fail(n.slot, "a frame was delivered that nobody signed for this mesh: %v", f.Ref())
		case !f.Expires.After(now):
			n.w.fail(n.slot, "frame %v was delivered after its end", f.Ref())
		case f.Issued.After(now.Add(frame.FutureSkew)):
			n.w.fail(n.slot, "frame %v was delivered %v too early", f.Ref(), f.Issued.Sub(now))
		case n.held[f.Ref()] == string(f.Raw):
			n.w.fail(n.slot, "frame %v was delivered twice", f.Ref())
		case n.own[f.Ref()] && len(known) == 1 && n.w.plan.clock == 0: // otherwise it may have expired on this node alone
			n.w.fail(n.slot, "our own frame %v was delivered to us", f.Ref())
		}
	}
	n.bans.Take(now, frames)
	n.bans.Amend(now, frames, n.mesh.Epoch(), n.publish)
}

func (n *simNode) admitted(frames []frame.Frame) {
	if n.dying {
		return
	}
	for _, f := range frames {
		n.held[f.Ref()] = string(f.Raw)
		n.disk.put(f.Ref(), f.Raw)
	}
}

func (n *simNode) expired(refs []frame.Ref) {
	if n.dying {
		return
	}
	for _, ref := range refs {
		if f, err := frame.Decode([]byte(n.held[ref])); err == nil && f.Expires.After(n.now()) && !n.w.passing(f) && n.mesh.Trusts(f.Origin) {
			n.w.fail(n.slot, "%v was let go %v before its end", ref, f.Expires.Sub(n.now()))
		}
		fmt.Fprint(n.w.history, ref)
		delete(n.held, ref)
		n.disk.drop(ref)
	}
}

func (n *simNode) rewound(live iter.Seq[frame.Frame]) {
	for f := range n.mesh.Frames() { // stored frames whose time has come are held without a callback
		if n.early[f.Ref()] {
			n.held[f.Ref()] = string(f.Raw)
		}
	}
	if !n.dying {
		n.bans.Rewound(n.now(), live)
	}
}

// checkSent requires every frame that is passed on to be genuine.
func (n *simNode) checkSent(b []byte) {
	if b[0] != wire.KindPush && b[0] != wire.KindTree {
		return
	}
	for raw, rest, ok := wire.NextPacked(b[1:], frame.MaxSize); ok; raw, rest, ok = wire.NextPacked(rest, frame.MaxSize) {
		if f, err := frame.Decode(raw); err != nil || !slices.Contains(n.w.published[f.Ref()], string(raw)) {
			n.w.fail(n.slot, "a frame was passed on that nobody signed for this mesh: %v", f.Ref())
		}
	}
}

// checkBounds checks that memory stays within its bounds.
func (n *simNode) checkBounds() {
	use := n.mesh.core.Usage()
	frames := 0
	for _, raws := range n.w.published {
		frames += len(raws)
	}
	for what, size := range map[string][2]int{
		"transfers":    {use.Transfers, simTransfers},
		"peers":        {use.Peers, len(n.w.nodes)},
		"frames":       {use.Frames, len(n.w.published)},
		"deadlines":    {use.Deadlines, frames},
		"streams":      {use.Streams, use.Frames},
		"queued bytes": {n.mesh.bulk.bytes, 0},
	} {
		if size[0] > size[1] {
			n.w.fail(n.slot, "%d %s, at most %d allowed", size[0], what, size[1])
		}
	}
	if use.Frames != len(n.held) {
		n.w.fail(n.slot, "%d frames are held, %d by what the callbacks said", use.Frames, len(n.held))
	}
}

// heal ends all troubles, gives the fleet a bounded time to agree, and checks that the result is right.
func (w *simWorld) heal() {
	w.calm = true
	clear(w.links)
	w.retire()
	for _, n := range w.nodes {
		n.skew = 0
		if n.mesh == nil && !n.gone {
			n.start()
		}
	}
	w.run(time.Second)
	kept := make(map[frame.Ref]string) // frames that some running node still holds
	for _, n := range w.nodes {
		for ref, raw := range n.held {
			if n.mesh != nil {
				kept[ref] = raw
			}
		}
	}
	w.insist()
	if early := w.lastIssue.Sub(simEpoch.Add(w.at + frame.FutureSkew)); early > 0 { // signed by a clock that was ahead
		w.plan.probe = 30 * time.Second
		w.run(early + time.Second)
		w.plan.probe = replica.ProbeInterval
	}
	if w.plan.delay > 0 {
		w.run(3 * time.Minute)
	}
	for end := w.at + simHealTime; w.failure == nil && !w.agree(); {
		if w.at >= end {
			w.fail(-1, "the digests differ %v after the last trouble", simHealTime)
		}
		w.run(2 * time.Second)
	}
	w.run(time.Second) // the last commit
	w.agree()
	if w.failure == nil {
		w.checkFrames(kept)
	}
	if w.failure == nil {
		w.checkFresh()
	}
}

// agree reports whether all nodes hold the same frames and have restored what clocks that were ahead had ended.
func (w *simWorld) agree() bool {
	var roots [][32]byte
	for _, n := range w.nodes {
		if n.mesh != nil {
			if n.expire(); n.mesh.core.Behind() && w.running() > 1 {
				return false
			}
			roots = append(roots, n.mesh.Digest())
		}
	}
	return len(slices.Compact(roots)) <= 1
}

// checkFrames checks what every node holds in memory and on disk, and what it enforces.
func (w *simWorld) checkFrames(kept map[frame.Ref]string) {
	var said, doubt []frame.Frame
	for _, raws := range w.published {
		for _, raw := range raws {
			f, err := frame.Decode([]byte(raw))
			if err != nil {
				continue
			}
			if len(raws) > 1 {
				doubt = append(doubt, f)
			}
			if !w.isRevoked(f.Origin) {
				said = append(said, f)
			}
		}
	}
	for _, n := range w.nodes {
		if n.mesh == nil {
			continue
		}
		live := slices.Collect(n.mesh.Frames())
		last := n.mesh.core.Last()
		for _, f := range live {
			if f.Verify() != nil || !f.Expires.After(n.now()) {
				w.fail(n.slot, "a frame is held that is expired or not signed: %v", f.Ref())
			}
			if f.Origin == last.Origin && !n.own[f.Ref()] && (f.Epoch > last.Epoch || f.Epoch == last.Epoch && f.Seq > last.Seq) {
				w.fail(n.slot, "frame %v is in our name, and we went on with epoch %d", f.Ref(), last.Epoch)
			}
		}
		if digestOf(live) != n.mesh.Digest() {
			w.fail(n.slot, "the digest is not that of what is held")
		}
		for _, f := range live {
			if string(n.disk.state.frames[f.Ref()]) != string(f.Raw) {
				w.fail(n.slot, "frame %v is held, but not on disk", f.Ref())
			}
		}
		for ref := range n.disk.state.frames {
			if n.held[ref] == "" && !n.early[ref] && len(n.disk.queue) == 0 {
				w.fail(n.slot, "frame %v is on disk, but not held", ref)
			}
		}
		for ref, raw := range kept {
			f, err := frame.Decode([]byte(raw))
			if err == nil && f.Expires.After(n.now()) && len(w.published[ref]) == 1 && n.held[ref] != raw && !w.passing(f) {
				w.fail(n.slot, "frame %v got lost though a node held it", ref)
			}
		}
		if err := n.bans.Judge(n.now(), live, said, doubt, w.faults[faultClock] > 0); err != nil {
			w.fail(n.slot, "%v", err)
		}
		n.checkTrust()
		n.checkBounds()
	}
}

// digestOf returns the digest of a set of frames, lane by lane as its definition says.
func digestOf(frames []frame.Frame) [32]byte {
	var lanes [1024]uint16
	for _, f := range frames {
		var stream rand.ChaCha8
		stream.Seed(f.Hash())
		for i := 0; i < len(lanes); i += 4 {
			word := stream.Uint64()
			for k := range 4 {
				lanes[i+k] += uint16(word >> (16 * k))
			}
		}
	}
	if lanes == [1024]uint16{} {
		return [32]byte{}
	}
	var b []byte
	for _, lane := range lanes {
		b = binary.LittleEndian.AppendUint16(b, lane)
	}
	return sha256.Sum256(b)
}

// checkFresh makes a few nodes publish: while nothing is wrong, a frame is everywhere at once, without excess copies.
func (w *simWorld) checkFresh() {
	for _, a := range w.nodes { // by now every node knows who is a member
		for _, b := range w.nodes {
			if a.mesh != nil && a != b && b.gone && a.mesh.peers.node(b.key.ID()) != nil {
				delegate{a.mesh}.NotifyLeave(b.node)
			} else if a != b {
				a.meet(b)
			}
		}
	}
	w.run(10 * time.Second)
	for range 3 {
		n := w.up()
		before, queued := w.received(), w.gossip()
		w.settled()
		n.publish([]byte("fresh"), n.now().Add(time.Hour))
		n.process()
		if w.run(simFreshTime); !w.agree() {
			w.fail(n.slot, "a fresh frame is not everywhere after %v", simFreshTime)
		}
		w.run(10 * time.Second)
		copies := 1
		switch {
		case w.plan.trees:
			copies = spread.TreeCount
		case w.receivers() > spread.PassAbove:
			copies = 2 // one from the origin, one from the preceding node
		}
		const met = 2                // copies from a sync that began while the frame was in flight
		gossip := 2*(queued+1) + met // two copies each of this frame and of those still queued
		if got, want := w.received()-before, uint64((w.running()-1)*copies+gossip); got > want {
			w.fail(n.slot, "%d copies of a frame in a fleet of %d", got, w.running())
		}
	}
}

// settled checks that no transfer is left.
func (w *simWorld) settled() {
	for _, n := range w.nodes {
		if n.mesh != nil && n.mesh.core.Usage().Transfers > 0 {
			w.fail(n.slot, "a transfer goes on though nobody lacks anything")
		}
	}
}

// gossip returns the number of frames in memberlist's queues.
func (w *simWorld) gossip() (sum int) {
	for _, n := range w.nodes {
		if n.mesh != nil {
			sum += n.mesh.gossip.Len()
		}
	}
	return sum
}

func (w *simWorld) received() (sum uint64) {
	for _, n := range w.nodes {
		if n.mesh != nil {
			sum += n.mesh.count.received.Load()
		}
	}
	return sum
}

// receivers returns the largest number of members that any node pushes to. Departed members count for a while.
func (w *simWorld) receivers() (most int) {
	for _, n := range w.nodes {
		if n.mesh != nil {
			most = max(most, len(n.mesh.peers.receivers()))
		}
	}
	return most
}
