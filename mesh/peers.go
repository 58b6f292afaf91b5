package mesh

import (
	"crypto/ed25519"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/roster"
	"github.com/meshban/meshban/mesh/internal/rotate"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// hideLeft is how long a member that said goodbye stays listed, forgetLeft how long it is remembered: within that
	// time all members can leave at once and still find one another again.
	hideLeft, forgetLeft = 10 * time.Minute, 24 * time.Hour
	// forgetDead is how long a silent member is listed and searched for while others are alive.
	forgetDead = 7 * 24 * time.Hour
	// byeValid is how long before or after a peer's goodbye memberlist may report that it is gone.
	byeValid = 30 * time.Second
	// hearsay is how long after its last sign of life a member that is said to be dead or gone still gets bans pushed.
	hearsay = 2 * time.Minute
	// maxStrangers bounds the members without a certificate, which may be newcomers, or names that one machine has made
	// up. Each takes a share of memberlist's gossip.
	maxStrangers = 8
	// maxMemberEvents bounds the events that wait for OnMember; the oldest are dropped.
	maxMemberEvents = 4096
)

// peer is what we know of another node.
type peer struct {
	Member
	mark uint64 // see roster.Mark
	meta string // as received
	key  ed25519.PublicKey
	keys rotate.Peer // as it states
	top  uint32      // its ceiling, as it states
	seen time.Time   // its last sign of life; zero: remembered from an earlier run
	told time.Time   // the last news of it, which anybody with the mesh's key can send
	bye  time.Time   // when it said that it is about to leave
	// byeIssued is when its last goodbye was signed, by its own clock.
	byeIssued time.Time
	alt       netip.AddrPort // another address that claimed this id, tried if Addr is dead

	// also is the address of the other family that it states; viaAlso: it answers there and not at Addr. silent: there
	// is a sign that it does not answer at the address in use.
	also            netip.AddrPort
	viaAlso, silent bool

	word    forgotten   // zero: it is not forgotten
	proofs  []AddrProof // at most maxProofs
	asking  asking
	upWaits bool // the core learns of it once its address is proved
	// answers is set while it answers pings although it is said to be dead or gone: the core still deals with it.
	answers bool
}

// peerTable is the membership as this node sees it; it is the filter's Members. memberlist's callbacks write it under memberlist's lock, so nothing
// here calls out.
type peerTable struct {
	self    frame.ID
	trusted func(frame.ID) bool // must neither wait nor call back
	wake    chan struct{}       // capacity 1; the table sends, the notifier waits
	// unproved has capacity 1: some peer's address is not proved; proveLoop waits.
	unproved chan struct{}
	keys     chan struct{} // capacity 1: the live peers, or some peer's gossip keys, may have changed; keyLoop waits

	since   time.Time                                 // when this node began to listen; set before that
	sources atomic.Pointer[map[netip.Addr][]frame.ID] // where trusted peers have answered; replaced, never changed
	detours atomic.Pointer[map[string]netip.AddrPort] // the peers that are reached at their other address; likewise

	mu      sync.Mutex
	peers   map[frame.ID]*peer
	events  []MemberEvent
	dropped uint64
	dirty   bool // the list to store has changed
	// knownChanged: the result of known has changed since take.
	knownChanged bool
	losses       uint64          // peers that left or failed: addresses joined before are worth another try
	targets      []spread.Target // alive peers; replaced, never changed
	pushTo       []spread.Target // trusted peers to push to, sorted by id; likewise
	own          uint64          // this node's mark
	ownMeta      string          // what memberlist holds as this node's metadata
	view         uint64          // the sum of the marks of all live peers
	viewed       time.Time       // when view changed
}

func newPeerTable(self frame.ID, remembered []Peer, trusted func(frame.ID) bool) *peerTable {
	t := &peerTable{self: self, trusted: trusted, wake: make(chan struct{}, 1), keys: make(chan struct{}, 1), unproved: make(chan struct{}, 1), peers: make(map[frame.ID]*peer)}
	for _, p := range remembered {
		if len(t.peers) == maxPeers || p.ID == self || !p.Addr.IsValid() {
			continue
		}
		t.peers[p.ID] = &peer{Member: Member{
			ID: p.ID, Name: wire.Escape(p.Name, pki.MaxName), Addr: p.Addr, State: StateDead, Since: p.Seen,
		}, seen: p.Seen, word: p.forgotten(), proofs: slices.Clone(p.Proved[:min(len(p.Proved), maxProofs)])}
	}
	return t
}

