package main

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// A captured member proves its address and its packets as honest ones do, so it has a member's share of each node and
// is alive there. The first implementation of the proofs is in mesh/packetproof.go, that of the answers in mesh/ask.go.

const kindAsk = 5

// proofs makes the proofs of this member's packets.
type proofs struct {
	id      pki.Identity
	secrets pki.Secrets

	mu   sync.Mutex
	keys map[netip.AddrPort]ed25519.PublicKey // of the members at these addresses
	made map[netip.AddrPort]func(text []byte) []byte
}

func newProofs(key ed25519.PrivateKey, secrets pki.Secrets) *proofs {
	return &proofs{
		id: pki.IdentityOf(key), secrets: secrets,
		keys: make(map[netip.AddrPort]ed25519.PublicKey), made: make(map[netip.AddrPort]func([]byte) []byte),
	}
}

// NotifyJoin notes the key of a member.
func (p *proofs) NotifyJoin(n *memberlist.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if addr, ok := netip.AddrFromSlice(n.Addr); ok && len(n.Meta) > 36 {
		p.keys[netip.AddrPortFrom(addr.Unmap(), n.Port)] = bytes.Clone(n.Meta[4:36])
	}
}

// NotifyUpdate changes nothing: a key stays.
func (*proofs) NotifyUpdate(*memberlist.Node) {}

// NotifyLeave changes nothing.
func (*proofs) NotifyLeave(*memberlist.Node) {}

// seal encrypts a packet for the member at an address, with the proof as its nonce; if nobody is known to be there, without.
func (p *proofs) seal(to netip.AddrPort, plain []byte) []byte {
	p.mu.Lock()
	proof := p.made[to]
	if key := p.keys[to]; proof == nil && key != nil {
		proof = p.prover(key)
		p.made[to] = proof
	}
	p.mu.Unlock()
	if proof == nil {
		return seal(p.secrets.GossipKey, 1, plain, nil)
	}
	return sealWith(p.secrets.GossipKey, 1, proof(plain), plain, nil)
}

// prover returns what makes the proofs for the member with a key.
func (p *proofs) prover(peer ed25519.PublicKey) func(text []byte) []byte {
	secret, err := p.id.Agree(peer)
	if err != nil {
		return nil
	}
	low, high := p.id.ID(), frame.IDOf(peer)
	if bytes.Compare(low[:], high[:]) > 0 {
		low, high = high, low
	}
	keys, err := hkdf.Key(sha256.New, secret, p.secrets.MeshID[:], "meshban packet v1\x00"+string(low[:])+string(high[:]), 64)
	if err != nil {
		return nil
	}
	hash, mask := gcm([32]byte(keys[:32])), block([32]byte(keys[32:]))
	self := p.id.ID()
	return func(text []byte) []byte {
		sum := hash.Seal(nil, self[:12], nil, text)
		mask.Encrypt(sum, sum)
		return sum[:12]
	}
}

// provingTransport proves the packets that memberlist itself sends. It takes the questions that come over TLS, and never
// answers them.
type provingTransport struct {
	*memberlist.NetTransport
	proofs  *proofs
	streams chan net.Conn // sort sends, memberlist receives, nobody closes
}

func newProvingTransport(conf *memberlist.Config, p *proofs) (*provingTransport, error) {
	inner, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{conf.BindAddr}, BindPort: conf.BindPort, Logger: conf.Logger,
	})
	if err != nil {
		return nil, err
	}
	t := &provingTransport{inner, p, make(chan net.Conn)}
	go func() {
		for conn := range inner.StreamCh() {
			go t.sort(conn)
		}
	}()
	return t, nil
}

// sort passes on memberlist's streams, and holds all others open for as long as it can.
func (t *provingTransport) sort(conn net.Conn) {
	const tlsRecord = 0x16
	r := bufio.NewReaderSize(conn, 16)
	if first, err := r.Peek(1); err != nil || first[0] == tlsRecord {
		_, _ = io.Copy(io.Discard, r)
		_ = conn.Close()
		return
	}
	t.streams <- &peeked{conn, r}
}

// StreamCh returns memberlist's streams.
func (t *provingTransport) StreamCh() <-chan net.Conn { return t.streams }

// peeked is a stream whose first byte was looked at.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (c *peeked) Read(b []byte) (int, error) { return c.r.Read(b) }

// WriteToAddress encrypts a packet anew, with its proof.
func (t *provingTransport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	if addr, err := netip.ParseAddrPort(to.Addr); err == nil && len(b) > 13 {
		if plain, err := gcm(t.proofs.secrets.GossipKey).Open(nil, b[1:13], b[13:], nil); err == nil {
			b = t.proofs.seal(addr, plain)
		}
	}
	return t.NetTransport.WriteToAddress(b, to)
}

// WriteTo is WriteToAddress to whoever is there.
func (t *provingTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// answer answers the question which node is at this member's address, if msg is one.
func (w *world) answer(msg []byte) {
	rest, ok := bytes.CutPrefix(msg, join([]byte{kindAsk}, array(6), number(1), bin(w.secrets.MeshID[:]), bin(w.id[:])))
	if !ok || len(rest) < 2+16+1 {
		return
	}
	nonce := rest[2:18]
	rest = rest[18:]
	size := int(rest[0] & 0x1f)
	rest = rest[1:]
	if size == 0 || len(rest) < size+2+32 { // a size of 0: an answer
		return
	}
	to, err := netip.ParseAddrPort(string(rest[:size]))
	if err != nil {
		return
	}
	from := frame.IDOf(ed25519.PublicKey(rest[size+2 : size+2+32]))
	w.count(w.udp.WriteToUDPAddrPort(w.proofs.seal(to, append([]byte{mlUser}, w.question(from, nonce, "")...)), to))
}

func block(key [32]byte) cipher.Block {
	b, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	return b
}

func gcm(key [32]byte) cipher.AEAD {
	g, err := cipher.NewGCM(block(key))
	if err != nil {
		panic(err)
	}
	return g
}
