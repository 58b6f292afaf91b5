package ban

import "iter"

// A recordSet holds the records of one class, bans or allows: an entry for each prefix and ports, and in each entry a
// chain with what each origin said last.
type recordSet struct {
	tree    tree
	forms   formCount
	entries arena[entry]
	claims  arena[claim]
	ends    expiryHeap
	floors  int // records of kindFloor
	cancels cancels
	wakes   wakes
}

// An entry is one prefix with its ports.
type entry struct {
	hi, lo uint64 // with form, the pkey
	until  int64  // the enforced end, if state is StateEnforced
	ports  uint32
	claims uint32 // head of the chain
	touch  uint32 // index in Table.touched; valid only if that element refers to this entry
	form   uint8
	state  State
}

func (e *entry) key() pkey  { return pkey{e.hi, e.lo, e.form} }
func (e *entry) path() path { return e.key().path(e.ports) }

// A claim is what an origin said last about an entry. A floor may stand beside it.
type claim struct {
	seq           uint64
	issued, until int64 // Unix milliseconds
	arrived       int64 // when this version arrived here, in Unix milliseconds; see Record.Arrived
	epoch         uint32
	words         uint32
	entry         uint32
	next          uint32
	index         uint16
	kind          Kind
	hold          Hold
	span          uint32 // how many milliseconds before issued the origin first said it
}

// kindFloor marks a claim that only keeps older versions out. It stands beside a newer claim that ends before an older
// one would have; without it the older one would count again if it arrived late.
const kindFloor Kind = 255

// open returns the entry of k and ports and creates it if needed.
func (t *Table) open(b *recordSet, k pkey, ports Ports) uint32 {
	if id, ok := t.ports.find(ports); ok {
		if i := b.find(k, id); i != 0 {
			return i
		}
	}
	i, e := b.entries.alloc()
	*e = entry{hi: k.hi, lo: k.lo, form: k.form, ports: t.ports.get(ports)}
	b.insert(i)
	b.forms.add(k)
	return i
}

// close removes the entry i, whose chain is empty.
func (t *Table) close(b *recordSet, i uint32) {
	e := b.entries.at(i)
	b.remove(i)
	b.forms.remove(e.key())
	t.ports.put(e.ports)
	b.entries.release(i)
}

// setOf returns the record set that ops of a kind concern.
func (t *Table) setOf(k Kind) *recordSet {
	if k == KindAllow || k == KindUnallow {
		return &t.allows
	}
	return &t.bans
}

// of yields the claims of an entry. The caller may drop the one yielded.
func (b *recordSet) of(e *entry) iter.Seq2[uint32, *claim] {
	return func(yield func(uint32, *claim) bool) {
		for i := e.claims; i != 0; {
			x, id := b.claims.at(i), i
			if i = x.next; !yield(id, x) {
				return
			}
		}
	}
}

// said returns the claim of what the origin said last about the entry, and the origin's floor; 0 means none.
func (t *Table) said(b *recordSet, entry uint32, o Origin) (last, floor uint32) {
	for i, x := range b.of(b.entries.at(entry)) {
		switch {
		case t.epochs.at(x.epoch).origin != o:
		case x.kind == kindFloor:
			floor = i
		default:
			last = i
		}
	}
	return last, floor
}

// holds reports whether b has a claim or floor of r's origin for r's prefix and ports.
func (t *Table) holds(b *recordSet, r *Record) bool {
	entry := t.entryAbout(b, r)
	if entry == 0 {
		return false
	}
	last, floor := t.said(b, entry, r.Origin)
	return last != 0 || floor != 0
}

// entryAbout returns the entry of r's prefix and ports, or 0.
func (t *Table) entryAbout(b *recordSet, r *Record) uint32 {
	id, ok := t.ports.find(r.Ports)
	if !ok {
		return 0
	}
	return b.find(keyOf(r.Prefix), id)
}

// put merges a ban, revoke or allow: an origin's highest version wins. changed reports whether the entry must be judged
// again.
func (t *Table) put(b *recordSet, r *Record) (entry uint32, changed bool) {
	entry = t.open(b, keyOf(r.Prefix), r.Ports)
	last, floor := t.said(b, entry, r.Origin)
	until := millis(r.Until)
	var top Version // the highest version present
	var keep int64  // until when older versions must be kept out
	order := +1     // of r relative to top
	for _, i := range [2]uint32{last, floor} {
		if i != 0 {
			x := b.claims.at(i)
			keep = max(keep, x.until)
			if v := t.version(x); order == +1 || v.Compare(top) > 0 {
				top, order = v, r.Version.Compare(v)
			}
		}
	}
	switch {
	case order == 0 && last != 0: // seen before; with only a floor left, it ended by a clock that was set back since
		return entry, b.claims.at(last).hold != r.Hold && t.rehold(b, last, r)
	case order < 0:
		if last != 0 {
			x := b.claims.at(last)
			span := x.spanTo(x.issued, r)
			changed, x.span = span > x.span, span
		}
		if until > keep { // superseded before it arrived, but it would have lasted longer
			t.setFloor(b, entry, floor, r.Origin, top, until)
		}
		return entry, changed && t.windows()
	case last == 0:
		t.link(b, entry, r, r.Kind)
	default:
		t.replace(b, last, r)
	}
	if keep > until {
		t.setFloor(b, entry, floor, r.Origin, r.Version, keep)
	} else if floor != 0 {
		t.drop(b, floor)
	}
	return entry, true
}

