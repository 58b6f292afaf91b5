package replica

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// settleMin..settleMax is how long a difference must last before a sync: a frame on its way makes one, too.
	settleMin, settleMax = 150 * time.Millisecond, 300 * time.Millisecond
	// upSpread spreads out the first comparisons with new peers, by this much per known peer.
	upSpread = 10 * time.Millisecond
	// checkTimeout ends a check that gets no answer.
	checkTimeout = 600 * time.Millisecond
	// checkTries is how often a check is sent; after that, the next ping must show the difference again.
	checkTries = 3
	// sessionQuiet without any message ends a session; the roots are then compared again.
	sessionQuiet = 500 * time.Millisecond
	// transferTimeout without an acknowledgement ends a transfer.
	transferTimeout = 5 * time.Second
	// reserveTime is how long a node whose vector is on its way exchanges frames with nobody else: two sources would stream
	// the same frames to it.
	reserveTime = time.Second
	// reservePause is how long, after a session that brought nothing, no source is reserved and no session that the peer
	// began is waited for: sync messages are not signed, and a peer that begins sessions endlessly must not block the
	// sessions of others.
	reservePause = 10 * time.Second
	// sourceTurn bounds how long one source is kept, and sourceRest is the least time from one such turn to the next: a
	// peer that gives one frame of its own per second must not keep others from giving what this node lacks.
	sourceTurn, sourceRest = 10 * time.Second, 10 * time.Second
	// rewindEvery is the least time, by the monotonic clock, between two reports of a clock that was set back: each costs
	// a pass over everything held.
	rewindEvery = time.Minute
	// maxTransfers bounds the concurrent transfers to peers.
	maxTransfers = 4
	// strangerTransfers bounds those to peers without a certificate, if other nodes have one.
	strangerTransfers = 1
	// The answer to a check can be used for at least cookieLife, and at most twice that.
	cookieLife = 5 * time.Second
	// hostEvery is the least time between two sessions that one peer begins, after a burst of hostBurst.
	hostEvery, hostBurst = 50 * time.Millisecond, 40
	// distrustTime is how long nothing is compared with a peer that streamed a frame with a bad signature.
	distrustTime = time.Minute
	// overdue is the time without a comparison after which one peer is asked for its digest: pings, which carry digests
	// every ProbeInterval, can be lost.
	overdue = ProbeInterval + 400*time.Millisecond
	// backoffMin..backoffMax is the pause after a session that moved nothing although the roots differ.
	backoffMin, backoffMax = 2 * time.Second, time.Minute
)

// syncer is the state of anti-entropy: for each peer, when to compare, the session that we began, the one that it
// began, and the transfer to it.
type syncer struct {
	rng        *rand.Rand
	secret     [32]byte // for cookies
	peers      map[frame.ID]*syncPeer
	transfers  map[frame.ID]*transfer
	wake       time.Time // nothing is due before this; zero: nothing is due
	syncSource frame.ID  // the peer that streams to us or is about to
	sourceTill time.Time // when it loses that place unless more arrives
	heard      time.Time // when a digest was last compared with ours or asked for; zero: there was no peer yet
	gaveFrom   time.Time // when a source was last reserved; unless gave is set, the next one is reserved only after reservePause
	gave       bool
	checks     uint64                 // sent so far
	turns      map[frame.ID]time.Time // when each source's turn began, kept until its rest is over
}

func newSyncer(rng *rand.Rand) syncer {
	s := syncer{rng: rng, peers: make(map[frame.ID]*syncPeer), transfers: make(map[frame.ID]*transfer), turns: make(map[frame.ID]time.Time)}
	for i := 0; rng != nil && i < len(s.secret); i += 8 {
		binary.LittleEndian.PutUint64(s.secret[i:], rng.Uint64())
	}
	return s
}

// cookie returns our name for a session that a peer is about to begin. A node that shows it has received our answer to
// the check, so it is that peer. We need not remember the check.
func (s *syncer) cookie(peer frame.ID, theirs uint64, slot int64) uint64 {
	b := append(s.secret[:len(s.secret):len(s.secret)], peer[:]...)
	b = binary.LittleEndian.AppendUint64(b, theirs)
	sum := sha256.Sum256(binary.LittleEndian.AppendUint64(b, uint64(slot)))
	return binary.LittleEndian.Uint64(sum[:])
}

// invited reports whether a peer shows a cookie that it was given recently.
func (s *syncer) invited(now time.Time, peer frame.ID, ours, theirs uint64) bool {
	slot := now.UnixNano() / int64(cookieLife)
	return ours == s.cookie(peer, theirs, slot) || ours == s.cookie(peer, theirs, slot-1)
}