// nodeAddr copies a node's address.
func nodeAddr(n *memberlist.Node) netip.AddrPort {
	a, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(a.Unmap(), n.Port)
}

// joined records that a node is alive, and its metadata.
func (t *peerTable) joined(now time.Time, n *memberlist.Node, kind string) (frame.ID, bool) {
	id, m, err := meta.Of(n.Name, n.Meta)
	if err != nil {
		return frame.ID{}, false
	}
	addr := nodeAddr(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	if id == t.self {
		t.own, t.ownMeta = roster.Mark(id, addr, m.Has, m.Uses, m.Ceiling), string(n.Meta)
		t.viewLocked(now)
		return frame.ID{}, false
	}
	p := t.peers[id]
	if p == nil {
		if len(t.peers) >= MaxMembers && !t.evictLocked() {
			return frame.ID{}, false
		}
		p = &peer{}
		t.peers[id] = p
	}
	if p.State != StateAlive || p.Since.IsZero() {
		p.Since = now
	}
	before := p.Member
	if p.moves(now, addr); m.Also.Addr().Is4() == addr.Addr().Is4() {
		m.Also = netip.AddrPort{}
	}
	p.viaAlso = p.viaAlso && p.Addr == addr && p.also == m.Also
	p.also = m.Also
	p.ID, p.Name, p.Version, p.Addr, p.told = id, m.Name, m.Version, addr, now
	if p.State == StateAlive {
		p.seen, p.word = now, forgotten{}
	} else { // the sender of this news may not be the member itself
		p.State = StateSuspect
		p.askAgain()
		wake(t.unproved)
	}
	if says := (rotate.Peer{ID: id, Has: m.Has, Uses: m.Uses}); m.Proof == nil || says != p.keys && !m.Proven() {
		p.keys = rotate.Peer{ID: id}
	} else {
		p.keys = says
	}
	p.meta, p.key, p.top = string(n.Meta), m.Key, m.Ceiling
	p.mark = roster.Mark(id, addr, p.keys.Has, p.keys.Uses, p.top)
	p.KeyKnown, p.KeyGeneration = p.keys.Has != 0, p.keys.Has.Generation()
	p.alt, p.bye, p.answers = netip.AddrPort{}, time.Time{}, false
	if !p.isProved(addr) {
		wake(t.unproved)
	}
	if before.KeyKnown, before.KeyGeneration = p.KeyKnown, p.KeyGeneration; kind == memberUpdate && before == p.Member {
		t.viewLocked(now) // key changes are not reported to people
		wake(t.keys)
		return id, true
	}
	t.changedLocked(now, MemberEvent{kind, p.Member})
	return id, true
}

// gone records that a node left or failed.
func (t *peerTable) gone(now time.Time, n *memberlist.Node) (frame.ID, bool) {
	id, err := frame.ParseID(n.Name)
	if err != nil || id == t.self {
		return frame.ID{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil {
		return id, true
	}
	if p.State == StateAlive {
		p.seen = now
	}
	kind := memberFail
	p.State, p.Since, p.told, p.InSync, p.upWaits, p.answers = StateDead, now, now, false, false, false
	if now.Sub(p.bye) < byeValid {
		kind, p.State = memberLeave, StateLeft
	}
	t.losses++
	t.changedLocked(now, MemberEvent{kind, p.Member})
	if !t.trusted(id) {
		delete(t.peers, id) // a stranger must not displace peers that are searched for
	}
	return id, true
}

// answered records that a peer has answered a ping at addr, and reports whether it did although it is said to be dead
// or gone.
func (t *peerTable) answered(now time.Time, id frame.ID, addr netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil || p.Addr != addr || p.meta == "" || p.State == StateAlive || p.State == StateSuspect {
		return false
	}
	p.seen, p.answers, p.word = now, true, forgotten{}
	t.targetsLocked(now)
	return true
}

// silent returns the peers that are said to be dead or gone and have stopped answering.
func (t *peerTable) silent(now time.Time) (ids []frame.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.peers {
		if p.answers && !p.reachable(now) {
			p.answers = false
			ids = append(ids, id)
		}
	}
	return ids
}

// expectsBye reports whether a peer's goodbye signed at issued is new.
func (t *peerTable) expectsBye(id frame.ID, issued time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	return p != nil && issued.After(p.byeIssued)
}

// Leaving reports whether a peer has said recently that it is about to leave.
func (t *peerTable) Leaving(now time.Time, id frame.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	return p != nil && now.Sub(p.bye) < byeValid
}

// goodbye records that a peer is about to leave; memberlist may have reported it gone before.
func (t *peerTable) goodbye(now time.Time, id frame.ID, issued time.Time) {
	t.update(id, func(p *peer) {
		p.bye, p.byeIssued = now, issued
		if p.State == StateDead && now.Sub(p.Since) < byeValid {
			p.State = StateLeft
			t.dirty = true
		}
	})
}

func (t *peerTable) changedLocked(now time.Time, e MemberEvent) {
	if len(t.events) == maxMemberEvents {
		t.events = slices.Delete(t.events, 0, 1)
		t.dropped++
	}
	t.events = append(t.events, e)
	t.dirty = true
	t.targetsLocked(now)
	wake(t.wake)
	wake(t.keys)
}

// retarget recomputes the peers to push to after trust has changed.
func (t *peerTable) retarget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.targetsLocked(now)
}

func (t *peerTable) targetsLocked(now time.Time) {
	targets := make([]spread.Target, 0, len(t.peers))
	for id, p := range t.peers {
		if p.State == StateAlive || p.State == StateSuspect {
			targets = append(targets, spread.Target{ID: id, Node: p.node()})
		}
	}
	slices.SortFunc(targets, func(a, b spread.Target) int { return slices.Compare(a.ID[:], b.ID[:]) })
	t.targets = targets
	t.pushTo = nil
	sources := make(map[netip.Addr][]frame.ID, len(t.peers))
	var detours map[string]netip.AddrPort
	for id, p := range t.peers {
		if p.viaAlso {
			if detours == nil {
				detours = make(map[string]netip.AddrPort)
			}
			detours[id.String()] = p.also
		}
		if t.trusted(id) && !t.unprotected(now, p) {
			for _, proof := range p.recent(now) {
				if at := proof.Addr.Addr().Unmap().WithZone(""); !slices.Contains(sources[at], id) {
					sources[at] = append(sources[at], id)
				}
			}
		}
		if p.reachable(now) && t.trusted(id) {
			t.pushTo = append(t.pushTo, spread.Target{ID: id, Node: p.node(), Gone: p.State != StateAlive && p.State != StateSuspect})
		}
	}
	t.sources.Store(&sources)
	t.detours.Store(&detours)
	slices.SortFunc(t.pushTo, func(a, b spread.Target) int { return slices.Compare(a.ID[:], b.ID[:]) })
	t.viewLocked(now)
}

// holdsOwn reports whether memberlist holds meta as this node's own metadata.
func (t *peerTable) holdsOwn(meta string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ownMeta == meta
}

// Knows reports whether a node is known at this address with this metadata. If so, the metadata was checked before.
func (t *peerTable) Knows(id frame.ID, addr netip.AddrPort, meta []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	return p != nil && p.Addr == addr && p.meta == string(meta)
}

// Ceiling returns the highest incarnation that news of a node may have.
func (t *peerTable) Ceiling(id frame.ID) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil {
		return max(p.top, meta.FirstCeiling)
	}
	return meta.FirstCeiling
}

// letIn reports whether a node may be a member: any trusted one, and others while there are few of them.
func (t *peerTable) letIn(id frame.ID) bool {
	if id == t.self || t.trusted(id) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	strangers := 0
	for _, a := range t.targets {
		if !t.trusted(a.ID) {
			strangers++
		}
	}
	return strangers < maxStrangers || t.peers[id] != nil
}

// reachable reports whether to push to a peer. Any member can say that another is dead, so a peer heard from within
// hearsay is still pushed to.
func (p *peer) reachable(now time.Time) bool {
	return p.State == StateAlive || p.State == StateSuspect || !p.seen.IsZero() && p.meta != "" && now.Sub(p.seen) < hearsay
}

// viewLocked recomputes the digest of the live peers.
func (t *peerTable) viewLocked(now time.Time) {
	sum := t.own
	for _, target := range t.targets {
		sum += t.peers[target.ID].mark
	}
	if sum != t.view {
		t.view, t.viewed = sum, now
	}
}

// At returns the trusted members that have answered at an address; the caller must not change the slice.
func (t *peerTable) At(from netip.Addr) []frame.ID {
	if sources := t.sources.Load(); sources != nil {
		return (*sources)[from]
	}
	return nil
}

// isSource reports whether a trusted member has answered at an address.
func (t *peerTable) isSource(from netip.Addr) bool { return len(t.At(from)) > 0 }

// Key returns a peer's key; nil: it is unknown.
func (t *peerTable) Key(id frame.ID) ed25519.PublicKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil {
		return p.key
	}
	return nil
}

