package mesh

import (
	"math/rand/v2"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// core is the replication state machine: it holds the live frames and the state of making peers hold the same. It has
// no goroutine, socket, clock or randomness of its own: the same seed and events produce the same actions.
type core struct {
	self  frame.ID
	epoch uint64 // our current one
	seq   uint64 // the last one that we used in epoch
	used  uint64 // the highest epoch found with frames in our name that this run did not publish
	// latest is the latest wall-clock time given to a step since the clock was last set back.
	latest  time.Time
	behind  bool      // the clock was set back, and no peer has held what we hold since
	rewound time.Time // when actions.rewound was last set for that
	// caughtUp is set once a peer that counts has held what we hold.
	caughtUp bool

	roots pastRoots
	early early

	ledger
	trust
	syncer
}

// newCore returns the core of the node self, which publishes under an epoch. authority is the origin of the records that
// say which origins count; zero: every origin counts. All randomness comes from rng, also the names of sessions, which
// must be unguessable.
func newCore(self, authority frame.ID, epoch uint64, rng *rand.Rand) *core {
	return &core{
		self: self, epoch: epoch, ledger: newLedger(), syncer: newSyncer(rng),
		trust: trust{authority: authority, nodes: make(map[frame.ID]*standing), barred: make(map[frame.ID][]uint64)},
	}
}

// freshSize is the largest packet or frame, in bytes, that goes before larger ones, at both ends. A few fresh bans fit,
// the frames of a bulk do not, so a fresh ban overtakes a bulk.
const freshSize = 512

// via is how a frame arrived.
type via uint8

const (
	viaOwn     via = iota // published here
	viaRestore            // from our own store
	viaPush               // from the origin, the node before us or gossip: small frames go on to the next node
	viaTree               // along a tree: relayed once
	viaSync               // by anti-entropy: not relayed
)

// An event is one of the ev types.
type (
	// evFrames brings frames whose signature was verified and whose bytes may be kept. If they came by sync, from is the
	// peer that streams them.
	evFrames struct {
		via    via
		frames []frame.Frame
		from   frame.ID
	}
	// evMessage brings a sync message, or a part of one (see split). The frames of a chunk come before it, in evFrames;
	// fresh is how many of them were new.
	evMessage struct {
		msg   *syncMessage
		fresh int
	}
	// evRoot brings the answer to a ping: the first bytes of the peer's digest, and the time of the peer's clock when it
	// signed them, in milliseconds since 1970. Anyone may have sent it: signed reports whether the peer signed it, with
	// this digest.
	evRoot struct {
		peer   frame.ID
		root   [rootShort]byte
		clock  uint64
		signed func(root [32]byte) bool
	}
	evUp       struct{ peer frame.ID } // a peer can be reached
	evDown     struct{ peer frame.ID }
	evSendFail struct { // a message of a session could not be sent
		peer    frame.ID
		session uint64
	}
	evBadChunk struct { // a chunk of a session held a frame with a bad signature
		peer    frame.ID
		session uint64
	}
	evTick struct{} // the time that next returned has come
)

// actions is what must be done after a step.
type actions struct {
	admitted []frame.Frame // newly held, for the store
	deliver  []frame.Frame // those of admitted that this run did not publish
	relay    []frame.Frame // those of admitted that came along a tree and go on along it
	pass     []frame.Frame // those of admitted that are small and were pushed directly: they go on to the next node
	expired  []frame.Ref   // no longer held
	// withdrawn are origins that no longer count: nothing they said does. readmitted are origins that now count.
	withdrawn, readmitted []frame.ID
	send                  []outMessage
	compared              []comparison
	equivocs              []frame.Frame // refused or taken while another frame of the same name was held
	replaced              []frame.Frame // frames dropped because another of the same name took their place
	granted               bool          // a grant of a gossip key came
	revoked               []frame.ID    // revoked peers that still send messages: they may not know
	own                   bool          // what the authority says about this node has changed
	// rollPast, unless 0, is an epoch with frames in our name that we did not publish, no lower than our own epoch.
	rollPast uint64
	back     bool                 // the wall clock was set back
	rewound  bool                 // everything held must be judged again, see Config.Rewound
	verdicts [verdictKinds]uint64 // of evFrames, by kind
	syncs    uint64               // sessions in which vectors were exchanged
	unasked  uint64               // sync messages of no known session, or out of place in theirs
	streamed uint64               // frames put into chunks
}

type outMessage struct {
	to      frame.ID
	session uint64 // as this node names it
	kind    byte   // kindSync or kindChunk
	msg     []byte
}

// comparison is the result of comparing digests with a peer. same reports whether the peer's digest was one that this
// node had within rootKept.
type comparison struct {
	peer frame.ID
	at   time.Time
	same bool
}

// usage is how much a core holds.
type usage struct {
	Frames    int    // live ones
	Streams   int    // with live frames
	Deadlines int    // of frames, some no longer held
	Parked    int    // frames that wait for the certificate of their origin
	Peers     int    // that digests are compared with
	Transfers int    // to peers, under way
	Checks    uint64 // sent so far
}

// Usage returns how much the core holds.
func (c *core) Usage() usage {
	return usage{c.count, len(c.streams), len(c.expiry), len(c.parked), len(c.peers), len(c.transfers), c.checks}
}

// step is the only way to change the core.
func (c *core) step(now time.Time, event any) actions {
	var out actions
	out.back = c.rewind(now)
	out.expired = append(c.expire(now), c.leave()...)
	c.ended(&out)
	c.lookAgain(now, &out)
	switch e := event.(type) {
	case evFrames:
		for _, f := range e.frames {
			c.take(now, f, e.via, &out)
		}
		if e.via == viaSync && len(out.admitted) > 0 {
			c.streamed(now, e.from)
		}
	case evMessage:
		c.message(now, e.msg, e.fresh, &out)
	case evRoot:
		c.rootSeen(now, e, &out)
	case evUp:
		c.peerUp(now, e.peer)
	case evDown:
		c.peerDown(e.peer)
	case evSendFail:
		c.sendFailed(e.peer, e.session)
	case evBadChunk:
		c.badChunk(now, e.peer, e.session)
	case evTick:
	}
	c.tick(now, &out)
	c.roots.note(now, c.root.sum())
	if c.used >= c.epoch {
		out.rollPast = c.used // repeated until done: raising the epoch is rate-limited
	}
	return out
}

// rewind records and reports whether the wall clock was set back by more than clockSlack.
func (c *core) rewind(now time.Time) bool {
	now = now.Round(0) // drops the monotonic reading
	back := now.Add(clockSlack).Before(c.latest)
	if back || now.After(c.latest) {
		c.latest = now
	}
	c.behind = c.behind || back
	return back
}

// next returns when a step is due even without an event.
func (c *core) next() (time.Time, bool) {
	first, some := time.Time{}, false
	for _, next := range []func() (time.Time, bool){c.ledger.next, c.syncer.next, c.early.next} {
		if at, ok := next(); ok && (!some || at.Before(first)) {
			first, some = at, true
		}
	}
	return first, some
}

// Digest returns a digest that is equal on two nodes exactly if they hold the same live frames.
func (c *core) Digest() [32]byte { return c.root.sum() }

// CaughtUp reports whether a peer that counts has held what this node holds, once at least.
func (c *core) CaughtUp() bool { return c.caughtUp }

// Behind reports whether the wall clock was set back, and no peer has held what this node holds since.
func (c *core) Behind() bool { return c.behind }

// Last returns the name of our last frame; its Seq is 0 if this epoch has none yet.
func (c *core) Last() frame.Ref { return frame.Ref{Origin: c.self, Epoch: c.epoch, Seq: c.seq} }

// NextRef returns the name of our next frame: the first free number after our last. A copy of this node with the same
// epoch may have used some.
func (c *core) NextRef() frame.Ref {
	for ref := c.Last(); ; {
		if ref.Seq++; !c.Holds(ref) {
			return ref
		}
	}
}

// RaiseEpoch goes on with a higher epoch. An epoch that is not higher changes nothing.
func (c *core) RaiseEpoch(epoch uint64) {
	if epoch > c.epoch {
		c.epoch, c.seq = epoch, 0
	}
}

// judgeOwn judges our next frame. Others who fill the ledger must not keep this node from banning locally.
func (c *core) judgeOwn(now time.Time, f frame.Frame) verdict {
	v := c.judge(now, f)
	if v == verdictFull && !c.loaded(f) {
		v = verdictNew
	}
	return v
}

// Precheck judges a frame that a peer sent, before its signature is checked. It remembers what must be looked at again
// once its time has come, and has peers told not to offer what would be refused.
func (c *core) Precheck(now time.Time, f frame.Frame) verdict {
	v := c.judge(now, f)
	switch v {
	case verdictEnded, verdictRevoked:
		c.bar(f.Origin, f.Epoch)
	case verdictFuture:
		c.early.offered(f)
	}
	return v
}

// take handles one verified frame and records what follows from it.
func (c *core) take(now time.Time, f frame.Frame, by via, out *actions) {
	if by != viaRestore {
		c.discardForged(f, out)
	}
	if f.Origin == c.authority && !c.authority.IsZero() {
		c.takeRecord(now, f, by, out)
		return
	}
	if by != viaOwn && c.untrusted(now, f, by, out) {
		return
	}
	foreign := by != viaOwn && by != viaRestore && c.isForeignUseOfOurKey(f)
	if by == viaRestore && f.Origin == c.self && f.Issued.After(now) {
		now = f.Issued // our clock was ahead then or is behind now; nobody else may have the frame
	}
	v := c.ledger.judge(now, f) // its origin counts: see untrusted
	if by == viaOwn {
		v = c.judgeOwn(now, f)
	}
	stays, dropped := c.put(f, v, out)
	out.verdicts[v]++
	out.expired = append(out.expired, dropped...)
	if by == viaOwn && v == verdictNew && f.Epoch == c.epoch {
		c.seq = f.Seq
	}
	if foreign && (stays || v == verdictEquivocal) {
		c.used = max(c.used, f.Epoch)
	}
	if v == verdictEquivocal {
		out.equivocs = append(out.equivocs, f)
	}
	if by == viaRestore {
		c.restored(f, v, out)
		return
	}
	if !stays {
		return
	}
	out.admitted = append(out.admitted, f)
	if by != viaOwn {
		out.deliver = append(out.deliver, f)
	}
	out.spread(f, by)
}

// restored handles a frame from the store that was not taken.
func (c *core) restored(f frame.Frame, v verdict, out *actions) {
	switch v {
	case verdictFuture:
		c.early.keep(f)
	case verdictExpired:
		out.expired = append(out.expired, f.Ref())
	}
}

// spread records how a frame that is new here is passed on.
func (out *actions) spread(f frame.Frame, by via) {
	if by == viaTree {
		out.relay = append(out.relay, f)
	}
	if by == viaPush && len(f.Raw) <= freshSize {
		out.pass = append(out.pass, f)
	}
}

// isForeignUseOfOurKey reports whether f is in our name, of this epoch or a later one, but not published by this run. A
// frame of an older epoch is ours: the store had lost it.
func (c *core) isForeignUseOfOurKey(f frame.Frame) bool {
	if f.Origin != c.self || f.Epoch < c.epoch {
		return false
	}
	if f.Epoch > c.epoch || f.Seq > c.seq {
		return true
	}
	raw, ok := c.get(f.Ref())
	return ok && string(raw) != string(f.Raw)
}
