package filter

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/pki"
)

// Anyone who has the mesh's key can send packets from another member's address if the network lets it, so members
// authenticate their packets to one another. Each pair of nodes derives two keys from their identities (X25519, then
// HKDF-SHA256) and uses a keyed hash of the plaintext as the nonce of memberlist's encryption, as AES-GCM-SIV does (RFC
// 8452). That adds no bytes to the packet, and a node that does not check proofs can still read it.
//
// A packet from an address where a member has answered needs the proof of a member at that address; packets without one
// share an account (see unproven), and so do packets from all other addresses (see anywhere). A proof does not say when
// the packet was sent, so anyone who can read the network between two members can replay their packets.

const (
	proofDomain = "meshban packet v1\x00"
	// maxAtAddress bounds the members at one address whose proofs are tried, at 0.5 us each.
	maxAtAddress = 64
	// keptPings is how many of the last pings are remembered: a node has at most pingAlone open.
	keptPings = 1024
	// prunePairs is how many pairs may be added before those of nodes that are no longer known are dropped.
	prunePairs = 256
)

// unproven is the account of all packets that come from members' addresses without a member's proof. No packet has this
// source address.
var unproven = netip.IPv6Unspecified()

// anywhere is likewise the account of all packets from addresses where no member has answered. If each such address had
// its own account, made-up ones would use up the maxSources accounts.
var anywhere = netip.IPv4Unspecified()

// pair makes the proofs between this node and a peer.
type pair struct {
	hash         cipher.AEAD // GMAC; mask encrypts its result, so its nonce may repeat
	mask         cipher.Block
	ours, theirs [mlwire.NonceLen]byte // the nonces of hash for what this node sends, and for what the peer sends
}

func newPair(id pki.Identity, meshID [16]byte, peer ed25519.PublicKey) (*pair, error) {
	secret, err := id.Agree(peer)
	if err != nil {
		return nil, err
	}
	low, high := id.ID(), frame.IDOf(peer)
	p := &pair{ours: [mlwire.NonceLen]byte(low[:]), theirs: [mlwire.NonceLen]byte(high[:])}
	if slices.Compare(low[:], high[:]) > 0 {
		low, high = high, low
	}
	const size = 32
	keys, err := hkdf.Key(sha256.New, secret, meshID[:], proofDomain+string(low[:])+string(high[:]), 2*size)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(keys[:size])
	if err != nil {
		return nil, err
	}
	if p.hash, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	p.mask, err = aes.NewCipher(keys[size:])
	return p, err
}

// proof returns the proof of a text by one of the two, in buf.
func (p *pair) proof(buf []byte, by *[mlwire.NonceLen]byte, text []byte) []byte {
	sum := p.hash.Seal(buf[:0], by[:], nil, text)
	p.mask.Encrypt(sum, sum)
	return sum[:mlwire.NonceLen]
}

// prover proves the packets that this node sends, and checks those that it gets.
type prover struct {
	id      pki.Identity
	meshID  [16]byte
	members Members
	buffer  [mlwire.TagLen]byte // for check and acked

	mu      sync.Mutex
	pinged  [keptPings]pinged // by number; memberlist counts its pings
	pairs   map[frame.ID]*pair
	pruneAt int // length of pairs at which those of nodes that are no longer known are dropped
}

func newProver(id pki.Identity, meshID [16]byte, members Members) *prover {
	return &prover{id: id, meshID: meshID, members: members, pairs: make(map[frame.ID]*pair)}
}

// pinged is a ping that this node has sent.
type pinged struct {
	seq uint32
	id  frame.ID
}

// packetBuffer has room for a packet that is being sent, and its parts.
type packetBuffer struct {
	proof       [mlwire.TagLen]byte
	text, whole [maxDatagram]byte
}

var packetBuffers = sync.Pool{New: func() any { return new(packetBuffer) }}

