package ban

import (
	"bytes"
	"slices"
)

// A cause describes the record that made an entry change.
type cause struct {
	kind   Kind
	origin Origin
	issued int64
	words  words
	ending bool // the record ended
}

func (t *Table) causeOf(r *Record) cause {
	return cause{kind: r.Kind, origin: r.Origin, issued: millis(r.Issued), words: words{r.Reason, r.Source}}
}

func (t *Table) causeOfClaim(x *claim) cause {
	return cause{kind: x.kind, origin: t.epochs.at(x.epoch).origin, issued: x.issued, words: t.words.at(x.words)}
}

// A touched entry is one that the running call may have changed.
type touched struct {
	set   *recordSet
	entry uint32
	state State // before the call
	until int64 // before the call
	moved bool  // the cause changed the state, not only the end
	cause cause
}

// touch re-examines entry i after records that affect it changed.
func (t *Table) touch(b *recordSet, i uint32, c cause) {
	e := b.entries.at(i)
	if n := int(e.touch); n >= len(t.touched) || t.touched[n].set != b || t.touched[n].entry != i {
		e.touch = uint32(len(t.touched))
		t.touched = append(t.touched, touched{set: b, entry: i, state: e.state, until: e.until})
	}
	w := &t.touched[e.touch]
	state, until := t.judge(b, e)
	if state != e.state {
		w.cause, w.moved = c, true
	} else if until != e.until && !w.moved {
		w.cause = c
	}
	flipped := (state == StateEnforced) != (e.state == StateEnforced)
	e.state, e.until = state, until
	if b == &t.allows && flipped && !t.sheltered(e.key()) {
		t.rejudge(&t.bans, e.key(), c)
	}
}

// sheltered reports whether the never-ban list or a wider allow protects all of k already.
func (t *Table) sheltered(k pkey) bool {
	if t.never.covers(k) {
		return true
	}
	for w := range t.allows.forms.covering(k) {
		if w == k {
			continue
		}
		if i := t.allows.find(w, 0); i != 0 && t.allows.entries.at(i).state == StateEnforced {
			return true
		}
	}
	return false
}

// wakeLater schedules another look at claim i, which does not count, for the end of the cancel mark that cancels it.
func (t *Table) wakeLater(b *recordSet, e *entry, i uint32) {
	x := b.claims.at(i)
	if b.cancels.marks.live == 0 || x.kind != KindBan && x.kind != KindAllow {
		return
	}
	if s := t.cancelMarkOf(b, e, x); s != 0 && b.cancels.marks.at(s).until < x.until {
		b.wakes.wake(i, b.cancels.marks.at(s).until)
	}
}

// noteAllow records whether allow claim i is in force and keeps the count of its origin.
func (t *Table) noteAllow(i uint32, inForce bool) {
	if inForce == t.inForce[i] {
		return
	}
	o := t.epochs.at(t.allows.claims.at(i).epoch).origin
	if inForce {
		t.inForce[i] = true
		t.allowsOf.add(o, +1)
		return
	}
	delete(t.inForce, i)
	t.allowsOf.add(o, -1)
}

// AllowsOf returns how many allows of o are in force.
func (t *Table) AllowsOf(o Origin) int { return t.allowsOf[o] }

// judge returns the state that an entry's records add up to and, if that is StateEnforced, when it ends. An allow in
// force is StateEnforced too.
func (t *Table) judge(b *recordSet, e *entry) (State, int64) {
	t.looked++
	quorum := t.quorum.Origins
	if b == &t.allows {
		quorum = 1
	}
	var buf [4]int64
	others := buf[:0] // the latest ends of other origins, latest first, at most quorum of them
	var own int64
	n, held := 0, 0
	for id, x := range b.of(e) {
		counts := t.counts(b, e, x)
		if b == &t.allows {
			t.noteAllow(id, counts && x.hold == HoldNone)
		}
		if !counts {
			t.wakeLater(b, e, id)
			continue
		}
		if x.hold != HoldNone { // it waits: counts has excluded dropped ones
			held++
			continue
		}
		n++
		if t.epochs.at(x.epoch).origin == t.self {
			own = x.until
			continue
		}
		at, _ := slices.BinarySearchFunc(others, x.until, func(a, b int64) int { return int(min(max(b-a, -1), 1)) })
		if at < quorum {
			others = slices.Insert(others[:min(len(others), quorum-1)], at, x.until)
		}
	}
	until := own // this node's own ban needs no quorum
	if len(others) == quorum {
		until = max(own, others[quorum-1])
	}
	if b == &t.bans && t.windows() {
		until = max(own, t.agreed(b, e))
	}
	switch {
	case n+held == 0:
		return stateNone, 0
	case b == &t.bans && t.allowed(e.key()):
		return StateAllowed, 0
	case until == 0 && held > 0:
		return StateHeld, 0
	case until == 0:
		return StatePending, 0
	}
	return StateEnforced, until
}