type phase uint8

const (
	phaseIdle     phase = iota
	phaseDue            // a check is due at `at`
	phaseChecking       // the check was sent; given up at `at`
	phaseActive         // vectors were exchanged; over at `at` unless something arrives
)

// session is one exchange between two nodes after their roots were found to differ.
type session struct {
	id, theirs uint64 // our name for it and the peer's; theirs is 0 until the peer has answered
	open       bool   // its messages are accepted
	// compared is set once the peer's vector has been handled; each side sends one. moved says that something was sent
	// for that vector, differs that a stream differs, and worked names the stream of the last span that the peer lacks.
	compared, moved, differs bool
	worked                   StreamKey
	told                     []streamDetail // ranges whose hashes were sent
	full, skipped            bool           // some details are left for the next session; an earlier session sent some
	heard                    int            // detail messages received
	chunks, end              uint64         // chunks received, and the number of the last one
	ended, gave              bool           // the last chunk was received; all were
}

type syncPeer struct {
	phase       phase
	at          time.Time
	own         session       // the one that we began last
	past        session       // the one before own; its chunks may still arrive: a slow link takes longer than sessionQuiet
	peerSession session       // the one that the peer began last
	hosting     *rate.Limiter // for sessions that the peer begins
	vectorAt    StreamKey     // our next vector begins after this key
	detailAt    streamPlace   // our next details begin here
	distrust    time.Time     // nothing is compared until then
	tries       int
	progress    bool          // our session moved a frame, either way, or has more to compare
	backoff     time.Duration // the pause before the next check if it moved none
	waitTill    time.Time     // until then, a session that the peer began is assumed to go on
	waitLimit   time.Time     // waitTill is not extended after this, unless the session moves something
	noWaitTill  time.Time     // until then, no further session is waited for
	asked       time.Time     // when the last check was sent
	clock       peerClock
}

func newSyncPeer() *syncPeer {
	return &syncPeer{hosting: rate.NewLimiter(rate.Every(hostEvery), hostBurst)}
}

func (s *syncer) jitter(d time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(int64(d))) + 1
}

// set puts a peer into a phase that ends at a given time.
func (s *syncer) set(p *syncPeer, ph phase, at time.Time) {
	p.phase, p.at = ph, at
	s.wakeAt(at)
}

func (s *syncer) wakeAt(at time.Time) {
	if s.wake.IsZero() || at.Before(s.wake) {
		s.wake = at
	}
}

// next returns when tick has something to do.
func (s *syncer) next() (time.Time, bool) { return s.wake, !s.wake.IsZero() }

// peerUp schedules a comparison with a peer that is new or was unreachable for a while.
func (c *Core) peerUp(now time.Time, peer frame.ID) {
	p := c.peers[peer]
	switch {
	case p == nil && len(c.peers) >= wire.MaxMembers, p != nil && p.phase != phaseIdle:
		return
	case p == nil:
		p = newSyncPeer()
		c.peers[peer] = p
	}
	p.tries = 0
	c.set(p, phaseDue, now.Add(c.jitter(upSpread*time.Duration(len(c.peers)))))
}

func (c *Core) peerDown(peer frame.ID) {
	delete(c.peers, peer)
	delete(c.transfers, peer)
}

// taken reports whether a peer other than this one streams to us.
func (s *syncer) taken(now time.Time, peer frame.ID) bool {
	return s.syncSource != peer && now.Before(s.sourceTill)
}

// reserve records which peer is about to stream to us.
func (c *Core) reserve(now time.Time, peer frame.ID) {
	if !c.gave && !c.gaveFrom.IsZero() && now.Before(c.gaveFrom.Add(reservePause)) {
		return
	}
	c.gaveFrom, c.gave = now, false
	c.keep(now, peer)
}

// keep makes a peer our source for reserveTime, but not beyond its turn. A stranger never becomes one.
func (c *Core) keep(now time.Time, peer frame.ID) {
	if c.isStranger(now, peer) {
		return
	}
	begun, ok := c.turns[peer]
	if !ok || now.Sub(begun) >= sourceTurn+sourceRest || begun.After(now) {
		maps.DeleteFunc(c.turns, func(_ frame.ID, t time.Time) bool { return now.Sub(t) >= sourceTurn+sourceRest })
		begun = now
		c.turns[peer] = begun
	}
	s, till := &c.syncer, now.Add(reserveTime)
	if end := begun.Add(sourceTurn); end.Before(till) {
		till = end
	}
	if now.Before(till) && (s.syncSource != peer || s.sourceTill.Before(till)) {
		s.syncSource, s.sourceTill = peer, till
	}
}

