package ban

import "fmt"

// Hold says what this node does about a ban of a peer that came in: it does not travel, and other
// nodes may decide otherwise. The zero value is a ban that counts.
type Hold uint8

// The holds.
const (
	HoldNone    Hold = 0 // counts
	HoldRate    Hold = 1 // waits for the operator: its origin says too much at a time
	HoldActive  Hold = 2 // waits: its origin has too much in force
	HoldBreaker Hold = 3 // waits: all origins together say too much at a time
	HoldDropped Hold = 4 // the operator decided that it never counts
)

// String says in a few words why a ban waits or does not count.
func (h Hold) String() string {
	switch h {
	case HoldNone:
		return "not held"
	case HoldRate:
		return "rate of its origin"
	case HoldActive:
		return "active bans of its origin"
	case HoldBreaker:
		return "breaker"
	case HoldDropped:
		return "dropped"
	}
	return fmt.Sprintf("hold(%d)", uint8(h))
}

// Waits reports whether the operator has yet to decide.
func (h Hold) Waits() bool { return h != HoldNone && h != HoldDropped }

// join returns what one record comes to that was merged with both holds: a decision stands above a
// hold, and drop above release. That makes it a join as the merge laws ask for.
func (h Hold) join(g Hold) Hold {
	switch {
	case h == HoldDropped || g == HoldDropped:
		return HoldDropped
	case h == HoldNone || g == HoldNone:
		return HoldNone
	}
	return min(h, g)
}

// heldBan returns the hold of a ban; nothing else is held.
func (r *Record) heldBan() Hold {
	if r.Kind != KindBan {
		return HoldNone
	}
	return r.Hold
}

// A heldList names the recs that wait, in no order.
type heldList struct {
	ids   []uint32
	place map[uint32]int // in ids
	of    map[Origin]int // how many wait
}

func (l *heldList) add(i uint32, o Origin) {
	if l.place == nil {
		l.place, l.of = make(map[uint32]int), make(map[Origin]int)
	}
	l.of[o]++
	l.place[i] = len(l.ids)
	l.ids = append(l.ids, i)
}

func (l *heldList) remove(i uint32, o Origin) {
	if l.of[o]--; l.of[o] == 0 {
		delete(l.of, o)
	}
	at, last := l.place[i], len(l.ids)-1
	l.ids[at] = l.ids[last]
	l.place[l.ids[at]] = at
	delete(l.place, i)
	if l.ids = l.ids[:last]; last == 0 { // give back what a flood took
		*l = heldList{}
	}
}

// setHold gives the rec i another hold.
func (t *Table) setHold(b *book, i uint32, h Hold) {
	x := b.recs.at(i)
	if x.hold.Waits() {
		t.held.remove(i, t.speakers.at(x.speaker).origin)
	}
	if x.hold = h; h.Waits() {
		t.held.add(i, t.speakers.at(x.speaker).origin)
	}
}

// rehold joins the hold of a record that was seen before. It reports whether that changed anything.
func (t *Table) rehold(b *book, i uint32, r *Record) bool {
	x := b.recs.at(i)
	h := x.hold.join(r.heldBan())
	if x.kind != KindBan || h == x.hold || t.version(x) != r.Version {
		return false
	}
	t.setHold(b, i, h)
	return true
}

// HeldBefore returns up to n of the bans that wait for the operator: begin with cursor 0 and go on
// with next until that is 0. To release some, merge them with HoldNone; to drop them, with
// HoldDropped. Between calls the table may change: what waits all the time is returned at least
// once, and what is held meanwhile is not, so that a walk that decides comes to an end.
func (t *Table) HeldBefore(cursor, n int) (rs []Record, next int) {
	ids := t.held.ids
	if cursor == 0 || cursor > len(ids) {
		cursor = len(ids)
	}
	next = max(cursor-max(n, 1), 0)
	for _, i := range ids[next:cursor] {
		rs = append(rs, t.recordOf(&t.bans, i))
	}
	return rs, next
}

// Waiting returns how many bans wait for the operator. Counts().Held are prefixes, of which none
// counts otherwise.
func (t *Table) Waiting() int { return len(t.held.ids) }

// WaitingOf returns how many bans of o wait for the operator.
func (t *Table) WaitingOf(o Origin) int { return t.held.of[o] }

// RecordsOf returns how many records of bans, revokes and allows of o the table holds.
func (t *Table) RecordsOf(o Origin) int {
	i, ok := t.origins.ids[o]
	if !ok {
		return 0
	}
	return int(t.origins.vals.at(i).refs)
}

// stands reports whether r's origin has a live ban of the same prefix and ports that counts: then r
// only says it again.
func (t *Table) stands(r *Record) bool {
	b := &t.bans
	entry := t.entryAbout(b, r)
	if entry == 0 {
		return false
	}
	last, _ := t.said(b, entry, r.Origin)
	return last != 0 && !b.recs.at(last).hold.Waits() && t.counts(b, b.entries.at(entry), b.recs.at(last))
}
