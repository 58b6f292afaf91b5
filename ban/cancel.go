package ban

import (
	"cmp"
	"slices"
)

// The cancels of a book are the unbans, or the unallows, that live. Each stays as it came until it
// ends, so merging them is a union.
type cancels struct {
	all     slab[Record]
	ids     map[cancelID]uint32
	strikes map[target][]strike
	forms   formCount // of strikes
	ends    timeline
	// withdrawn is the table's: cancels of these origins have no effect.
	withdrawn map[Origin]Withdrawal
}

type cancelID struct {
	origin  Origin
	version Version
}

// A target is what one mark of a cancel is about: the records of an origin inside a prefix.
type target struct {
	prefix pkey
	origin Origin
}

// A strike cancels the records of its target up to (epoch, seq).
type strike struct {
	epoch, seq uint64
	by         uint32 // in cancels.all
}

// compareStrikes puts the one that reaches furthest in front.
func compareStrikes(a, b strike) int {
	return cmp.Or(cmp.Compare(b.epoch, a.epoch), cmp.Compare(b.seq, a.seq), cmp.Compare(a.by, b.by))
}

// add merges a cancel. It reports whether more may be cancelled than before.
func (c *cancels) add(r *Record) bool {
	id := cancelID{r.Origin, r.Version}
	if _, ok := c.ids[id]; ok {
		return false
	}
	if c.ids == nil {
		c.ids = make(map[cancelID]uint32)
		c.strikes = make(map[target][]strike)
	}
	i, x := c.all.alloc()
	*x = *r
	c.ids[id] = i
	c.ends.push(due{millis(r.Until), i})
	further := false
	for _, m := range r.Marks {
		k := target{keyOf(r.Prefix), m.Origin}
		list := c.strikes[k]
		if len(list) == 0 {
			c.forms.add(k.prefix)
		}
		s := strike{m.Epoch, m.Seq, i}
		at, _ := slices.BinarySearchFunc(list, s, compareStrikes)
		c.strikes[k] = slices.Insert(list, at, s)
		further = further || !slices.ContainsFunc(list[:at], c.effective)
	}
	return further
}

// effective reports whether the origin of a strike counts.
func (c *cancels) effective(s strike) bool {
	_, void := c.withdrawn[c.all.at(s.by).Origin]
	return !void
}

// remove takes the cancel i out.
func (c *cancels) remove(i uint32) {
	r := c.all.at(i)
	for _, m := range r.Marks {
		k := target{keyOf(r.Prefix), m.Origin}
		list := c.strikes[k]
		at, _ := slices.BinarySearchFunc(list, strike{m.Epoch, m.Seq, i}, compareStrikes)
		if list = slices.Delete(list, at, at+1); len(list) > 0 {
			c.strikes[k] = list
			continue
		}
		delete(c.strikes, k)
		c.forms.remove(k.prefix)
	}
	delete(c.ids, cancelID{r.Origin, r.Version})
	c.all.release(i)
}

// find returns a cancel of what the origin said at (epoch, seq) about k, or nil.
func (c *cancels) find(k pkey, o Origin, epoch, seq uint64) *Record {
	if c.all.live == 0 {
		return nil
	}
	for w := range c.forms.covering(k) {
		for _, s := range c.strikes[target{w, o}] {
			if !(Mark{o, s.epoch, s.seq}).covers(Version{Epoch: epoch, Seq: seq}) {
				break // those that follow reach less far
			}
			if c.effective(s) {
				return c.all.at(s.by)
			}
		}
	}
	return nil
}