// isStranger reports whether a peer has no valid certificate although others have. To a newcomer, which knows no
// certificate but its own, nobody is a stranger.
func (c *Core) isStranger(now time.Time, peer frame.ID) bool {
	return c.stands(now, peer) != VerdictNew && len(c.nodes) > 1
}

// mayStream reports whether there is room for a transfer to a peer.
func (c *Core) mayStream(now time.Time, peer frame.ID) bool {
	if len(c.transfers) >= maxTransfers {
		return false
	}
	if !c.isStranger(now, peer) {
		return true
	}
	strangers := 0
	for id := range c.transfers {
		if c.isStranger(now, id) {
			strangers++
		}
	}
	return strangers < strangerTransfers
}

// streamed records that a peer's frames were new. A chunk takes long to verify, so this is called many times for each.
func (c *Core) streamed(now time.Time, from frame.ID) {
	c.gave = true
	c.keep(now, from)
	p := c.peers[from]
	if p == nil {
		return
	}
	c.moved(now, p)
	if p.phase == phaseActive {
		p.at, p.progress = now.Add(sessionQuiet), true
	}
}

// moved records that a session with a peer moved something, so a session that it begins is worth waiting for.
func (c *Core) moved(now time.Time, p *syncPeer) {
	p.waitLimit, p.noWaitTill = now.Add(transferTimeout), time.Time{}
}

// welcome makes us wait for a session that a peer began, unless its last one was recently in vain.
func (p *syncPeer) welcome(now time.Time) {
	if now.Before(p.noWaitTill) {
		return
	}
	p.waitTill, p.waitLimit, p.noWaitTill = now.Add(sessionQuiet), now.Add(reserveTime), now.Add(reservePause)
}

// rootSeen compares the digest in a ping's answer with ours. A digest that the peer did not sign, or signed long ago,
// settles nothing: it only leads to a session, which the peer alone can answer.
func (c *Core) rootSeen(now time.Time, e RootEvent, out *Actions) {
	p := c.peers[e.Peer]
	c.heard = now
	if p == nil {
		c.peerUp(now, e.Peer) // the event for its arrival was lost
		return
	}
	if root, ok := c.roots.find(now, e.Root); ok && p.clock.fresh(now, e.Clock) && e.Signed(root) {
		p.clock.last = e.Clock
		if root == c.root.sum() {
			c.settled(now, e.Peer, p, out)
			return
		}
		out.Compared = append(out.Compared, Comparison{e.Peer, now, true})
	}
	if p.phase == phaseIdle {
		p.tries = 0
		c.set(p, phaseDue, now.Add(max(settleMin+c.jitter(settleMax-settleMin), p.backoff)))
	}
}

// settled records that a peer holds what we hold.
func (c *Core) settled(now time.Time, peer frame.ID, p *syncPeer, out *Actions) {
	p.phase, p.backoff, p.progress = phaseIdle, 0, false
	out.Compared = append(out.Compared, Comparison{peer, now, true})
	c.caughtUp = c.caughtUp || c.stands(now, peer) == VerdictNew
	if c.behind && (c.rewound.IsZero() || now.Sub(c.rewound) >= rewindEvery) {
		out.Rewound, c.behind, c.rewound = true, false, now
	}
}

func (c *Core) tick(now time.Time, out *Actions) {
	if c.wake.IsZero() || c.wake.After(now) {
		return
	}
	for id, t := range c.transfers {
		if !t.deadline.After(now) {
			delete(c.transfers, id)
		}
	}
	c.askAnyone(now)
	for _, id := range c.due(now) {
		p := c.peers[id]
		if p.phase == phaseActive {
			c.sessionOver(now, id, p)
		}
		switch {
		case p.at.After(now):
		case now.Before(p.distrust):
			p.phase, p.at, p.tries = phaseDue, p.distrust, 0
		case p.phase == phaseChecking && p.tries >= checkTries:
			p.phase = phaseIdle
		case c.taken(now, id):
			p.phase, p.at, p.tries = phaseDue, now.Add(c.jitter(checkTimeout)), 0
		case p.waitTill.After(now): // two sessions would move the same frames twice
			p.phase, p.at, p.tries = phaseDue, p.waitTill, 0
		default:
			if p.own.theirs != 0 {
				p.past = p.own
			}
			p.phase, p.at, p.own = phaseChecking, now.Add(checkTimeout), session{id: c.rng.Uint64(), open: true}
			p.asked = now
			p.tries++
			c.checks++
			c.emit(id, &session{id: p.own.id, theirs: p.own.id}, &Message{kind: syncCheck, root: c.root.sum(), clock: ClockOf(now)}, out)
		}
	}
	c.wake = time.Time{}
	for _, p := range c.peers {
		if p.phase != phaseIdle {
			c.wakeAt(p.at)
		}
	}
	for _, t := range c.transfers {
		c.wakeAt(t.deadline)
	}
	if len(c.peers) > 0 {
		c.wakeAt(c.heard.Add(overdue))
	}
}

