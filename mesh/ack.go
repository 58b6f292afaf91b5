package mesh

import (
	"crypto/ed25519"
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/pki"
)

// Digests are compared through pings: the answer to a ping says what the peer holds. memberlist does not say who sent
// an answer, so the peer signs it. It signs the time too, because anyone who hears an answer can replay it. The full
// digest is not sent: its first bytes select which of our digests the signature must match.

const (
	ackDomain = "meshban ack v1\x00"
	// ackLen is the size of the answer to a ping: the first bytes of the digest of the frames, the digest of the
	// membership, the clock and the signature. ackSig is the offset of the signature.
	ackSig, ackLen = replica.RootLen + 8 + 8, ackSig + ed25519.SignatureSize
	// ackLasts is how long an answer is reused while the digests stay the same. At most ackBurst new ones are signed (30
	// us each) at once, then one per ackEvery; in between the last one is reused until it is ackLasts old.
	ackLasts           = time.Second
	ackBurst, ackEvery = 16, 50 * time.Millisecond
)

// ack is a decoded answer to a ping.
type ack struct {
	root  [replica.RootLen]byte
	view  uint64
	clock uint64 // of the peer, in milliseconds since 1970
	raw   []byte
}

// readAck decodes an answer. It does not check the signature; signed does.
func readAck(b []byte) (a ack, ok bool) {
	if len(b) != ackLen {
		return ack{}, false
	}
	return ack{[replica.RootLen]byte(b), binary.BigEndian.Uint64(b[replica.RootLen:]), binary.BigEndian.Uint64(b[replica.RootLen+8:]), b}, true
}

// signed reports whether the holder of key signed this answer for the digest root.
func (a ack) signed(key ed25519.PublicKey, meshID [16]byte, root [32]byte) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, ackText(meshID, root, a.view, a.clock), a.raw[ackSig:])
}

// signedBy returns the function for replica.RootEvent.Signed.
func (m *Mesh) signedBy(key ed25519.PublicKey, a ack) func(root [32]byte) bool {
	return func(root [32]byte) bool { return a.signed(key, m.cfg.Secrets.MeshID, root) }
}

// ackText returns the bytes that are signed.
func ackText(meshID [16]byte, root [32]byte, view, clock uint64) []byte {
	b := append([]byte(ackDomain), meshID[:]...)
	b = binary.BigEndian.AppendUint64(append(b, root[:]...), view)
	return binary.BigEndian.AppendUint64(b, clock)
}

// ackSigner makes the answers to pings.
type ackSigner struct {
	mu   sync.Mutex
	rate *rate.Limiter
	last []byte
	root [32]byte // of last
	view uint64
	at   time.Time
}

// answer returns the encoded answer. The caller must not change it.
func (a *ackSigner) answer(now time.Time, id pki.Identity, meshID [16]byte, root [32]byte, view uint64) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if age := now.Sub(a.at); a.last != nil && age >= 0 && age < ackLasts && (a.root == root && a.view == view || !a.rate.AllowN(now, 1)) {
		return a.last
	}
	a.root, a.view, a.at = root, view, now
	b := binary.BigEndian.AppendUint64(root[:replica.RootLen:replica.RootLen], view)
	b = binary.BigEndian.AppendUint64(b, replica.ClockOf(now))
	a.last = append(b, id.SignText(ackText(meshID, root, view, replica.ClockOf(now)))...)
	return a.last
}
