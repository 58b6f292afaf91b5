package replica

import (
	"math/rand/v2"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// Core is what one node holds, and the state of making its peers hold the same. The same seed and events produce the
// same actions. It is for one goroutine at a time.
type Core struct {
	self  frame.ID
	epoch uint64 // our current one
	seq   uint64 // the last one that we used in epoch
	used  uint64 // the highest epoch found with frames in our name that this run did not publish
	// latest is the latest wall-clock time given to a step since the clock was last set back.
	latest  time.Time
	behind  bool      // the clock was set back, and no peer has held what we hold since
	rewound time.Time // when Actions.Rewound was last set for that
	// caughtUp is set once a trusted peer has held what we hold.
	caughtUp bool

	roots pastRoots
	early early

	ledger
	trust
	syncer
}

// New returns the core of the node self, which publishes under an epoch. authority is the origin of the records that
// say which origins are trusted; zero: every origin is trusted. All randomness comes from rng, including the names of
// sessions, so nobody else may be able to predict it.
func New(self, authority frame.ID, epoch uint64, rng *rand.Rand) *Core {
	return &Core{
		self: self, epoch: epoch, ledger: newLedger(), syncer: newSyncer(rng),
		trust: trust{authority: authority, nodes: make(map[frame.ID]*standing), rejected: make(map[frame.ID][]uint64)},
	}
}

// Via is how a frame arrived.
type Via uint8

// The ways of arrival.
const (
	ViaOwn     Via = iota // published here
	ViaRestore            // from our own store
	ViaPush               // from the origin, the node before us or gossip: small frames go on to the next node
	ViaTree               // along a tree: relayed once
	ViaSync               // by anti-entropy: not relayed
)

// The events that Step takes.
type (
	// FramesEvent brings frames whose signature was verified and whose bytes may be kept. If they came by sync, From is the
	// peer that streams them.
	FramesEvent struct {
		Via    Via
		Frames []frame.Frame
		From   frame.ID
	}
	// MessageEvent brings a sync message, or a part of one (see Split). The frames of a chunk come before it, in a
	// FramesEvent; Fresh is how many of them were new.
	MessageEvent struct {
		Msg   *Message
		Fresh int
	}
	// RootEvent brings the answer to a ping: the first bytes of the peer's digest, and the time of the peer's clock when it
	// signed them, in milliseconds since 1970. Anyone may have sent it: Signed reports whether the peer signed it, with
	// this digest.
	RootEvent struct {
		Peer   frame.ID
		Root   [RootLen]byte
		Clock  uint64
		Signed func(root [32]byte) bool
	}
	// UpEvent says that a peer can be reached.
	UpEvent struct{ Peer frame.ID }
	// DownEvent says that a peer cannot be reached any more.
	DownEvent struct{ Peer frame.ID }
	// SendFailedEvent says that a message of a session could not be sent.
	SendFailedEvent struct {
		Peer    frame.ID
		Session uint64
	}
	// BadChunkEvent says that a chunk of a session held a frame with a bad signature.
	BadChunkEvent struct {
		Peer    frame.ID
		Session uint64
	}
	// TickEvent says that the time that Next returned has come.
	TickEvent struct{}
)

// Actions is what must be done after a step.
type Actions struct {
	Admitted []frame.Frame // newly held, for the store
	Deliver  []frame.Frame // those of Admitted that this run did not publish
	Relay    []frame.Frame // those of Admitted that came along a tree and go on along it
	Pass     []frame.Frame // those of Admitted that are small and were pushed directly: they go on to the next node
	Expired  []frame.Ref   // no longer held
	// Withdrawn are origins that are no longer trusted: whatever they said is void. Readmitted are origins that now are.
	Withdrawn, Readmitted []frame.ID
	Send                  []Outgoing
	Compared              []Comparison
	Equivocal             []frame.Frame // refused or taken while another frame of the same name was held
	Replaced              []frame.Frame // frames dropped because another of the same name took their place
	Granted               bool          // a grant of a gossip key came
	Revoked               []frame.ID    // revoked peers that still send messages: they may not know
	Own                   bool          // what the authority says about this node has changed
	// RollPast, unless 0, is an epoch with frames in our name that we did not publish, no lower than our own epoch.
	RollPast uint64
	Back     bool                 // the wall clock was set back
	Rewound  bool                 // the daemon must judge everything held again
	Verdicts [VerdictKinds]uint64 // on the frames of a FramesEvent, by kind
	Syncs    uint64               // sessions in which vectors were exchanged
	Unasked  uint64               // sync messages of no known session, or out of place in theirs
	Streamed uint64               // frames put into chunks
}

// Outgoing is a message to a peer.
type Outgoing struct {
	To      frame.ID
	Session uint64 // as this node names it
	Kind    byte   // wire.KindSync or wire.KindChunk
	Msg     []byte
}

// Comparison is the result of comparing digests with a peer. Same reports whether the peer's digest was one that this
// node had within rootKept.
type Comparison struct {
	Peer frame.ID
	At   time.Time
	Same bool
}

// Usage is how much a core holds.
type Usage struct {
	Frames       int    // live ones
	Streams      int    // with live frames
	Deadlines    int    // of frames, some no longer held
	AwaitingCert int    // frames that wait for the certificate of their origin
	Peers        int    // that digests are compared with
	Transfers    int    // to peers, under way
	Checks       uint64 // sent so far
}

// Usage returns how much the core holds.
func (c *Core) Usage() Usage {
	return Usage{c.count, len(c.streams), len(c.expiry), len(c.awaitingCert), len(c.peers), len(c.transfers), c.checks}
}

// Step takes an event and returns what must be done. Beside it, only Precheck and RaiseEpoch change a Core. The event is
// one of the event types.
func (c *Core) Step(now time.Time, event any) Actions {
	var out Actions
	out.Back = c.rewind(now)
	out.Expired = append(c.expire(now), c.leave()...)
	c.ended(&out)
	c.lookAgain(now, &out)
	switch e := event.(type) {
	case FramesEvent:
		for _, f := range e.Frames {
			c.take(now, f, e.Via, &out)
		}
		if e.Via == ViaSync && len(out.Admitted) > 0 {
			c.streamed(now, e.From)
		}
	case MessageEvent:
		c.message(now, e.Msg, e.Fresh, &out)
	case RootEvent:
		c.rootSeen(now, e, &out)
	case UpEvent:
		c.peerUp(now, e.Peer)
	case DownEvent:
		c.peerDown(e.Peer)
	case SendFailedEvent:
		c.sendFailed(e.Peer, e.Session)
	case BadChunkEvent:
		c.badChunk(now, e.Peer, e.Session)
	case TickEvent:
	}
	c.tick(now, &out)
	c.roots.note(now, c.root.sum())
	if c.used >= c.epoch {
		out.RollPast = c.used // repeated until done: raising the epoch is rate-limited
	}
	return out
}

// rewind records and reports whether the wall clock was set back by more than clockSlack.
func (c *Core) rewind(now time.Time) bool {
	now = now.Round(0) // drops the monotonic reading
	back := now.Add(clockSlack).Before(c.latest)
	if back || now.After(c.latest) {
		c.latest = now
	}
	c.behind = c.behind || back
	return back
}

// Next returns when a step is due even without an event.
func (c *Core) Next() (time.Time, bool) {
	first, some := time.Time{}, false
	for _, next := range []func() (time.Time, bool){c.ledger.next, c.syncer.next, c.early.next} {
		if at, ok := next(); ok && (!some || at.Before(first)) {
			first, some = at, true
		}
	}
	return first, some
}

// Digest returns a digest that is equal on two nodes exactly if they hold the same live frames.
func (c *Core) Digest() [32]byte { return c.root.sum() }

// CaughtUp reports whether a trusted peer has ever held what this node holds.
func (c *Core) CaughtUp() bool { return c.caughtUp }

// Behind reports whether the wall clock was set back, and no peer has held what this node holds since.
func (c *Core) Behind() bool { return c.behind }

// Last returns the name of our last frame; its Seq is 0 if this epoch has none yet.
func (c *Core) Last() frame.Ref { return frame.Ref{Origin: c.self, Epoch: c.epoch, Seq: c.seq} }

// NextRef returns the name of our next frame: the first free number after our last. A copy of this node with the same
// epoch may have used some.
func (c *Core) NextRef() frame.Ref {
	for ref := c.Last(); ; {
		if ref.Seq++; !c.Holds(ref) {
			return ref
		}
	}
}

// RaiseEpoch goes on with a higher epoch. An epoch that is not higher changes nothing.
func (c *Core) RaiseEpoch(epoch uint64) {
	if epoch > c.epoch {
		c.epoch, c.seq = epoch, 0
	}
}

// JudgeOwn judges our next frame. Others who fill the ledger must not keep this node from banning locally.
func (c *Core) JudgeOwn(now time.Time, f frame.Frame) Verdict {
	v := c.Judge(now, f)
	if v == VerdictFull && !c.loaded(f) {
		v = VerdictNew
	}
	return v
}

// Precheck judges a frame that a peer sent, before its signature is checked. It remembers what must be looked at again
// once its time has come, and which streams peers are told not to offer.
func (c *Core) Precheck(now time.Time, f frame.Frame) Verdict {
	v := c.Judge(now, f)
	switch v {
	case VerdictEnded, VerdictRevoked:
		c.reject(f.Origin, f.Epoch)
	case VerdictFuture:
		c.early.offered(f)
	}
	return v
}

// take handles one verified frame and records what follows from it.
func (c *Core) take(now time.Time, f frame.Frame, by Via, out *Actions) {
	if by != ViaRestore {
		c.discardForged(f, out)
	}
	if f.Origin == c.authority && !c.authority.IsZero() {
		c.takeRecord(now, f, by, out)
		return
	}
	if by != ViaOwn && c.untrusted(now, f, by, out) {
		return
	}
	foreign := by != ViaOwn && by != ViaRestore && c.isForeignUseOfOurKey(f)
	if by == ViaRestore && f.Origin == c.self && f.Issued.After(now) {
		now = f.Issued // our clock was ahead then or is behind now; nobody else may have the frame
	}
	v := c.ledger.judge(now, f) // its origin is trusted: see untrusted
	if by == ViaOwn {
		v = c.JudgeOwn(now, f)
	}
	stays, dropped := c.put(f, v, out)
	out.Verdicts[v]++
	out.Expired = append(out.Expired, dropped...)
	if by == ViaOwn && v == VerdictNew && f.Epoch == c.epoch {
		c.seq = f.Seq
	}
	if foreign && (stays || v == VerdictEquivocal) {
		c.used = max(c.used, f.Epoch)
	}
	if v == VerdictEquivocal {
		out.Equivocal = append(out.Equivocal, f)
	}
	if by == ViaRestore {
		c.restored(f, v, out)
		return
	}
	if !stays {
		return
	}
	out.Admitted = append(out.Admitted, f)
	if by != ViaOwn {
		out.Deliver = append(out.Deliver, f)
	}
	out.spread(f, by)
}

// restored handles the verdict on a frame from the store.
func (c *Core) restored(f frame.Frame, v Verdict, out *Actions) {
	switch v {
	case VerdictFuture:
		c.early.keep(f)
	case VerdictExpired:
		out.Expired = append(out.Expired, f.Ref())
	}
}

// spread records how a frame that is new here is passed on.
func (out *Actions) spread(f frame.Frame, by Via) {
	if by == ViaTree {
		out.Relay = append(out.Relay, f)
	}
	if by == ViaPush && len(f.Raw) <= wire.FreshSize {
		out.Pass = append(out.Pass, f)
	}
}

// isForeignUseOfOurKey reports whether f is in our name, of this epoch or a later one, but not published by this run. A
// frame of an older epoch is ours: the store had lost it.
func (c *Core) isForeignUseOfOurKey(f frame.Frame) bool {
	if f.Origin != c.self || f.Epoch < c.epoch {
		return false
	}
	if f.Epoch > c.epoch || f.Seq > c.seq {
		return true
	}
	raw, ok := c.get(f.Ref())
	return ok && string(raw) != string(f.Raw)
}