// askAnyone makes a random idle peer due for a check if no digest was compared for overdue.
func (c *Core) askAnyone(now time.Time) {
	if c.heard.IsZero() || c.heard.After(now) { // the first peer, or a clock that was set back
		c.heard = now
	}
	if len(c.peers) == 0 || c.heard.Add(overdue).After(now) {
		return
	}
	c.heard = now
	var idle []frame.ID
	for id, p := range c.peers {
		if p.phase == phaseIdle {
			idle = append(idle, id)
		}
	}
	if len(idle) > 0 {
		slices.SortFunc(idle, func(a, b frame.ID) int { return bytes.Compare(a[:], b[:]) })
		p := c.peers[idle[c.rng.IntN(len(idle))]]
		p.tries = 0
		c.set(p, phaseDue, now)
	}
}

// due returns the peers whose phase is over, longest overdue first.
func (c *Core) due(now time.Time) (due []frame.ID) {
	for id, p := range c.peers {
		if p.phase != phaseIdle && !p.at.After(now) {
			due = append(due, id)
		}
	}
	slices.SortFunc(due, func(a, b frame.ID) int {
		if d := c.peers[a].at.Compare(c.peers[b].at); d != 0 {
			return d
		}
		return bytes.Compare(a[:], b[:])
	})
	return due
}

// sessionOver decides when to compare again after a session: at once if it moved something, else after growing pauses.
func (c *Core) sessionOver(now time.Time, id frame.ID, p *syncPeer) {
	if t := c.transfers[id]; t != nil && t.session.id == p.own.id {
		p.at = now.Add(sessionQuiet)
		return
	}
	p.phase, p.at, p.tries = phaseDue, now, 0
	if p.progress {
		p.backoff = 0
	} else {
		p.backoff = min(max(2*p.backoff, backoffMin), backoffMax)
		p.at = now.Add(p.backoff/2 + c.jitter(p.backoff/2))
	}
	p.progress = false
}

// session returns the session that a peer's message names, or nil.
func (p *syncPeer) session(id uint64) *session {
	switch {
	case p.own.open && p.own.id == id:
		return &p.own
	case p.peerSession.open && p.peerSession.id == id:
		return &p.peerSession
	case p.past.open && p.past.id == id:
		return &p.past
	}
	return nil
}

// chunk counts a received chunk: each comes in a stream of its own, in any order.
func (s *session) chunk(m *Message) {
	s.chunks++
	if m.end {
		s.end, s.ended = m.num, true
	}
	s.gave = s.ended && s.chunks >= s.end
}

// Expects reports whether a peer may send this now. It is cheap, and runs before a large message is queued or a frame
// verified.
func (c *Core) Expects(now time.Time, m *Message) bool {
	p := c.peers[m.From]
	switch {
	case p == nil:
		return false
	case p.session(m.Session) != nil:
		return true
	}
	return m.kind == syncVector && c.invited(now, m.From, m.Session, m.token)
}

// message handles a peer's message. A sender that is not a known peer gets no answer.
func (c *Core) message(now time.Time, m *Message, fresh int, out *Actions) {
	p := c.peers[m.From]
	if p == nil {
		return
	}
	if c.stands(now, m.From) == VerdictRevoked {
		out.Revoked = append(out.Revoked, m.From)
	}
	if m.kind == syncCheck {
		c.answerCheck(now, m, p, out)
		return
	}
	s := p.session(m.Session)
	if s == nil && m.kind == syncVector && m.reply && c.invited(now, m.From, m.Session, m.token) {
		s = c.host(now, m, p, out)
	}
	if s == nil {
		out.Unasked++
		return
	}
	ours := s == &p.own
	if ours && p.phase == phaseActive {
		p.at = now.Add(sessionQuiet)
		p.progress = p.progress || (m.kind == syncAck && m.fresh > 0)
	}
	if !ours && p.waitTill.After(now) && p.waitLimit.After(now) {
		p.waitTill = now.Add(sessionQuiet)
	}
	c.handle(now, m, p, s, fresh, out)
	if t := c.transfers[m.From]; p.phase == phaseActive && p.own.gave && (t == nil || t.session.id != p.own.id) {
		c.set(p, phaseActive, now) // both sides are done: compare again at once
	}
}

