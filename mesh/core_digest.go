package mesh

import (
	"encoding/binary"
	"math/bits"
)

// digest is a hash of a set of frames: the sum of their SHA-256 hashes modulo 2^256. Adding and removing a frame costs
// four additions, whatever the order, so it is equal on two nodes exactly when both hold the same frames. Only somebody
// who chooses the frames could make two sets collide, and so hide frames of his own.
type digest [4]uint64

func (d *digest) add(h [32]byte) {
	var carry uint64
	for i := range d {
		d[i], carry = bits.Add64(d[i], binary.LittleEndian.Uint64(h[8*i:]), carry)
	}
}

func (d *digest) sub(h [32]byte) {
	var borrow uint64
	for i := range d {
		d[i], borrow = bits.Sub64(d[i], binary.LittleEndian.Uint64(h[8*i:]), borrow)
	}
}

func (d *digest) sum() [32]byte {
	var b [32]byte
	for i, w := range d {
		binary.LittleEndian.PutUint64(b[8*i:], w)
	}
	return b
}