// States reports whether a peer has signed that it is at an address.
func (t *peerTable) States(id frame.ID, addr netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	return p != nil && (addr == p.Addr || addr == p.also)
}

// Detour returns where a peer is reached if not at its address.
func (t *peerTable) Detour(name string) (addr netip.AddrPort, ok bool) {
	if detours := t.detours.Load(); detours != nil {
		addr, ok = (*detours)[name]
	}
	return addr, ok
}

// viewDigest returns the digest of the live peers, and since when it has been the same.
func (t *peerTable) viewDigest() (uint64, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view, t.viewed
}

// node returns memberlist's form of the peer. PMax 4 means "no checksum": packets are authenticated by their
// encryption.
func (p *peer) node() *memberlist.Node {
	at := p.addrInUse()
	return &memberlist.Node{Name: p.ID.String(), Addr: net.IP(at.Addr().AsSlice()), Port: at.Port(), PMax: 4}
}

// addrInUse returns where the peer is reached.
func (p *peer) addrInUse() netip.AddrPort {
	if p.viaAlso {
		return p.also
	}
	return p.Addr
}

// evictLocked makes room by dropping the dead or left peer that was seen longest ago.
func (t *peerTable) evictLocked() bool {
	var oldest *peer
	for _, p := range t.peers {
		if (p.State == StateDead || p.State == StateLeft) && (oldest == nil || p.seen.Before(oldest.seen)) {
			oldest = p
		}
	}
	if oldest == nil {
		return false
	}
	delete(t.peers, oldest.ID)
	return true
}