// pair returns the keys shared with a peer, or nil if the peer's key is unknown.
func (d *prover) pair(id frame.ID) *pair {
	key := d.members.Key(id)
	if key == nil {
		return nil
	}
	d.mu.Lock()
	p := d.pairs[id]
	d.mu.Unlock()
	if p == nil {
		var err error
		if p, err = newPair(d.id, d.meshID, key); err != nil {
			p = &pair{} // the key is no good: do not try again
		}
		d.keep(id, p)
	}
	if p.hash == nil {
		return nil
	}
	return p
}

func (d *prover) keep(id frame.ID, p *pair) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.pairs) >= d.pruneAt {
		maps.DeleteFunc(d.pairs, func(id frame.ID, _ *pair) bool { return d.members.Key(id) == nil })
		d.pruneAt = len(d.pairs) + prunePairs
	}
	d.pairs[id] = p
}

// prove returns one of memberlist's packets with its proof, in buf, or the packet itself if the receiver's key is
// unknown. A packet to an address that the peer has not signed gets no proof: whoever receives it there could repeat it
// to the peer.
func (d *prover) prove(buf *packetBuffer, g *guard, packet []byte, to memberlist.Address) []byte {
	id, err := frame.ParseID(to.Name)
	if err != nil || len(packet) <= mlwire.Overhead || len(packet) > maxDatagram {
		return packet
	}
	a, err := g.aead(g.keys()[0])
	if err != nil {
		return packet
	}
	text, err := a.Open(buf.text[:0], packet[1:1+mlwire.NonceLen], packet[1+mlwire.NonceLen:], nil)
	if err != nil {
		return packet // the key has just been changed
	}
	if seq, ok := pingIn(text); ok {
		d.pings(seq, id)
	}
	p := d.pair(id)
	if addr, err := netip.ParseAddrPort(to.Addr); p == nil || err != nil || !d.members.States(id, addr) {
		return packet
	}
	b := append(buf.whole[:0], packet[0])
	b = append(b, p.proof(buf.proof[:], &p.ours, text)...)
	return a.Seal(b, b[1:], text, nil)
}

// check returns which member at the address from sent text; nonce, which encrypts text, is the proof. ok is false if
// none did. Only one goroutine calls it.
func (d *prover) check(from netip.Addr, nonce, text []byte) (by frame.ID, ok bool) {
	for i, id := range d.members.At(from) {
		if i == maxAtAddress {
			break
		}
		p := d.pair(id)
		if p != nil && subtle.ConstantTimeCompare(p.proof(d.buffer[:], &p.theirs, text), nonce) == 1 {
			return id, true
		}
	}
	return frame.ID{}, false
}

// pingIn returns the number of the ping with which a packet begins, if it does.
func pingIn(b []byte) (seq uint32, ok bool) {
	if len(b) > 5 && b[0] == mlwire.CRC {
		b = b[5:]
	}
	if len(b) > 1 && b[0] == mlwire.Compound {
		b = b[min(2+2*int(b[1]), len(b)):]
	}
	if len(b) == 0 || b[0] != mlwire.Ping {
		return 0, false
	}
	var p mlwire.AckMessage
	return p.SeqNo, decode(b[1:], &p) == nil
}

// pings records a ping that this node sends to a node.
func (d *prover) pings(seq uint32, id frame.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pinged[seq%keptPings] = pinged{seq, id}
}

// acked reports whether the node that was pinged with the number seq sent text, from whatever address; nonce, which
// encrypts text, is the proof. A node whose key is unknown, such as a member of an earlier run, cannot prove that and
// is believed. Only one goroutine calls it.
func (d *prover) acked(seq uint32, nonce, text []byte) bool {
	d.mu.Lock()
	ping := d.pinged[seq%keptPings]
	d.mu.Unlock()
	if ping.seq != seq {
		return false
	}
	p := d.pair(ping.id)
	return p == nil || subtle.ConstantTimeCompare(p.proof(d.buffer[:], &p.theirs, text), nonce) == 1
}