// counts reports whether claim x of entry e is a ban or allow that is neither cancelled nor dropped and whose origin is
// not withdrawn. It may be held.
func (t *Table) counts(b *recordSet, e *entry, x *claim) bool {
	if x.kind != KindBan && x.kind != KindAllow || x.hold == HoldDropped {
		return false
	}
	if len(t.withdrawn) > 0 {
		if _, void := t.withdrawn[t.epochs.at(x.epoch).origin]; void {
			return false
		}
	}
	return t.cancelMarkOf(b, e, x) == 0
}

// allowed reports whether the never-ban list or an allow contains k.
func (t *Table) allowed(k pkey) bool {
	return t.never.covers(k) || t.allowing(k) != 0
}

// allowing returns the entry of the narrowest allow in force that contains k, or 0.
func (t *Table) allowing(k pkey) uint32 {
	for w := range t.allows.forms.covering(k) {
		if i := t.allows.find(w, 0); i != 0 && t.allows.entries.at(i).state == StateEnforced {
			return i
		}
	}
	return 0
}

// maxScratch is how many touched entries a table keeps memory for between calls.
const maxScratch = 1 << 12

// finish turns the touched entries into changes, appends them to dst and frees empty entries.
func (t *Table) finish(dst []Change) []Change {
	t.atOnce = 0
	dst = slices.Grow(dst, min(len(t.touched), maxScratch))
	for i := range t.touched {
		w := &t.touched[i]
		e := w.set.entries.at(w.entry)
		if w.set == &t.bans {
			t.states[w.state]--
			t.states[e.state]++
		}
		if c, ok := t.change(w, e); ok {
			dst = append(dst, c)
		}
		if e.claims == 0 {
			t.close(w.set, w.entry)
		}
	}
	if cap(t.touched) > maxScratch {
		t.touched = nil
	}
	clear(t.touched)
	t.touched = t.touched[:0]
	if len(dst) == 0 {
		return nil
	}
	return dst
}

// change returns what happened to a touched entry; ok is false if there is nothing to report.
func (t *Table) change(w *touched, e *entry) (c Change, ok bool) {
	was, is := w.state == StateEnforced, e.state == StateEnforced
	until, from := e.until, w.cause
	switch {
	case w.set == &t.allows:
		switch {
		case is && !was:
			c.Event = EventAllow
		case was && !is:
			c.Event, until = EventUnallow, w.until
		default:
			return c, false
		}
	case is && !was:
		c.Event, c.Enforce = EventBan, true
	case is && w.until != e.until:
		c.Event, c.Enforce = EventRefresh, true
	case is:
		return c, false
	case was:
		c.Lift, until = true, w.until
		c.Event = lifted(e.state, from.ending)
	case e.state == StatePending && w.state != StatePending:
		c.Event = EventPending
	case e.state == StateHeld && w.state != StateHeld:
		c.Event = EventHeld
	case (w.state == StatePending || w.state == StateHeld) && e.state == stateNone:
		c.Event = lifted(e.state, from.ending)
	default:
		return c, false
	}
	takes := from.kind == KindRevoke || from.kind == KindUnban
	switch c.Event {
	case EventBan, EventPending, EventHeld, EventRefresh:
		lead := w.set.claims.at(t.leading(w.set, e))
		// The entry may also have surfaced because something else ended; then report the ban itself.
		if from.ending || from.kind != KindBan && !(takes && c.Event == EventRefresh) {
			from = t.causeOfClaim(lead)
		}
		if c.Event == EventPending || c.Event == EventHeld {
			until = lead.until
		}
	}
	c.Prefix, c.Ports = e.key().prefix(), t.ports.at(e.ports)
	if until != 0 {
		c.Until = fromMillis(until)
	}
	if was {
		c.Was = fromMillis(w.until)
	}
	c.Origin, c.Local = from.origin, from.origin == t.self
	if from.issued != 0 {
		c.Issued = fromMillis(from.issued)
	}
	c.Reason, c.Source = from.words.reason, from.words.source
	return c, true
}

// lifted returns the event of an entry that is no longer enforced or waiting and is now in state s.
func lifted(s State, expiring bool) Event {
	switch {
	case s == StateAllowed:
		return EventAllow
	case expiring:
		return EventExpire
	}
	return EventUnban
}

// leading returns the live ban or allow of the entry that lasts longest, or 0. It returns a held one only if all are
// held. Nodes with the same records choose the same one.
func (t *Table) leading(b *recordSet, e *entry) uint32 {
	var lead uint32
	for i, x := range b.of(e) {
		if t.counts(b, e, x) && (lead == 0 || t.leads(x, b.claims.at(lead))) {
			lead = i
		}
	}
	return lead
}

func (t *Table) leads(x, y *claim) bool {
	if x.hold.Waits() != y.hold.Waits() {
		return y.hold.Waits()
	}
	if x.until != y.until {
		return x.until > y.until
	}
	return t.sooner(x, y)
}

// sooner reports whether x comes before y, by issue time, then by origin.
func (t *Table) sooner(x, y *claim) bool {
	if x.issued != y.issued {
		return x.issued < y.issued
	}
	a, b := t.epochs.at(x.epoch), t.epochs.at(y.epoch)
	return bytes.Compare(a.origin[:], b.origin[:]) < 0
}