// forget drops peers that have been gone for long.
func (t *peerTable) forget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.peers {
		if p.answers {
			continue
		}
		gone := now.Sub(p.Since)
		if (p.State == StateLeft && gone > forgetLeft) || (p.State == StateDead && gone > forgetDead && len(t.targets) > 0) {
			delete(t.peers, id)
			t.dirty = true
		}
		t.knownChanged = t.knownChanged || !p.word.Said.IsZero()
	}
	t.targetsLocked(now)
}

// update changes a peer's volatile fields; f must not call out.
func (t *peerTable) update(id frame.ID, f func(*peer)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil {
		f(p)
	}
}

// aliveSince returns since when a peer has been alive; zero: it is not.
func (t *peerTable) aliveSince(id frame.ID) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil && p.State == StateAlive {
		return p.Since
	}
	return time.Time{}
}

// receivers returns the trusted peers to push to; the caller must not change the slice.
func (t *peerTable) receivers() []spread.Target {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pushTo
}

// alive returns the peers that are alive; the caller must not change the slice.
func (t *peerTable) alive() []spread.Target {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.targets
}

// node returns where to send to a peer that is alive, or that answers although it is said to be dead or gone; otherwise
// nil.
func (t *peerTable) node(id frame.ID) *memberlist.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i, ok := spread.Find(t.targets, id); ok {
		return t.targets[i].Node
	}
	if p := t.peers[id]; p != nil && p.answers {
		return p.node()
	}
	return nil
}

// keysOf returns what the live peers state about their gossip keys.
func (t *peerTable) keysOf() []rotate.Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]rotate.Peer, 0, len(t.targets))
	for _, target := range t.targets {
		all = append(all, t.peers[target.ID].keys)
	}
	return all
}