func (c *Core) handle(now time.Time, m *Message, p *syncPeer, s *session, fresh int, out *Actions) {
	ours := s == &p.own
	switch m.kind {
	case syncSame:
		if ours && p.phase != phaseIdle {
			p.clock.set(now, p.asked, m.clock)
			c.settled(now, m.From, p, out)
		}
	case syncDiffer:
		if !ours || p.phase != phaseChecking {
			return // late
		}
		p.clock.set(now, p.asked, m.clock)
		out.Compared = append(out.Compared, Comparison{m.From, now, c.roots.had(now, m.root)})
		if c.taken(now, m.From) {
			c.set(p, phaseDue, now.Add(c.jitter(checkTimeout)))
			return
		}
		c.set(p, phaseActive, now.Add(sessionQuiet))
		s.theirs = m.token
		c.reserve(now, m.From)
		out.Syncs++
		c.emitVector(m.From, p, s, out)
	case syncVector:
		if s.compared || m.reply == ours || s.theirs == 0 {
			out.Unasked++
			return
		}
		s.compared = !m.more
		if m.root == c.root.sum() {
			s.compared = true
			c.settled(now, m.From, p, out)
			c.emit(m.From, s, &Message{kind: syncSame, root: m.root, clock: ClockOf(now)}, out)
			return
		}
		c.answerVector(now, m, p, s, out)
	case syncChunk:
		if s.chunk(m); s.gave && c.syncSource == m.From {
			c.sourceTill = now
		}
		c.emit(m.From, s, &Message{kind: syncAck, num: m.num, fresh: uint64(fresh)}, out)
	case syncAck:
		c.acknowledged(now, m, out)
	case syncDetail:
		if s.heard == maxDetails || s.theirs == 0 {
			out.Unasked++
			return
		}
		s.heard++
		c.answerDetail(now, m, s, out)
	case syncWant:
		c.answerWant(now, m, s, out)
	}
}

// answerCheck compares roots. Anyone may have sent the check in the peer's name, so the answer is no larger than the
// check, and nothing changes here.
func (c *Core) answerCheck(now time.Time, m *Message, p *syncPeer, out *Actions) {
	s := &session{theirs: m.Session}
	switch {
	case m.root == c.root.sum():
		c.emit(m.From, s, &Message{kind: syncSame, root: m.root, clock: ClockOf(now)}, out)
	case c.mayHost(now, m.From, p):
		token := c.cookie(m.From, m.Session, now.UnixNano()/int64(cookieLife))
		c.emit(m.From, s, &Message{kind: syncDiffer, token: token, root: c.root.sum(), clock: ClockOf(now)}, out)
	}
}

// mayHost reports whether a peer may begin a session now.
func (c *Core) mayHost(now time.Time, peer frame.ID, p *syncPeer) bool {
	switch {
	case p.phase == phaseActive:
		return false // any remaining difference is compared again after our session
	case p.phase == phaseChecking && bytes.Compare(c.self[:], peer[:]) < 0:
		return false // if two checks cross, the one of the lower id counts
	case now.Before(p.distrust):
		return false
	}
	return c.transfers[peer] == nil && c.mayStream(now, peer) && !c.taken(now, peer)
}

// host begins a session that a peer asked for by sending its vector; it returns nil if that is not possible now.
func (c *Core) host(now time.Time, m *Message, p *syncPeer, out *Actions) *session {
	if !c.mayHost(now, m.From, p) || !p.hosting.AllowN(now, 1) {
		return nil
	}
	if p.phase == phaseChecking {
		c.set(p, phaseDue, now.Add(checkTimeout))
	}
	p.peerSession = session{id: m.Session, theirs: m.token, open: true}
	s := &p.peerSession
	if m.root == c.root.sum() {
		return s
	}
	c.reserve(now, m.From)
	p.welcome(now)
	out.Syncs++
	c.emitVector(m.From, p, s, out)
	return s
}

// badChunk ends everything in progress with a peer that streamed a frame with a bad signature. It was that peer: nobody
// else knows the session.
func (c *Core) badChunk(now time.Time, peer frame.ID, id uint64) {
	p := c.peers[peer]
	if p == nil || p.session(id) == nil {
		return
	}
	p.own.open, p.peerSession.open, p.past.open = false, false, false
	p.distrust = now.Add(distrustTime)
	delete(c.transfers, peer)
	if c.syncSource == peer {
		c.sourceTill = now
	}
	p.tries = 0
	c.set(p, phaseDue, p.distrust)
}
