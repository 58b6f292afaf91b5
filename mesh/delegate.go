package mesh

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
)

// The first byte of every message that memberlist carries for us.
const (
	kindPush   = 1 + iota // frames, straight from their origin: not passed on
	kindTree              // frames along a tree: passed on once
	kindSync              // a sync message
	kindChunk             // a sync message with frames
	kindAsk               // a question to who is at an address, or the answer; see ask.go
	kindBye               // the sender is about to leave, see bye.go
	kindNotice            // a word to one member, see notice.go
	kindPath              // whether UDP passes, see udppath.go
)

const (
	// maxInbox bounds the messages that wait for the core; UDP's share, at most maxPacket bytes each. Frames of a bulk have
	// as much again.
	maxInbox = 8192
	// maxEvents bounds what memberlist tells of peers and the core has not looked at.
	maxEvents = 4 * MaxPeers
)

var (
	errRefuseName = errors.New("the node name is no id")
	errRefuseMeta = errors.New("the metadata cannot be read")
	errRefuseKey  = errors.New("the key does not belong to the id")
	errRefuseAddr = errors.New("the node itself did not say that it is there")
	errRefuseMany = errors.New("too many members have no certificate")
)

// delegate is memberlist's view of a Mesh. Its methods run on memberlist's goroutines, some under memberlist's lock:
// they copy, enqueue and return, and never call memberlist.
type delegate struct{ m *Mesh }

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.EventDelegate    = (*stayEvents)(nil)
	_ memberlist.AliveDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
	_ memberlist.PingDelegate     = delegate{}
)

// NodeMeta tells who we are.
func (d delegate) NodeMeta(limit int) []byte {
	has, uses := d.m.keys.said()
	m := meta{Protocol: protocolVersion, Key: d.m.cfg.Identity.Public(), Name: d.m.cfg.Name, Version: d.m.cfg.Version, Place: d.m.place.word}
	m.say(d.m.cfg.Identity, has, uses, d.m.ceiling.next())
	b := m.encode()
	if len(b) > limit {
		return nil // cannot be: the parts are bounded
	}
	d.m.saidMeta.Store(new(string(b)))
	return b
}

// NotifyMsg takes a message in. memberlist reuses the bytes.
func (d delegate) NotifyMsg(b []byte) {
	if len(b) == 0 {
		return
	}
	m := d.m
	b = bytes.Clone(b)
	if len(b) > maxPacket {
		m.queueBulk(b) // it came by a stream, which has a goroutine of its own
		return
	}
	queue := m.inbox
	if b[0] == kindChunk || (b[0] == kindPush || b[0] == kindTree) && len(b) > freshSize {
		queue = m.later
	}
	select {
	case queue <- b:
	default:
		m.count.dropped.Add(1)
	}
}

// GetBroadcasts gives frames to piggyback.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.m.gossip.take(d.m.now(), overhead, limit)
}

// LocalState is empty: frames never travel with membership.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState ignores what there should not be.
func (delegate) MergeRemoteState([]byte, bool) {}

// NotifyJoin notes a peer.
func (d delegate) NotifyJoin(n *memberlist.Node) {
	if id, ok := d.m.peers.joined(d.m.now(), n, MemberJoin); ok && !d.m.peers.awaitProof(id) {
		d.m.tell(evUp{id})
	}
}

// NotifyUpdate notes new metadata.
func (d delegate) NotifyUpdate(n *memberlist.Node) {
	d.m.peers.joined(d.m.now(), n, MemberUpdate)
}

// NotifyLeave notes that a peer is gone. memberlist does not say here whether it left or failed; kindBye does.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	if id, ok := d.m.peers.gone(d.m.now(), n); ok {
		d.m.tell(evDown{id})
	}
}

// NotifyAlive refuses nodes whose name is not the hash of their key, before memberlist knows them.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	id, err := ParseID(n.Name)
	if err != nil {
		return errRefuseName
	}
	m, err := decodeMeta(n.Meta)
	if err != nil {
		return errRefuseMeta
	}
	if IDOf(m.Key) != id {
		return errRefuseKey
	}
	addr := nodeAddr(n)
	known := d.m.peers.isAt(id, addr, n.Meta)
	if !known && !m.isAt(d.m.cfg.Secrets.MeshID, addr) {
		d.m.warn(ProblemForged, "address", "somebody with the mesh's key says that "+id.Short()+" is at "+addr.String()+", which it did not say itself; it is ignored")
		return errRefuseAddr
	}
	if !known && m.Proof != nil && !m.proven() {
		d.m.warn(ProblemForged, "word", "somebody with the mesh's key says in the name of "+id.Short()+" what it did not sign; it is ignored")
		return errRefuseMeta
	}
	if !d.m.peers.letIn(id) && d.m.knowsOthers() {
		d.m.warn(ProblemStrangers, "strangers", "more than "+strconv.Itoa(maxStrangers)+
			" members have no certificate; further ones are not let in until one comes; somebody may have the mesh's key")
		return errRefuseMany
	}
	d.answers(id, func(*peer) {})
	return nil
}

// answers notes that a peer is heard of; one that was suspect may have missed frames.
func (d delegate) answers(id ID, f func(*peer)) {
	back := false
	d.m.peers.update(id, func(p *peer) {
		if back = p.State == StateSuspect; back {
			p.State, p.Since = StateAlive, d.m.now()
		}
		f(p)
	})
	if back {
		d.m.tell(evUp{id})
	}
}

// NotifyConflict notes that two addresses claim one id.
func (d delegate) NotifyConflict(_, other *memberlist.Node) {
	id, err := ParseID(other.Name)
	if err != nil {
		return
	}
	addr := nodeAddr(other)
	if id == d.m.id {
		d.m.asks.suspect(addr)
		return
	}
	d.m.peers.update(id, func(p *peer) { p.alt = addr })
	signal(d.m.peers.unproved)
}

// AckPayload tells whoever pings us our digest, and that of the membership: anti-entropy has no packets of its own while
// all is equal.
func (d delegate) AckPayload() []byte {
	sum, _ := d.m.peers.viewDigest()
	return d.m.acks.answer(d.m.now(), d.m.cfg.Identity, d.m.cfg.Secrets.MeshID, d.m.Digest(), sum)
}

// NotifyPingComplete compares digests.
func (d delegate) NotifyPingComplete(n *memberlist.Node, rtt time.Duration, payload []byte) {
	id, err := ParseID(n.Name)
	if err != nil {
		return
	}
	now := d.m.now()
	var key ed25519.PublicKey
	d.answers(id, func(p *peer) { p.RTT, p.seen, key = max(rtt, 0), now, p.key })
	if a, ok := readAck(bytes.Clone(payload)); ok {
		d.m.tell(evRoot{id, a.root, a.clock, d.m.signedBy(key, a)})
		d.m.viewSeen(now, n, a.view)
	}
}
