package ban

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"net/netip"
	"slices"
)

// A pkey is a prefix as a compact, comparable key. An IPv4 address fills the upper half of hi.
type pkey struct {
	hi, lo uint64
	form   uint8 // the length of an IPv6 prefix, or form4 + the length of an IPv4 prefix
}

const (
	form4 = 129
	forms = form4 + 33
)

// keyOf returns the key of p, which must be valid, masked and not 4-in-6.
func keyOf(p netip.Prefix) pkey {
	if a := p.Addr(); a.Is4() {
		b := a.As4()
		return pkey{hi: uint64(binary.BigEndian.Uint32(b[:])) << 32, form: form4 + uint8(p.Bits())}
	}
	b := p.Addr().As16()
	return pkey{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]), uint8(p.Bits())}
}

func (k pkey) prefix() netip.Prefix {
	if k.is4() {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(k.hi>>32))
		return netip.PrefixFrom(netip.AddrFrom4(b), k.len())
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	return netip.PrefixFrom(netip.AddrFrom16(b), k.len())
}

func (k pkey) is4() bool { return k.form >= form4 }

func (k pkey) len() int {
	if k.is4() {
		return int(k.form) - form4
	}
	return int(k.form)
}

// widen returns the prefix of the given form that contains k. The form must be of k's family and no longer than k.
func (k pkey) widen(form uint8) pkey {
	w := pkey{k.hi, k.lo, form}
	switch n := w.len(); {
	case n == 0:
		w.hi, w.lo = 0, 0
	case n <= 64:
		w.hi, w.lo = w.hi&(^uint64(0)<<(64-n)), 0
	default:
		w.lo &= ^uint64(0) << (128 - n)
	}
	return w
}

// contains reports whether j is k or lies inside it.
func (k pkey) contains(j pkey) bool {
	return k.is4() == j.is4() && k.form <= j.form && j.widen(k.form) == k
}

// path is the key that a tree orders by: the address, then form and ports.
type path [3]uint64

// Bits of a path.
const (
	prefixBits = 128 + 8      // address and form: one prefix with any ports
	pathBits   = 128 + 8 + 32 // everything
)

func (k pkey) path(ports uint32) path {
	return path{k.hi, k.lo, uint64(k.form)<<56 | uint64(ports)<<24}
}

func (p *path) bit(i uint8) uint64 { return p[i>>6] >> (63 - i&63) & 1 }

// differ returns the first bit in which p and q differ, or pathBits.
func (p *path) differ(q *path) int {
	for i := range p {
		if x := p[i] ^ q[i]; x != 0 {
			return i<<6 + bits.LeadingZeros64(x)
		}
	}
	return pathBits
}

// A formCount counts the prefixes of each form, so that a search for the prefixes that cover an address tries only
// lengths in use.
type formCount struct {
	n    [forms]uint32
	used [2][]uint8 // forms in use, of IPv6 and of IPv4, longest prefix first
}

func (c *formCount) family(k pkey) *[]uint8 {
	if k.is4() {
		return &c.used[1]
	}
	return &c.used[0]
}

func (c *formCount) add(k pkey) {
	if c.n[k.form]++; c.n[k.form] == 1 {
		u := c.family(k)
		*u = append(*u, k.form)
		slices.Sort(*u)
		slices.Reverse(*u)
	}
}

func (c *formCount) remove(k pkey) {
	if c.n[k.form]--; c.n[k.form] == 0 {
		u := c.family(k)
		*u = slices.DeleteFunc(*u, func(f uint8) bool { return f == k.form })
	}
}

// covering yields the prefixes that could cover k, from k's own length to the widest in use.
func (c *formCount) covering(k pkey) iter.Seq[pkey] {
	return func(yield func(pkey) bool) {
		for _, f := range *c.family(k) {
			if f <= k.form && !yield(k.widen(f)) {
				return
			}
		}
	}
}
