package mesh

import (
	"context"
	"iter"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// verifyBatch bounds the frames that are verified (60 us each) before the good ones are delivered.
	verifyBatch = 32
	// drainBatch bounds the messages taken from the inbox at a time.
	drainBatch = 64
	// retellEvery is the least time between two calls of Retold, which reads every frame of an origin that signed two
	// under one number. Retold takes at most one part in retellShare of the time, because an origin may hold many
	// frames and sign such pairs without end. The call comes when something wakes the core, so up to idleWake later.
	retellEvery = 5 * time.Second
	retellShare = 50
	// maxWarnings bounds the problems that wait to be reported.
	maxWarnings = 16
	// leastWake..idleWake is how long the core sleeps if nothing arrives. Frames that end meanwhile end together, and a
	// changed clock is noticed on waking.
	leastWake, idleWake = 5 * time.Millisecond, 10 * time.Second
)

// coreLoop feeds the core and carries out its actions. Small packets go before large frames, and these before bulk,
// which is processed in slices: so a fresh frame overtakes an import or a sync.
func (m *Mesh) coreLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	bulk := false // a slice may be waiting
	m.execute()   // actions of Restore and early Publishes
	lost := uint64(0)
	for {
		if n := m.dropped(); n > lost {
			lost = n
			m.problems.report(m.now(), ProblemDropped, "queue", "more frames came at once than there is room for, as after a pause of this process; a sync repairs that",
				"nothing need be done; if it comes often, give the agent more of the processor")
		}
		if bulk || len(m.later) > 0 {
			select {
			case b := <-m.inbox:
				m.drain(b)
			default:
			}
			select {
			case b := <-m.later:
				m.drainLater(b)
			default:
			}
		}
		if bulk {
			if bulk = m.bulkSlice(); bulk {
				if ctx.Err() != nil {
					return
				}
				continue
			}
		}
		timer.Reset(m.untilNext(m.now()))
		select {
		case b := <-m.inbox:
			m.drain(b)
		case b := <-m.later:
			m.drainLater(b)
		case <-m.bulk.wake:
			bulk = true
		case ev := <-m.events:
			m.apply(ev)
		case <-m.wake:
			m.execute()
		case w := <-m.warnings:
			m.problems.report(m.now(), w.kind, w.culprit, w.what, w.remedy)
		case <-timer.C:
			m.apply(replica.TickEvent{})
		case <-ctx.Done():
			m.execute()
			return
		}
	}
}

func (m *Mesh) untilNext(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.core.Next()
	if !ok {
		return idleWake
	}
	return min(max(at.Sub(now), leastWake), idleWake)
}

// apply steps the core and carries out its actions.
func (m *Mesh) apply(ev any) {
	m.mu.Lock()
	m.stepLocked(m.now(), ev)
	m.mu.Unlock()
	m.execute()
}

// stepLocked steps the core and queues its actions for execute.
func (m *Mesh) stepLocked(now time.Time, ev any) *replica.Actions {
	knew := m.core.CaughtUp()
	out := m.core.Step(now, ev)
	if m.core.CaughtUp() && !knew {
		wake(m.keys.sweep) // nodes waiting for a key get it now
	}
	root := m.core.Digest()
	m.root.Store(&root)
	m.lastLocked()
	if len(out.Readmitted)+len(out.Withdrawn) > 0 {
		m.certifiedLocked(now)
	}
	m.todo = append(m.todo, out)
	return &m.todo[len(m.todo)-1]
}

// lastLocked records our last frame for Last.
func (m *Mesh) lastLocked() {
	if last := m.core.Last(); *m.last.Load() != last {
		m.last.Store(&last)
	}
}

// certifiedLocked publishes which nodes are trusted, for goroutines that may not wait for the core.
func (m *Mesh) certifiedLocked(now time.Time) {
	who := make(map[frame.ID]struct{})
	for id := range m.core.Nodes() {
		if m.core.Trusts(now, id) {
			who[id] = struct{}{}
		}
	}
	m.certified.Store(&who)
	m.peers.retarget(now)
}

// trusted reports whether a node is trusted (certified and not revoked), without waiting for the core.
func (m *Mesh) trusted(id frame.ID) bool {
	who := m.certified.Load()
	if who == nil {
		return true
	}
	_, ok := (*who)[id]
	return ok
}

