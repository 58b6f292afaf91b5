package mesh

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// maxInbox bounds the small messages (at most wire.MaxPacket bytes each) that wait for the core; those with large frames
	// have a queue of the same size.
	maxInbox = 8192
	// maxEvents bounds the peer events that the core has yet to process.
	maxEvents = 4 * maxPeers
)

var (
	errRefuseWord = errors.New("the node itself did not say that")
	errRefuseAddr = errors.New("the node itself did not say that it is there")
	errRefuseMany = errors.New("too many members have no certificate")
)

// delegate connects memberlist to a Mesh. Its methods run on memberlist's goroutines, some under memberlist's lock:
// they copy, enqueue and return, and never call memberlist.
type delegate struct{ m *Mesh }

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.EventDelegate    = (*stayEvents)(nil)
	_ memberlist.AliveDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
	_ memberlist.PingDelegate     = delegate{}
)

// NodeMeta returns this node's metadata.
func (d delegate) NodeMeta(limit int) []byte {
	has, uses := d.m.keys.Versions()
	m := meta.Data{Protocol: meta.Protocol, Key: d.m.cfg.Identity.Public(), Name: d.m.cfg.Name, Version: d.m.cfg.Version, Place: d.m.place.word}
	m.Say(d.m.cfg.Identity, has, uses, d.m.ceiling.Next())
	if also := d.m.place.also.Load(); also != nil {
		m.Also, m.AlsoProof = also.addr, also.proof
	}
	b := m.Encode()
	if len(b) > limit {
		return nil // cannot happen: the parts are bounded
	}
	d.m.saidMeta.Store(new(string(b)))
	return b
}

// NotifyMsg queues a message. It copies b, because memberlist reuses it.
func (d delegate) NotifyMsg(b []byte) {
	if len(b) == 0 {
		return
	}
	m := d.m
	b = bytes.Clone(b)
	if len(b) > wire.MaxPacket {
		m.queueBulk(b) // it came by a stream, which has its own goroutine
		return
	}
	queue := m.inbox
	if b[0] == wire.KindChunk || (b[0] == wire.KindPush || b[0] == wire.KindTree) && len(b) > wire.FreshSize {
		queue = m.later
	}
	select {
	case queue <- b:
	default:
		m.count.dropped.Add(1)
	}
}

// GetBroadcasts returns frames to piggyback.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.m.gossip.Take(d.m.now(), overhead, limit)
}

// LocalState is empty: frames never travel with membership.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState ignores its input: no member sends any.
func (delegate) MergeRemoteState([]byte, bool) {}

// NotifyJoin records a peer.
func (d delegate) NotifyJoin(n *memberlist.Node) {
	if id, ok := d.m.peers.joined(d.m.now(), n, memberJoin); ok && !d.m.peers.awaitProof(id) {
		d.m.tell(replica.UpEvent{Peer: id})
	}
}

// NotifyUpdate records new metadata.
func (d delegate) NotifyUpdate(n *memberlist.Node) {
	d.m.peers.joined(d.m.now(), n, memberUpdate)
}

// NotifyLeave records that a peer is gone. memberlist does not say here whether it left or failed; wire.KindBye does.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	if id, ok := d.m.peers.gone(d.m.now(), n); ok {
		d.m.tell(replica.DownEvent{Peer: id})
	}
}

// NotifyAlive refuses a node before memberlist knows it, unless the node's name is the hash of its key, the node itself
// has signed its address and what it says of its keys, and there is room for it.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	id, m, err := meta.Of(n.Name, n.Meta)
	if err != nil {
		return err
	}
	addr := nodeAddr(n)
	known := d.m.peers.Knows(id, addr, n.Meta)
	if !known && !m.IsAt(d.m.cfg.Secrets.MeshID, addr) {
		d.m.warn(ProblemForged, "address", "somebody with the mesh's key says that "+id.Short()+" is at "+addr.String()+", which it did not say itself; it is ignored", shutOut)
		return errRefuseAddr
	}
	if !known && m.Proof != nil && !m.Proven() {
		d.m.warn(ProblemForged, "word", "somebody with the mesh's key says in the name of "+id.Short()+" what it did not sign; it is ignored", shutOut)
		return errRefuseWord
	}
	if !d.m.peers.letIn(id) && d.m.knowsOthers() {
		d.m.warn(ProblemStrangers, "strangers", "more than "+strconv.Itoa(maxStrangers)+
			" members have no certificate; further ones are not let in until one comes; somebody may have the mesh's key", "`meshban rotate mesh-key` shuts them out")
		return errRefuseMany
	}
	return nil
}

// answers records a sign of life from a peer. A peer that was suspect may have missed frames, so the core is told.
func (d delegate) answers(id frame.ID, f func(*peer)) {
	back := false
	d.m.peers.update(id, func(p *peer) {
		if back = p.State == StateSuspect; back {
			p.State, p.Since = StateAlive, d.m.now()
		}
		f(p)
	})
	if back {
		d.m.tell(replica.UpEvent{Peer: id})
	}
}

// NotifyConflict records that two addresses claim one id.
func (d delegate) NotifyConflict(_, other *memberlist.Node) {
	id, err := frame.ParseID(other.Name)
	if err != nil {
		return
	}
	addr := nodeAddr(other)
	if id == d.m.id {
		d.m.asks.suspect(addr)
		return
	}
	d.m.peers.update(id, func(p *peer) { p.alt = addr })
	wake(d.m.peers.unproved)
}

// AckPayload answers a ping with our digest and that of the membership, so that anti-entropy sends no packets of its
// own while both are equal.
func (d delegate) AckPayload() []byte {
	sum, _ := d.m.peers.viewDigest()
	return d.m.acks.answer(d.m.now(), d.m.cfg.Identity, d.m.cfg.Secrets.MeshID, d.m.Digest(), sum)
}

// NotifyPingComplete compares digests.
func (d delegate) NotifyPingComplete(n *memberlist.Node, rtt time.Duration, payload []byte) {
	id, err := frame.ParseID(n.Name)
	if err != nil {
		return
	}
	now := d.m.now()
	var key ed25519.PublicKey
	d.answers(id, func(p *peer) { p.RTT, p.seen, key = max(rtt, 0), now, p.key })
	if a, ok := readAck(bytes.Clone(payload)); ok {
		d.m.tell(replica.RootEvent{Peer: id, Root: a.root, Clock: a.clock, Signed: d.m.signedBy(key, a)})
		d.m.viewSeen(now, nodeAddr(n), a.view)
	}
}

// viewSeen compares the view of the member at addr with ours.
func (m *Mesh) viewSeen(now time.Time, addr netip.AddrPort, theirs uint64) {
	mine, changed := m.peers.viewDigest()
	m.views.Seen(now, changed, mine, theirs, addr)
}
