package ban

import (
	"cmp"
	"iter"
	"strings"
)

// maxFront bounds how many cancel marks, none of which dominates another, one origin has at one target. A Lifting needs
// only one.
const maxFront = 16

// The cancels of a record set are the cancel marks of its unbans or unallows. Of one origin's cancel marks at one
// target, only those that no other dominates are kept. The others would never change anything, so merging is a union.
type cancels struct {
	marks arena[cancelMark]
	first map[target]uint32 // the head of each target's chain
	forms formCount         // of the targets' prefixes
	ends  expiryHeap        // may hold ends of removed cancel marks
}

// A target is what one mark of a cancel is about: one origin's records inside a prefix.
type target struct {
	hi, lo uint64 // with form, the pkey
	about  uint32 // the origin, in parties
	form   uint8
}

func (k *target) key() pkey { return pkey{k.hi, k.lo, k.form} }

// A cancelMark cancels the records of its target up to (epoch, seq) unless they were issued after it by more than the
// clock skew. It takes 72 bytes, and about 90 more in the indexes.
type cancelMark struct {
	target
	epoch, seq    uint64
	issued, until int64  // Unix milliseconds
	by            uint32 // its origin, in parties
	words         uint32
	next          uint32 // in the chain
}

// covers reports whether the mark covers version (epoch, seq) of the origin that it is about.
func (s *cancelMark) covers(epoch, seq uint64) bool {
	return epoch < s.epoch || epoch == s.epoch && seq <= s.seq
}

// parties numbers the origins that cancel marks are by or about.
type parties struct {
	internTable[Origin]
	said []uint32 // how many cancel marks are by each
	void []bool   // whether each is withdrawn
}

// dominates reports whether s makes x, of the same origin and target, redundant.
func (t *Table) dominates(s, x *cancelMark) bool {
	switch {
	case !s.covers(x.epoch, x.seq) || s.until < x.until || s.issued < x.issued:
		return false
	case s.epoch != x.epoch || s.seq != x.seq || s.until != x.until || s.issued != x.issued:
		return true
	}
	a, b := t.words.at(s.words), t.words.at(x.words)
	return cmp.Or(strings.Compare(a.reason, b.reason), strings.Compare(a.source, b.source)) >= 0
}

// party returns the number of o and counts one more reference to it.
func (t *Table) party(o Origin) uint32 {
	i := t.parties.get(o)
	for int(i) >= len(t.parties.said) {
		t.parties.said, t.parties.void = append(t.parties.said, 0), append(t.parties.void, false)
	}
	_, t.parties.void[i] = t.withdrawn[o]
	return i
}

// setVoid records whether the cancel marks by o are void.
func (t *Table) setVoid(o Origin, void bool) {
	if i, ok := t.parties.ids[o]; ok {
		t.parties.void[i] = void
	}
}

// CancelMarksOf returns how many marks of o's unbans and unallows the table holds.
func (t *Table) CancelMarksOf(o Origin) int {
	if i, ok := t.parties.ids[o]; ok {
		return int(t.parties.said[i])
	}
	return 0
}

// addCancel merges a cancel that counts and reports whether more may be cancelled than before.
func (t *Table) addCancel(b *recordSet, r *Record) (further bool) {
	for _, m := range r.Marks {
		s := cancelMark{
			epoch: m.Epoch, seq: m.Seq, issued: millis(r.Issued), until: millis(r.Until), words: t.words.get(words{r.Reason, r.Source}),
			by: t.party(r.Origin), target: targetOf(r, t.party(m.Origin)),
		}
		added, reaches := t.addCancelMark(b, &s)
		if !added {
			t.letGo(&s)
		}
		further = further || reaches
	}
	return further
}

func targetOf(r *Record, about uint32) target {
	k := keyOf(r.Prefix)
	return target{k.hi, k.lo, about, k.form}
}

// letGo releases what a cancel mark refers to.
func (t *Table) letGo(s *cancelMark) {
	t.words.put(s.words)
	t.parties.put(s.by)
	t.parties.put(s.about)
}

func (t *Table) addCancelMark(b *recordSet, s *cancelMark) (added, further bool) {
	c := &b.cancels
	front, further := 0, !t.parties.void[s.by]
	for i, x := range c.at(s.target) {
		if !t.parties.void[x.by] && x.covers(s.epoch, s.seq) && x.issued >= s.issued {
			further = false
		}
		switch {
		case x.by == s.by && t.dominates(x, s):
			return false, false
		case x.by == s.by && t.dominates(s, x):
			t.removeCancelMark(b, i)
		case x.by == s.by:
			front++
		}
	}
	if front >= maxFront || c.marks.live >= min(t.capacity, MaxCancels) {
		t.dropped++
		return false, false
	}
	if c.first == nil {
		c.first = make(map[target]uint32)
	}
	head := c.first[s.target]
	if head == 0 {
		c.forms.add(s.key())
	}
	i, x := c.marks.alloc()
	*x = *s
	x.next = head
	c.first[s.target] = i
	c.ends.add(s.until, i, c.marks.live, c.end)
	t.parties.said[s.by]++
	return true, further
}