// knowsOthers reports whether others' certificates have come. They come together, soon after the first contact. A node
// without them is a newcomer, to which everybody is a stranger.
func (m *Mesh) knowsOthers() bool {
	who := m.certified.Load()
	return who != nil && len(*who) > 1
}

// warning is a problem found on a goroutine that may not report it.
type warning struct {
	kind                  Problem
	culprit, what, remedy string
}

// warn makes the core's goroutine report a problem.
func (m *Mesh) warn(kind Problem, culprit, what, remedy string) {
	select {
	case m.warnings <- warning{kind, culprit, what, remedy}:
	default:
	}
}

// execute carries out the core's actions, in order. Only the core's goroutine calls it.
func (m *Mesh) execute() {
	m.mu.Lock()
	todo := m.todo
	m.todo = nil
	m.mu.Unlock()
	for i := range todo {
		out := &todo[i]
		if len(out.Relay) > 0 {
			m.pusher.Put(spread.Job{Frames: out.Relay, Relay: true})
		}
		if len(out.Pass) > 0 {
			m.pusher.Pass(out.Pass)
		}
		for _, msg := range out.Send {
			m.sendSync(msg)
		}
		m.count.verdicts(out.Verdicts)
		m.count.syncs.Add(out.Syncs)
		m.count.refused[refusedUnasked].Add(out.Unasked)
		m.count.syncFrames.Add(out.Streamed)
		m.count.delivered.Add(uint64(len(out.Deliver)))
		deliver := func() {
			if len(out.Deliver) > 0 && m.cfg.Deliver != nil {
				m.cfg.Deliver(out.Deliver)
			}
		}
		m.void(out.Replaced)
		// A ban of a revoked node that another node has repeated must take effect before the revoked node's own is
		// withdrawn.
		if len(out.Readmitted) == 0 {
			deliver()
		}
		if len(out.Withdrawn) > 0 && m.cfg.Withdrawn != nil {
			m.cfg.Withdrawn(out.Withdrawn)
		}
		if len(out.Readmitted) > 0 {
			if m.cfg.Readmitted != nil {
				m.cfg.Readmitted(out.Readmitted)
			}
			deliver()
		}
		if len(out.Admitted) > 0 && m.cfg.Admitted != nil {
			m.cfg.Admitted(out.Admitted)
		}
		if len(out.Expired) > 0 && m.cfg.Expired != nil {
			m.cfg.Expired(out.Expired)
		}
		m.clockSet(out)
		if out.Granted {
			wake(m.keys.wake)
		}
		for _, id := range out.Revoked {
			m.tellRevoked(m.now(), id)
		}
		if out.Own {
			m.checkOwn()
		}
		for _, c := range out.Compared {
			m.peers.update(c.Peer, func(p *peer) {
				if p.InSync = c.Same; c.Same {
					p.Confirmed = c.At
				}
			})
		}
		m.troubles(out)
	}
	m.retell()
	m.checkClocks()
}

// clockSet handles a change of the wall clock.
func (m *Mesh) clockSet(out *replica.Actions) {
	if out.Back {
		if err := m.present(); err != nil { // the certificate may have expired by the old time
			m.cfg.Logger.Debug("could not present the certificate again", "error", err)
		}
	}
	if out.Rewound && m.cfg.Rewound != nil {
		m.cfg.Rewound(m.live(nil))
	}
}

// void makes the daemon forget what replaced frames said.
func (m *Mesh) void(frames []frame.Frame) {
	if len(frames) == 0 || m.cfg.Replaced == nil {
		return
	}
	m.cfg.Replaced(frames)
	if m.replaced == nil {
		m.replaced = make(map[frame.ID]struct{})
	}
	for _, f := range frames {
		m.replaced[f.Origin] = struct{}{}
	}
}

// retell gives the daemon all frames of the origins that had frames replaced.
func (m *Mesh) retell() {
	begun := time.Now()
	if len(m.replaced) == 0 || m.cfg.Retold == nil || begun.Before(m.retellAt) {
		return
	}
	of := m.replaced
	m.replaced = nil
	m.cfg.Retold(m.live(of))
	m.retellAt = begun.Add(max(retellEvery, retellShare*time.Since(begun)))
}

// liveSlice bounds the frames that are read while the lock is held.
const liveSlice = 1024

// live yields the live frames that the daemon can read, by origin, epoch and number. of limits the origins; nil: all.
func (m *Mesh) live(of map[frame.ID]struct{}) iter.Seq[frame.Frame] {
	return func(yield func(frame.Frame) bool) { m.eachLive(of, false, yield) }
}

