package mesh

import (
	"math/rand/v2"
	"time"
)

// core is the replication state machine: the live frames, and what is being done to make peers hold the same. It has no
// goroutine, socket, clock or randomness of its own: the same seed and events give the same actions.
type core struct {
	self  ID
	epoch uint64 // our own, current
	seq   uint64 // the last that we used in it
	used  uint64 // the highest epoch in which there are frames in our name that this run did not publish
	// latest is the latest time of the wall clock that a step was given since it was last set back.
	latest  time.Time
	behind  bool      // it was, and since then no peer has held what we hold
	rewound time.Time // when that was said last
	// caughtUp is set once a peer that counts has held what we hold.
	caughtUp bool

	roots pastRoots
	early early

	ledger
	trust
	syncer
}

func newCore(self ID, epoch uint64, rng *rand.Rand) *core {
	return &core{
		self: self, epoch: epoch, ledger: newLedger(), syncer: newSyncer(rng),
		trust: trust{nodes: make(map[ID]*standing), barred: make(map[ID][]uint64)},
	}
}

// via says how a frame came.
type via uint8

const (
	viaOwn     via = iota // published here
	viaRestore            // from our own store
	viaPush               // straight from the origin, from the node before, or by gossip: a small one goes to the next node
	viaTree               // along a tree: passed on once
	viaSync               // by anti-entropy: not passed on
)

// An event is one of the ev types.
type (
	// evFrames brings frames whose signature has been checked and whose bytes may be kept.
	// By sync, from names the peer that streams them.
	evFrames struct {
		via    via
		frames []Frame
		from   ID
	}
	// evMessage brings a sync message, or a part of one (see split). The frames of a chunk come in evFrames before it; fresh
	// tells how many were new.
	evMessage struct {
		msg   *syncMessage
		fresh int
	}
	// evRoot brings the answer to a ping: the first bytes of the peer's digest, and when it signed that by its own clock, in
	// milliseconds since 1970. Anybody may have sent it: signed reports whether the peer did, with this digest.
	evRoot struct {
		peer   ID
		root   [rootShort]byte
		clock  uint64
		signed func(root [32]byte) bool
	}
	evUp       struct{ peer ID } // a peer can be reached
	evDown     struct{ peer ID }
	evSendFail struct { // a message of a session could not be sent
		peer    ID
		session uint64
	}
	evBadChunk struct { // a chunk of a session held a frame with a bad signature
		peer    ID
		session uint64
	}
	evTick struct{} // the time that next gave has come
)

// actions is what has to be done after a step.
type actions struct {
	admitted []Frame    // newly held, for the store
	deliver  []Frame    // of those: not published by this run
	relay    []Frame    // of those: came along a tree, which goes on from here
	pass     []Frame    // of those: small and pushed directly, for the next node in their order
	expired  []FrameRef // no longer held
	// withdrawn are origins that count no longer: nothing that they said does. readmitted ones count now.
	withdrawn, readmitted []ID
	send                  []outMessage
	compared              []comparison
	equivocs              []Frame // another frame of the same name was held
	replaced              []Frame // that other one, where it had to go
	granted               bool    // a gossip key was handed out to somebody
	revoked               []ID    // peers that speak although they are revoked: they may not know
	own                   bool    // the authority has said something else of this node
	// rollPast is not 0 while frames in our name have this epoch, ours or a later one, and we did not publish them.
	rollPast uint64
	back     bool                 // the wall clock was set back
	rewound  bool                 // all that is held is to be judged again, see Config.Rewound
	verdicts [verdictKinds]uint64 // of evFrames, by kind
	syncs    uint64               // sessions in which vectors were exchanged
	unasked  uint64               // sync messages that belong to no session, or not to this stage of it
	streamed uint64               // frames put into chunks
}

type outMessage struct {
	to      ID
	session uint64 // as this node names it
	kind    byte   // kindSync or kindChunk
	msg     []byte
}

// comparison is what came of comparing digests with a peer: same reports whether the peer's was one that this node had within
// rootKept.
type comparison struct {
	peer ID
	at   time.Time
	same bool
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
		out.rollPast = c.used // said until it is done: epochs are not raised at any rate
	}
	return out
}

// rewind notes and reports whether the wall clock was set back, by more than clockSlack.
func (c *core) rewind(now time.Time) bool {
	now = now.Round(0) // the wall clock alone
	back := now.Add(clockSlack).Before(c.latest)
	if back || now.After(c.latest) {
		c.latest = now
	}
	c.behind = c.behind || back
	return back
}

// next tells when a step is due without any event.
func (c *core) next() (time.Time, bool) {
	first, some := time.Time{}, false
	for _, next := range []func() (time.Time, bool){c.ledger.next, c.syncer.next, c.early.next} {
		if at, ok := next(); ok && (!some || at.Before(first)) {
			first, some = at, true
		}
	}
	return first, some
}

// nextSeq is the first free number after our last. A copy of this node with the same epoch may have used some.
func (c *core) nextSeq() uint64 {
	for seq := c.seq + 1; ; seq++ {
		if _, used := c.get(FrameRef{c.self, c.epoch, seq}); !used {
			return seq
		}
	}
}

// promise judges our next frame before it is signed. If it is new it stays so, whatever fills the ledger meanwhile: others
// who have filled it must not keep this node from banning at home.
func (c *core) promise(now time.Time, f Frame) verdict {
	v := c.judge(now, f)
	if v == verdictFull && !c.loaded(f) {
		v = verdictNew
	}
	if v == verdictNew {
		c.promised = f.Ref()
	}
	return v
}

// take puts one verified frame in and notes what follows from that.
func (c *core) take(now time.Time, f Frame, by via, out *actions) {
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
		now = f.Issued // our clock was ahead then, or is behind now: nobody else may have it
	}
	v, stays, dropped := c.put(now, f, out)
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

// restored deals with a frame from the store that is not held.
func (c *core) restored(f Frame, v verdict, out *actions) {
	switch v {
	case verdictFuture:
		c.early.keep(f)
	case verdictExpired:
		out.expired = append(out.expired, f.Ref())
	}
}

// spread notes how a frame that is new here goes on.
func (out *actions) spread(f Frame, by via) {
	if by == viaTree {
		out.relay = append(out.relay, f)
	}
	if by == viaPush && len(f.raw) <= freshSize {
		out.pass = append(out.pass, f)
	}
}

// isForeignUseOfOurKey reports whether f is in our name but from this epoch or a later one, and not published by this run.
// An older one is ours: the store had lost it.
func (c *core) isForeignUseOfOurKey(f Frame) bool {
	if f.Origin != c.self || f.Epoch < c.epoch {
		return false
	}
	if f.Epoch > c.epoch || f.Seq > c.seq {
		return true
	}
	raw, ok := c.get(f.Ref())
	return ok && string(raw) != string(f.raw)
}
