package feed

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
)

// Exceptions are prefixes that no list may contain.
type Exceptions struct {
	sorted []netip.Prefix // outermost only, by family and address
}

// NewExceptions takes prefixes in any order. It does not keep all.
func NewExceptions(all []netip.Prefix) Exceptions {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	kept := all[:0]
	for _, p := range all {
		if len(kept) == 0 || !kept[len(kept)-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return Exceptions{kept}
}

// Without returns the widest prefixes that cover all of p but the exceptions, in order.
func (x Exceptions) Without(p netip.Prefix) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		i, exact := slices.BinarySearchFunc(x.sorted, p.Addr(), func(q netip.Prefix, a netip.Addr) int { return q.Addr().Compare(a) })
		if !exact && i > 0 && x.sorted[i-1].Overlaps(p) {
			return // an exception covers p
		}
		end := i
		for end < len(x.sorted) && x.sorted[end].Overlaps(p) {
			end++
		}
		without(p, x.sorted[i:end], yield)
	}
}

// without yields p without inside, which lie in p or cover it.
func without(p netip.Prefix, inside []netip.Prefix, yield func(netip.Prefix) bool) bool {
	if len(inside) == 0 {
		return yield(p)
	}
	if inside[0].Bits() <= p.Bits() {
		return true
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	high := netip.PrefixFrom(middle(p), p.Bits()+1)
	n, _ := slices.BinarySearchFunc(inside, high.Addr(), func(q netip.Prefix, a netip.Addr) int { return q.Addr().Compare(a) })
	return without(low, inside[:n], yield) && without(high, inside[n:], yield)
}

// middle returns the first address of the second half of p.
func middle(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	raw[p.Bits()/8] |= 1 << (7 - p.Bits()%8)
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}
