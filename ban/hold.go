package ban

// Hold says what this node does about a ban, unban, allow or unallow received from a peer. It does not travel, and
// other nodes may decide otherwise. The zero value means that the op counts.
type Hold uint8

// The holds.
const (
	HoldNone    Hold = 0 // counts
	HoldRate    Hold = 1 // waits for the operator: its origin says too much at a time
	HoldActive  Hold = 2 // waits: its origin has too much in force
	HoldBreaker Hold = 3 // waits: all origins together say too much at a time
	HoldLift    Hold = 4 // waits: its origin lifts too many bans of others at a time
	HoldDropped Hold = 5 // the operator decided that it never counts
)

var holdNames = [...]string{
	HoldNone: "not held", HoldRate: "rate of its origin", HoldActive: "active bans of its origin", HoldBreaker: "breaker",
	HoldLift: "bans of others that its origin lifts", HoldDropped: "dropped",
}

// String says in a few words why a ban waits or does not count.
func (h Hold) String() string { return nameOf(holdNames[:], "hold", uint8(h)) }

// Waits reports whether the operator has yet to decide.
func (h Hold) Waits() bool { return h != HoldNone && h != HoldDropped }

// join returns the hold of a record that was merged with both holds. A decision outranks a hold, and drop outranks
// release. This makes it a join, as the merge laws require. An unban that counts cannot be dropped afterwards: nothing
// of it is left to drop.
func (h Hold) join(g Hold) Hold {
	switch {
	case h == HoldDropped || g == HoldDropped:
		return HoldDropped
	case h == HoldNone || g == HoldNone:
		return HoldNone
	}
	return min(h, g)
}

// hold returns the hold of the claim that r becomes. Only a ban or an allow can have one; a revoke is never held.
func (r *Record) hold() Hold {
	if r.Kind != KindBan && r.Kind != KindAllow {
		return HoldNone
	}
	return r.Hold
}

// A heldID identifies what waits: a claim of a ban or an allow, or one of the lifts.
type heldID struct {
	kind Kind // KindBan, KindAllow, or KindUnban for a lift
	id   uint32
}

func (t *Table) heldID(b *recordSet, i uint32) heldID {
	if b == &t.allows {
		return heldID{KindAllow, i}
	}
	return heldID{KindBan, i}
}

// A heldList lists what waits, in no order.
type heldList struct {
	ids   []heldID
	place map[heldID]int // index in ids
	of    tally          // how many wait
	lifts tally          // how many of these are not bans
	room  tally          // how much of MaxHeld they take
	all   int            // the sum of room
}

// add adds op i of origin o, which takes n of the room.
func (l *heldList) add(i heldID, o Origin, n int) {
	if l.place == nil {
		l.place, l.of, l.lifts, l.room = make(map[heldID]int), make(tally), make(tally), make(tally)
	}
	l.count(i, o, +1, n)
	l.place[i] = len(l.ids)
	l.ids = append(l.ids, i)
}

func (l *heldList) count(i heldID, o Origin, by, n int) {
	l.of.add(o, by)
	l.room.add(o, n)
	l.all += n
	if i.kind != KindBan {
		l.lifts.add(o, by)
	}
}

func (l *heldList) remove(i heldID, o Origin, n int) {
	l.count(i, o, -1, -n)
	at, last := l.place[i], len(l.ids)-1
	l.ids[at] = l.ids[last]
	l.place[l.ids[at]] = at
	delete(l.place, i)
	if l.ids = l.ids[:last]; last == 0 { // free what a flood allocated
		*l = heldList{}
	}
}

// setHold gives the claim i another hold.
func (t *Table) setHold(b *recordSet, i uint32, h Hold) {
	x := b.claims.at(i)
	o := t.epochs.at(x.epoch).origin
	if x.hold.Waits() {
		t.held.remove(t.heldID(b, i), o, 1)
	}
	if x.hold = h; h.Waits() {
		t.held.add(t.heldID(b, i), o, 1)
	}
}

// rehold joins the hold of a record that was seen before and reports whether that changed anything.
func (t *Table) rehold(b *recordSet, i uint32, r *Record) bool {
	x := b.claims.at(i)
	h := x.hold.join(r.hold())
	if x.kind != KindBan && x.kind != KindAllow || h == x.hold || t.version(x) != r.Version {
		return false
	}
	t.setHold(b, i, h)
	return true
}

// The lifts are the unbans and unallows that are held or dropped. They are kept whole until they end.
type lifts struct {
	all  arena[Record]
	ids  map[cancelID]uint32
	ends expiryHeap // may hold ends of removed lifts
	room int        // what they take, dropped ones included
}

type cancelID struct {
	origin  Origin
	version Version
}

// liftRoom is how much of MaxHeld a lift takes, in bans; each of its marks takes one more.
const liftRoom = 8

// roomOf returns how much of MaxHeld r takes while held.
func roomOf(r *Record) int {
	if r.Kind == KindUnban || r.Kind == KindUnallow {
		return liftRoom + len(r.Marks)
	}
	return 1
}

