package fw

import (
	"cmp"
	"net/netip"
	"slices"
)

// Bounds on the exceptions in the kernel, the same for every backend.
const (
	MaxNever = 1 << 16 // prefixes of the never-ban list
	MaxAllow = 1 << 15 // allowed prefixes
)

// Exceptions are the prefixes that are never dropped, even inside a banned one. The kernel looks at Never first. In
// both lists the most important prefixes come first: if there is no room, the end of the list is left out, and so is
// every entry that contains a prefix left out.
type Exceptions struct {
	Never []netip.Prefix // the never-ban list
	Allow []netip.Prefix
	// Networks are the networks this machine is in, the most important first; the first MaxNetworks count. Of an entry
	// that contains one, only the rest is dropped. Backends see none of them.
	Networks []netip.Prefix
}

// fit returns what the kernel should hold: masked, sorted, with no prefix inside another of its list. over holds the
// prefixes beyond the bounds.
func (x Exceptions) fit() (in Exceptions, over prefixes) {
	never, allow := outermost(x.Never), outermost(x.Allow)
	cut := func(list []netip.Prefix, most int) prefixes {
		over = append(over, list[min(most, len(list)):]...)
		return sorted(list[:min(most, len(list))])
	}
	in = Exceptions{Never: cut(never, MaxNever), Allow: cut(allow, MaxAllow)}
	return in, sorted(outermost(over))
}

func (x Exceptions) equal(y Exceptions) bool {
	return slices.Equal(x.Never, y.Never) && slices.Equal(x.Allow, y.Allow)
}

// difference returns what is only in ps and what is only in qs.
func (ps prefixes) difference(qs prefixes) (mine, others prefixes) {
	for len(ps) > 0 && len(qs) > 0 {
		switch c := ps[0].Compare(qs[0]); {
		case c < 0:
			mine, ps = append(mine, ps[0]), ps[1:]
		case c > 0:
			others, qs = append(others, qs[0]), qs[1:]
		default:
			ps, qs = ps[1:], qs[1:]
		}
	}
	return append(mine, ps...), append(others, qs...)
}

// within returns the prefixes of x that lie inside a prefix of the same list of y, and the others. Both come from fit.
func (x Exceptions) within(y Exceptions) (in Exceptions, not prefixes) {
	pick := func(list, other prefixes) (in prefixes) {
		for _, p := range list {
			if q, ok := other.overlap(p); ok && q.Bits() <= p.Bits() {
				in = append(in, p)
			} else {
				not = append(not, p)
			}
		}
		return in
	}
	in = Exceptions{Never: pick(x.Never, y.Never), Allow: pick(x.Allow, y.Allow)}
	return in, sorted(outermost(not))
}

// outermost masks prefixes and drops those that are invalid or inside another. Each remaining prefix takes the place of
// the first prefix that it contains. A prefix of length 0, which sets cannot hold, becomes its halves.
func outermost(list []netip.Prefix) []netip.Prefix {
	type ranked struct {
		netip.Prefix
		rank int
	}
	all := make([]ranked, 0, len(list))
	for i, p := range list {
		if p.IsValid() && p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		switch p = p.Masked(); {
		case !p.IsValid():
		case p.Bits() == 0:
			low := netip.PrefixFrom(p.Addr(), 1)
			all = append(all, ranked{low, i}, ranked{netip.PrefixFrom(lastAddr(p), 1).Masked(), i})
		default:
			all = append(all, ranked{p, i})
		}
	}
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Or(a.Prefix.Compare(b.Prefix), a.rank-b.rank) })
	out := all[:0]
	for _, r := range all {
		if n := len(out); n > 0 && out[n-1].Overlaps(r.Prefix) {
			out[n-1].rank = min(out[n-1].rank, r.rank)
		} else {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b ranked) int { return cmp.Or(a.rank-b.rank, a.Prefix.Compare(b.Prefix)) })
	ps := make([]netip.Prefix, len(out))
	for i, r := range out {
		ps[i] = r.Prefix
	}
	return ps
}

// prefixes is a sorted list in which no prefix lies inside another.
type prefixes []netip.Prefix

func sorted(list []netip.Prefix) prefixes {
	slices.SortFunc(list, netip.Prefix.Compare)
	return list
}

// overlap returns one of the prefixes that lies inside p or contains it.
func (ps prefixes) overlap(p netip.Prefix) (netip.Prefix, bool) {
	if len(ps) == 0 {
		return netip.Prefix{}, false
	}
	// Prefixes inside p start at i; one that contains p stands right before it.
	i, _ := slices.BinarySearchFunc(ps, p, netip.Prefix.Compare)
	if i < len(ps) && ps[i].Overlaps(p) {
		return ps[i], true
	}
	if i > 0 && ps[i-1].Overlaps(p) {
		return ps[i-1], true
	}
	return netip.Prefix{}, false
}

// union merges two lists.
func (ps prefixes) union(qs prefixes) prefixes {
	if len(qs) == 0 {
		return ps
	}
	return sorted(outermost(slices.Concat(ps, qs)))
}