// at yields the cancel marks of a target. The caller may remove the one yielded.
func (c *cancels) at(of target) iter.Seq2[uint32, *cancelMark] {
	return func(yield func(uint32, *cancelMark) bool) {
		for i := c.first[of]; i != 0; {
			x, id := c.marks.at(i), i
			if i = x.next; !yield(id, x) {
				return
			}
		}
	}
}

// end returns when cancel mark i ends, or 0 if it is gone.
func (c *cancels) end(i uint32) int64 { return c.marks.at(i).until }

// next returns the cancel mark that ends first, or 0.
func (c *cancels) next() (i uint32, at int64) { return c.ends.next(c.end) }

// removeCancelMark removes cancel mark i.
func (t *Table) removeCancelMark(b *recordSet, i uint32) {
	c := &b.cancels
	s := *c.marks.at(i)
	if head := c.first[s.target]; head != i {
		x := c.marks.at(head)
		for x.next != i {
			x = c.marks.at(x.next)
		}
		x.next = s.next
	} else if s.next != 0 {
		c.first[s.target] = s.next
	} else {
		delete(c.first, s.target)
		c.forms.remove(s.key())
	}
	t.parties.said[s.by]--
	t.letGo(&s)
	if c.marks.release(i); c.marks.live == 0 { // free what a flood allocated
		c.ends, c.first = nil, nil
	}
}

// cancelMarkRecord returns cancel mark i as an unban or unallow with one mark. The record has no version, because
// cancel marks keep none.
func (t *Table) cancelMarkRecord(b *recordSet, i uint32) Record {
	s := b.cancels.marks.at(i)
	kind, w := KindUnban, t.words.at(s.words)
	if b == &t.allows {
		kind = KindUnallow
	}
	return Record{
		Op: Op{
			Kind: kind, Prefix: s.key().prefix(), Until: fromMillis(s.until), Reason: w.reason, Source: w.source,
			Marks: []Mark{{t.parties.at(s.about), s.epoch, s.seq}},
		},
		Origin: t.parties.at(s.by), Issued: fromMillis(s.issued),
	}
}

// distinct yields the cancel marks that keep accepts. Of several that differ only in their target's origin and version,
// as those of one op do, it yields one.
func (c *cancels) distinct(keep func(s *cancelMark) bool) iter.Seq[uint32] {
	return func(yield func(i uint32) bool) {
		seen := make(map[cancelMark]bool)
		for i := uint32(1); i < c.marks.end; i++ {
			s := *c.marks.at(i)
			if s.until == 0 || !keep(&s) {
				continue
			}
			s.about, s.epoch, s.seq, s.next = 0, 0, 0, 0
			if seen[s] {
				continue
			}
			if seen[s] = true; !yield(i) {
				return
			}
		}
	}
}

// cancelMarkOf returns the longest-lasting cancel mark that cancels claim x of entry e, or 0.
func (t *Table) cancelMarkOf(b *recordSet, e *entry, x *claim) (best uint32) {
	c := &b.cancels
	if c.marks.live == 0 {
		return 0
	}
	s := t.epochs.at(x.epoch)
	about, ok := t.parties.ids[s.origin]
	if !ok {
		return 0
	}
	var until int64
	oldest := x.issued - t.limits.FutureSkew.Milliseconds()
	for w := range c.forms.covering(e.key()) {
		for i, y := range c.at(target{w.hi, w.lo, about, w.form}) {
			t.steps++
			if y.until > until && y.issued >= oldest && y.covers(s.epoch, x.seq) && !t.parties.void[y.by] {
				best, until = i, y.until
			}
		}
	}
	return best
}

// wouldAdd returns how many cancel marks merging the cancel r would add, whether r says anything new for its origin, and
// whether it would exceed the bound at one target.
func (t *Table) wouldAdd(b *recordSet, r *Record) (more int, news, full bool) {
	by, known := t.parties.ids[r.Origin]
	s := cancelMark{issued: millis(r.Issued), until: millis(r.Until)}
	for _, m := range r.Marks {
		s.epoch, s.seq = m.Epoch, m.Seq
		about, ok := t.parties.ids[m.Origin]
		if !ok || !known {
			more, news = more+1, true
			continue
		}
		front, added, known := 0, 1, false
		for _, x := range b.cancels.at(targetOf(r, about)) {
			t.steps++
			if x.by != by {
				continue
			}
			front++
			x0, s0 := *x, s
			x0.words, s0.words = 0, 0
			if t.dominates(&x0, &s0) {
				known = true
				break
			}
			if t.dominates(&s0, &x0) {
				added, front = added-1, front-1
			}
		}
		if !known {
			more, news, full = more+added, true, full || front >= maxFront
		}
	}
	return more, news, full
}
