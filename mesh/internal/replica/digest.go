package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
)

// digestLanes is the number of 16-bit lanes of a digest.
const digestLanes = 1024

// digest is a hash of a set of frames, LtHash (lthash16 with 1,024 lanes; Lewi, Kim, Maykov and Weis, "Securing Update
// Propagation with Homomorphic Hashing"): each frame's SHA-256 is expanded to 2 kB, and these are added lane by lane
// modulo 2^16. Frames can be added and removed in any order, at a few microseconds each. Finding two sets with the same
// digest is a short-vector problem in a lattice of 1,024 dimensions (about 200 bits); with plain sums of 32 bytes, an
// attacker could compute such sets.
//
// The expansion is chacha8rand (c2sp.org/chacha8rand), which Go specifies byte by byte.
type digest struct {
	lanes  lanes
	cached [32]byte // the sum, unless stale
	stale  bool
}

// lanes holds four lanes per word.
type lanes [digestLanes / 4]uint64

// expand returns what one frame adds to a digest.
func expand(h [32]byte) (e lanes) {
	var stream rand.ChaCha8
	stream.Seed(h)
	for i := range e {
		e[i] = stream.Uint64()
	}
	return e
}

// below masks all bits of each lane but the highest.
const below = 0x7fff_7fff_7fff_7fff

func (d *digest) add(e *lanes) {
	for i, b := range e {
		a := d.lanes[i]
		d.lanes[i] = (a&below + b&below) ^ (a^b)&^below
	}
	d.stale = true
}

func (d *digest) sub(e *lanes) {
	for i, b := range e {
		a := d.lanes[i]
		d.lanes[i] = ((a | ^uint64(below)) - b&below) ^ (a^^b)&^below
	}
	d.stale = true
}

// sum returns the 32 bytes that travel; those of the empty set are zeros.
func (d *digest) sum() [32]byte {
	if d.stale {
		d.stale, d.cached = false, d.lanes.hash()
	}
	return d.cached
}

func (l *lanes) hash() [32]byte {
	if *l == (lanes{}) {
		return [32]byte{}
	}
	var b [8 * len(l)]byte
	for i, w := range l {
		binary.LittleEndian.PutUint64(b[8*i:], w)
	}
	return sha256.Sum256(b[:])
}
