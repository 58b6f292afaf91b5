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

// cover turns prefixes of one address family, which may be nested, into segments that do not overlap, as interval sets
// require. Where prefixes are nested the latest end counts, so that the kernel forgets each address at the right time
// even if no agent runs.
type cover struct {
	until  map[netip.Prefix]time.Time
	sorted []netip.Prefix // by first address, the wider first
}

func newCover() *cover { return &cover{until: map[netip.Prefix]time.Time{}} }

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
func (c *cover) load(prefix netip.Prefix, until time.Time) {
	if _, ok := c.until[prefix]; !ok {
		c.sorted = append(c.sorted, prefix)
	}
	c.until[prefix] = until
}

// all returns the segments of everything that has not ended.
func (c *cover) all(now time.Time) []segment {
	slices.SortFunc(c.sorted, comparePrefix)
	return c.segments(now, c.sorted)
}

// apply carries out updates and returns the segments to delete and to add. Ended segments are among those to delete:
// the kernel may or may not have forgotten them.
func (c *cover) apply(now time.Time, updates []netUpdate) (del, add []segment) {
	regions := c.regions(updates)
	before := c.within(time.Time{}, regions)
	const few = 16
	var added []netip.Prefix
	for _, u := range updates {
		_, there := c.until[u.prefix]
		if u.until.IsZero() {
			if i, ok := slices.BinarySearchFunc(c.sorted, u.prefix, comparePrefix); ok && there {
				c.sorted = slices.Delete(c.sorted, i, i+1)
				delete(c.until, u.prefix)
			}
			continue
		}
		c.until[u.prefix] = u.until
		if there {
			continue
		}
		if len(updates) <= few {
			i, _ := slices.BinarySearchFunc(c.sorted, u.prefix, comparePrefix)
			c.sorted = slices.Insert(c.sorted, i, u.prefix)
		} else {
			added = append(added, u.prefix)
		}
	}
	if len(added) > 0 {
		c.sorted = append(c.sorted, added...)
		slices.SortFunc(c.sorted, comparePrefix)
	}
	return before, c.within(now, regions)
}

// regions returns the outermost prefixes, known or about to be, around the updated ones: nothing outside them changes.
func (c *cover) regions(updates []netUpdate) []netip.Prefix {
	var outer []netip.Prefix
	for _, u := range updates {
		region := u.prefix
		for bits := 1; bits < u.prefix.Bits(); bits++ {
			p, err := u.prefix.Addr().Prefix(bits)
			if _, ok := c.until[p]; err == nil && ok {
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
func (c *cover) within(now time.Time, regions []netip.Prefix) []segment {
	var out []segment
	for _, region := range regions {
		from, _ := slices.BinarySearchFunc(c.sorted, region, comparePrefix)
		to := from
		for to < len(c.sorted) && region.Contains(c.sorted[to].Addr()) {
			to++
		}
		out = append(out, c.segments(now, c.sorted[from:to])...)
	}
	return out
}

// segments walks sorted prefixes with a stack of those that contain the current address; each but the outermost ends
// later than the one around it.
func (c *cover) segments(now time.Time, prefixes []netip.Prefix) []segment {
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
		s := segment{p.Addr(), lastAddr(p), c.until[p]}
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
