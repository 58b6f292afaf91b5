package fw

import (
	"net/netip"
	"slices"
	"time"
)

// segment is a run of addresses that are dropped until the same time.
type segment struct {
	first, last netip.Addr
	until       time.Time
}

// netUpdate sets the end of a prefix, or removes it.
type netUpdate struct {
	prefix netip.Prefix
	until  time.Time // zero = remove
}

// intervals turns prefixes of one address family, which may be nested, into segments that do not overlap, as the
// kernel's interval sets require. Where prefixes are nested the latest end counts, so that the kernel forgets each
// address at the right time even if no agent runs.
type intervals struct {
	until  map[netip.Prefix]time.Time
	sorted []netip.Prefix // by first address, the wider first
}

func newIntervals() *intervals { return &intervals{until: map[netip.Prefix]time.Time{}} }

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// lastAddr returns the last address in a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As16()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for i := bits; i < 128; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	if p.Addr().Is4() {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

// load adds a prefix before anything is in the kernel. Call all afterwards.
func (iv *intervals) load(prefix netip.Prefix, until time.Time) {
	if _, ok := iv.until[prefix]; !ok {
		iv.sorted = append(iv.sorted, prefix)
	}
	iv.until[prefix] = until
}

// all returns the segments of everything that has not ended.
func (iv *intervals) all(now time.Time) []segment {
	slices.SortFunc(iv.sorted, comparePrefix)
	return iv.segments(now, iv.sorted)
}

// apply carries out updates and returns the segments to delete and to add. Ended segments are among those to delete:
// the kernel may or may not have forgotten them.
func (iv *intervals) apply(now time.Time, updates []netUpdate) (del, add []segment) {
	regions := iv.regions(updates)
	before := iv.within(time.Time{}, regions)
	const few = 16
	var added []netip.Prefix
	for _, u := range updates {
		_, there := iv.until[u.prefix]
		if u.until.IsZero() {
			if i, ok := slices.BinarySearchFunc(iv.sorted, u.prefix, comparePrefix); ok && there {
				iv.sorted = slices.Delete(iv.sorted, i, i+1)
				delete(iv.until, u.prefix)
			}
			continue
		}
		iv.until[u.prefix] = u.until
		if there {
			continue
		}
		if len(updates) <= few {
			i, _ := slices.BinarySearchFunc(iv.sorted, u.prefix, comparePrefix)
			iv.sorted = slices.Insert(iv.sorted, i, u.prefix)
		} else {
			added = append(added, u.prefix)
		}
	}
	if len(added) > 0 {
		iv.sorted = append(iv.sorted, added...)
		slices.SortFunc(iv.sorted, comparePrefix)
	}
	return before, iv.within(now, regions)
}

// regions returns the outermost prefixes, known or about to be, around the updated ones: nothing outside them changes.
func (iv *intervals) regions(updates []netUpdate) []netip.Prefix {
	var outer []netip.Prefix
	for _, u := range updates {
		region := u.prefix
		for bits := 1; bits < u.prefix.Bits(); bits++ {
			p, err := u.prefix.Addr().Prefix(bits)
			if _, ok := iv.until[p]; err == nil && ok {
				region = p
				break
			}
		}
		outer = append(outer, region)
	}
	slices.SortFunc(outer, comparePrefix)
	var out []netip.Prefix
	for _, p := range outer {
		if n := len(out); n == 0 || !out[n-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

// within returns the segments of all known prefixes inside the regions.
func (iv *intervals) within(now time.Time, regions []netip.Prefix) []segment {
	var out []segment
	for _, region := range regions {
		from, _ := slices.BinarySearchFunc(iv.sorted, region, comparePrefix)
		to := from
		for to < len(iv.sorted) && region.Contains(iv.sorted[to].Addr()) {
			to++
		}
		out = append(out, iv.segments(now, iv.sorted[from:to])...)
	}
	return out
}

// segments walks sorted prefixes with a stack of those that contain the current address; each but the outermost ends
// later than the one around it.
func (iv *intervals) segments(now time.Time, prefixes []netip.Prefix) []segment {
	var out, around []segment
	var next netip.Addr // the first address not yet accounted for; invalid past the last of all
	emit := func(last netip.Addr, until time.Time) {
		if next.IsValid() && next.Compare(last) <= 0 {
			out = append(out, segment{next, last, until})
		}
		next = last.Next()
	}
	closeUpTo := func(first netip.Addr) {
		for n := len(around); n > 0 && (!first.IsValid() || around[n-1].last.Less(first)); n-- {
			emit(around[n-1].last, around[n-1].until)
			around = around[:n-1]
		}
	}
	for _, p := range prefixes {
		s := segment{p.Addr(), lastAddr(p), iv.until[p]}
		if !s.until.After(now) {
			continue
		}
		closeUpTo(s.first)
		if n := len(around); n > 0 {
			if !s.until.After(around[n-1].until) {
				continue
			}
			if s.first != around[n-1].first && next.IsValid() && next.Less(s.first) {
				emit(s.first.Prev(), around[n-1].until)
			}
		}
		next = s.first
		around = append(around, s)
	}
	closeUpTo(netip.Addr{})
	return out
}