func (t *Table) version(x *claim) Version {
	return Version{t.epochs.at(x.epoch).epoch, x.seq, x.index}
}

// link adds a claim for r to the chain of its entry.
func (t *Table) link(b *recordSet, entry uint32, r *Record, kind Kind) {
	i, x := b.claims.alloc()
	e := b.entries.at(entry)
	*x = claim{
		seq: r.Version.Seq, index: r.Version.Index, kind: kind,
		issued: millis(r.Issued), until: millis(r.Until), arrived: millis(r.Arrived),
		epoch: t.epochs.get(originEpoch{r.Origin, r.Version.Epoch}),
		words: t.words.get(words{r.Reason, r.Source}),
		entry: entry, next: e.claims,
	}
	e.claims = i
	t.note(b, i, +1)
	b.schedule(i)
	if h := r.hold(); h != HoldNone {
		t.setHold(b, i, h)
	}
}

// replace overwrites claim i with r.
func (t *Table) replace(b *recordSet, i uint32, r *Record) {
	t.note(b, i, -1)
	x := b.claims.at(i)
	old := *x
	x.seq, x.index, x.kind = r.Version.Seq, r.Version.Index, r.Kind
	x.span = x.spanTo(millis(r.Issued), r)
	x.issued, x.until, x.arrived = millis(r.Issued), millis(r.Until), millis(r.Arrived)
	x.epoch = t.epochs.get(originEpoch{r.Origin, r.Version.Epoch})
	x.words = t.words.get(words{r.Reason, r.Source})
	t.note(b, i, +1)
	t.epochs.put(old.epoch)
	t.words.put(old.words)
	if h := r.hold(); h != old.hold {
		t.setHold(b, i, h)
	}
	if x.until < old.until {
		b.schedule(i)
	}
}

// setFloor keeps the origin's versions up to v out until the given time, which never moves earlier. Claim i becomes the
// floor; if i is 0, a new claim does.
func (t *Table) setFloor(b *recordSet, entry, i uint32, o Origin, v Version, until int64) {
	r := Record{Op: Op{Until: fromMillis(until)}, Origin: o, Version: v}
	if i == 0 {
		b.floors++
		t.link(b, entry, &r, kindFloor)
		return
	}
	r.Kind = kindFloor
	t.replace(b, i, &r)
}

// drop removes claim i from its chain and frees it.
func (t *Table) drop(b *recordSet, i uint32) {
	x := b.claims.at(i)
	at := &b.entries.at(x.entry).claims
	for *at != i {
		at = &b.claims.at(*at).next
	}
	*at = x.next
	t.note(b, i, -1)
	if x.kind == kindFloor {
		b.floors--
	}
	if x.hold.Waits() {
		t.setHold(b, i, HoldNone)
	}
	if b == &t.allows {
		t.noteAllow(i, false)
	}
	delete(b.wakes.at, i)
	t.epochs.put(x.epoch)
	t.words.put(x.words)
	if b.claims.release(i); b.claims.live == 0 {
		b.ends = nil // only ends of freed claims are left in it
	}
}

// schedule adds the end of claim i to the expiry heap.
func (b *recordSet) schedule(i uint32) { b.ends.add(b.end(i), i, b.claims.live, b.end) }

// end returns when claim i ends, or 0 if it is gone.
func (b *recordSet) end(i uint32) int64 { return b.claims.at(i).until }

// next returns the claim that ends first, or 0.
func (b *recordSet) next() (i uint32, at int64) { return b.ends.next(b.end) }

// note adds claim i, with its port elements, to the counts of its origin if by is +1, and removes it if by is -1.
func (t *Table) note(b *recordSet, i uint32, by int) {
	x := b.claims.at(i)
	o := t.epochs.at(x.epoch).origin
	t.claimsOf.add(o, by)
	if ports := b.entries.at(x.entry).ports; ports != 0 && x.kind == KindBan {
		t.elementsOf.add(o, by*t.ports.at(ports).Elements())
	}
}

// ElementsOf returns how many port elements the live bans of o have, held ones included.
func (t *Table) ElementsOf(o Origin) int { return t.elementsOf[o] }