// Frames yields all frames of some origins, or of all if none is given, including the authority's records, by origin,
// epoch and number.
func (m *Mesh) Frames(origins ...frame.ID) iter.Seq[frame.Frame] {
	var of map[frame.ID]struct{}
	for _, id := range origins {
		if of == nil {
			of = make(map[frame.ID]struct{}, len(origins))
		}
		of[id] = struct{}{}
	}
	return func(yield func(frame.Frame) bool) { m.eachLive(of, true, yield) }
}

func (m *Mesh) eachLive(of map[frame.ID]struct{}, records bool, yield func(frame.Frame) bool) {
	m.mu.Lock()
	streams, authority := m.core.Streams(), m.core.Authority()
	m.mu.Unlock()
	for _, key := range streams {
		if !records && key.Origin == authority && key.Epoch != pki.AuthorityEpoch {
			continue
		}
		if _, ok := of[key.Origin]; of != nil && !ok {
			continue
		}
		for next, more := uint64(0), true; more; {
			m.mu.Lock()
			raws := m.core.From(key, next, liveSlice)
			m.mu.Unlock()
			more = len(raws) == liveSlice
			for _, raw := range raws {
				f, err := frame.Decode(raw)
				if err != nil {
					continue // cannot happen: it was decoded before it was held
				}
				if !yield(f) {
					return
				}
				next = f.Seq + 1
			}
			more = more && next != 0
		}
	}
}

// troubles reports what the core noticed, and starts a new epoch if ours was found in use.
func (m *Mesh) troubles(out *replica.Actions) {
	if len(out.Equivocal) == 0 && out.RollPast == 0 {
		return
	}
	now := m.now()
	for _, f := range out.Equivocal {
		if f.Origin == m.id {
			m.problems.report(now, ProblemClone, "frame", "another machine uses this node's key: it signed a different frame under a number of ours", twoUsers)
			continue
		}
		m.problems.report(now, ProblemEquivocation, f.Origin.String(), "origin "+f.Origin.String()+" signed two different frames under one number",
			"if another machine uses its key, give one of the two an empty state folder; else `meshban revoke NAME` shuts it out")
	}
	if out.RollPast > 0 {
		m.rollEpoch(now, out.RollPast)
	}
}

// drain processes the messages waiting in the inbox, pushed frames first.
func (m *Mesh) drain(first []byte) {
	var in intake
	for b, n := first, 1; ; n++ {
		m.small(b, &in)
		if n == drainBatch {
			break
		}
		select {
		case b = <-m.inbox:
			continue
		default:
		}
		break
	}
	m.flushIntake(&in, replica.ViaPush)
	m.flushIntake(&in, replica.ViaTree)
}

// drainLater processes some of the waiting large frames.
func (m *Mesh) drainLater(first []byte) {
	var in intake
	size := len(first)
	for b := first; ; {
		m.small(b, &in)
		if size >= laterBytes {
			break
		}
		select {
		case b = <-m.later:
			size += len(b)
			continue
		default:
		}
		break
	}
	m.flushIntake(&in, replica.ViaPush)
	m.flushIntake(&in, replica.ViaTree)
}

// small handles one message that is not bulk.
func (m *Mesh) small(b []byte, in *intake) {
	kind, rest := b[0], b[1:]
	switch kind {
	case wire.KindPush, wire.KindTree:
		by := replica.ViaPush
		if kind == wire.KindTree {
			by = replica.ViaTree
		}
		for len(rest) > 0 {
			raw, tail, ok := wire.NextPacked(rest, frame.MaxSize)
			if !ok {
				m.count.refused[refusedFormat].Add(1)
				return
			}
			if f, ok := m.precheck(raw); ok {
				m.accept(f, f.Verify() == nil, len(b), by, in)
			}
			rest = tail
		}
	case wire.KindSync:
		msg, err := replica.DecodeMessage(rest)
		if err != nil || msg.IsChunk() {
			m.count.refused[refusedFormat].Add(1)
			return
		}
		for part := range msg.Split {
			m.apply(replica.MessageEvent{Msg: part})
		}
	case wire.KindChunk:
		m.queueBulk(b)
	case wire.KindAsk:
		m.askMessage(rest)
	case wire.KindNotice:
		m.noticeMessage(rest)
	case wire.KindPath:
		m.pathMessage(rest)
	case wire.KindBye:
		m.byeMessage(rest)
	}
}
