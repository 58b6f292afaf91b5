package mesh

import (
	"crypto/ed25519"
	"encoding/binary"
	"sync"
	"time"
)

// Pings carry the comparison of digests: the answer to one says what the peer holds. memberlist does not tell who sent the
// answer, so the peer signs it. It signs the time too, because whoever has heard an answer can send it again. The digest
// itself stays out: its first bytes find the one of ours that the signature must fit.

const (
	ackDomain = "meshban ack v1\x00"
	// rootShort is how many bytes of the digest are sent.
	rootShort = 8
	// ackLen is the bytes that ride on the answer to a ping: the first ones of the digest of the frames, the digest of the
	// membership, the clock and the signature. ackSig is where the latter is.
	ackSig, ackLen = rootShort + 8 + 8, ackSig + ed25519.SignatureSize
	// ackLasts is how long an answer is given again while the digests stay the same. New ones are signed (30 us) at most
	// ackBurst at once and then one each ackEvery; meanwhile the last one is given, which is at most that old.
	ackLasts           = time.Second
	ackBurst, ackEvery = 16, 50 * time.Millisecond
)

// ack is the answer to a ping, as it is read.
type ack struct {
	root  [rootShort]byte
	view  uint64
	clock uint64 // of the peer, in milliseconds since 1970
	raw   []byte
}

// readAck reads an answer. Whether the peer has signed it, only signed tells.
func readAck(b []byte) (a ack, ok bool) {
	if len(b) != ackLen {
		return ack{}, false
	}
	return ack{[rootShort]byte(b), binary.BigEndian.Uint64(b[rootShort:]), binary.BigEndian.Uint64(b[rootShort+8:]), b}, true
}

// signed reports whether the holder of key has signed that it holds what has this digest.
func (a ack) signed(key ed25519.PublicKey, meshID [16]byte, root [32]byte) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, ackText(meshID, root, a.view, a.clock), a.raw[ackSig:])
}

// signedBy returns what evRoot.signed is.
func (m *Mesh) signedBy(key ed25519.PublicKey, a ack) func(root [32]byte) bool {
	return func(root [32]byte) bool { return a.signed(key, m.cfg.Secrets.MeshID, root) }
}

// ackText is what is signed.
func ackText(meshID [16]byte, root [32]byte, view, clock uint64) []byte {
	b := append([]byte(ackDomain), meshID[:]...)
	b = binary.BigEndian.AppendUint64(append(b, root[:]...), view)
	return binary.BigEndian.AppendUint64(b, clock)
}

// ackSigner makes the answers to pings.
type ackSigner struct {
	mu   sync.Mutex
	rate limiter
	last []byte
	root [32]byte // of the last one
	view uint64
	at   time.Time
}

// answer returns the signed digests. The caller must not change it.
func (a *ackSigner) answer(now time.Time, id Identity, meshID [16]byte, root [32]byte, view uint64) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if age := now.Sub(a.at); a.last != nil && age >= 0 && age < ackLasts && (a.root == root && a.view == view || !a.rate.allow(now)) {
		return a.last
	}
	a.root, a.view, a.at = root, view, now
	b := binary.BigEndian.AppendUint64(root[:rootShort:rootShort], view)
	b = binary.BigEndian.AppendUint64(b, clockOf(now))
	a.last = append(b, ed25519.Sign(id.key, ackText(meshID, root, view, clockOf(now)))...)
	return a.last
}