// lets reports whether the cancel r counts. If not, r is kept among the lifts, unless its origin has said as much
// before.
func (t *Table) lets(b *recordSet, r *Record) bool {
	l, id := &t.lifts, cancelID{r.Origin, r.Version}
	i, known := l.ids[id]
	if !known {
		if r.Hold == HoldNone {
			return true
		}
		if _, news, _ := t.wouldAdd(b, r); news {
			t.keepLift(id, r)
		}
		return false
	}
	x := l.all.at(i)
	h := x.Hold.join(r.Hold)
	switch {
	case h == x.Hold:
		return false
	case h == HoldNone:
		t.dropLift(i)
		return true
	case x.Hold.Waits() && !h.Waits():
		t.held.remove(heldID{KindUnban, i}, r.Origin, roomOf(x))
	}
	x.Hold = h
	return false
}

func (t *Table) keepLift(id cancelID, r *Record) {
	l := &t.lifts
	if l.room >= 2*MaxHeld {
		t.dropped++
		return
	}
	if l.ids == nil {
		l.ids = make(map[cancelID]uint32)
	}
	i, x := l.all.alloc()
	*x = *r
	l.ids[id] = i
	l.ends.add(millis(r.Until), i, l.all.live, l.end)
	if l.room += roomOf(r); r.Hold.Waits() {
		t.held.add(heldID{KindUnban, i}, r.Origin, roomOf(r))
	}
}

func (t *Table) dropLift(i uint32) {
	l := &t.lifts
	x := l.all.at(i)
	if x.Hold.Waits() {
		t.held.remove(heldID{KindUnban, i}, x.Origin, roomOf(x))
	}
	l.room -= roomOf(x)
	delete(l.ids, cancelID{x.Origin, x.Version})
	if l.all.release(i); l.all.live == 0 { // free what a flood allocated
		*l = lifts{}
	}
}

// end returns when lift i ends, or 0 if it is gone.
func (l *lifts) end(i uint32) int64 {
	if x := l.all.at(i); x.Kind != 0 {
		return millis(x.Until)
	}
	return 0
}

// next returns the lift that ends first, or 0.
func (l *lifts) next() (i uint32, at int64) { return l.ends.next(l.end) }

// HeldFull reports whether there is no room to hold r: with r its origin would take more than its share, or more than
// the room that is left. So there is always room for one more origin.
func (t *Table) HeldFull(r *Record) bool {
	return t.held.room[r.Origin]+roomOf(r) > min(MaxHeldOf, MaxHeld-t.held.all)
}

// HeldBefore returns up to n of the bans, allows, unbans and unallows that wait for the operator. Begin with cursor 0
// and continue with next until it is 0. To release some, merge them with HoldNone; to drop them, merge them with
// HoldDropped. The table may change between calls: what waits throughout is returned at least once. What becomes held
// meanwhile is not returned, so that a caller that decides as it goes comes to an end.
func (t *Table) HeldBefore(cursor, n int) (rs []Record, next int) {
	ids := t.held.ids
	if cursor == 0 || cursor > len(ids) {
		cursor = len(ids)
	}
	next = max(cursor-max(n, 1), 0)
	for _, i := range ids[next:cursor] {
		switch i.kind {
		case KindBan:
			rs = append(rs, t.recordOf(&t.bans, i.id))
		case KindAllow:
			rs = append(rs, t.recordOf(&t.allows, i.id))
		default:
			rs = append(rs, *t.lifts.all.at(i.id))
		}
	}
	return rs, next
}

// Waiting returns how many ops wait for the operator. Counts().Held counts only the entries that are not enforced
// because of that.
func (t *Table) Waiting() int { return len(t.held.ids) }

// WaitingOf returns how many ops of o wait for the operator.
func (t *Table) WaitingOf(o Origin) int { return t.held.of[o] }

// LiftsWaiting returns how many of the waiting ops lift bans: allows, unbans and unallows.
func (t *Table) LiftsWaiting() (n int) {
	for _, of := range t.held.lifts {
		n += of
	}
	return n
}

// LiftsWaitingOf returns how many ops of o that lift bans wait for the operator.
func (t *Table) LiftsWaitingOf(o Origin) int { return t.held.lifts[o] }

// RecordsOf returns how many bans, revokes and allows of o the table holds.
func (t *Table) RecordsOf(o Origin) int { return t.claimsOf[o] }

// stands reports whether r's origin already has a live ban or allow of the same prefix and ports that counts, so that r
// only repeats it.
func (t *Table) stands(r *Record) bool {
	b := t.setOf(r.Kind)
	entry := t.entryAbout(b, r)
	if entry == 0 {
		return false
	}
	last, _ := t.said(b, entry, r.Origin)
	return last != 0 && !b.claims.at(last).hold.Waits() && t.counts(b, b.entries.at(entry), b.claims.at(last))
}
