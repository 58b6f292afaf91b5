package ban

import (
	"bytes"
	"maps"
	"slices"
	"time"
)

// maxOwnMark is how many bans of this node inside a prefix may be lifted by a mark. More are revoked one by one, which
// spares peers from examining what others banned there.
const maxOwnMark = 256

// A Lifting goes through the entries inside a prefix and returns the ops that lift them, a part at a time. The table
// may change between two parts; what arrives meanwhile may not be lifted. Merge none of the ops before the Lifting has
// ended.
type Lifting struct {
	// OneOfMany means that many liftings run in a row. If all that this one lifts is one ban of this node, that ban is
	// revoked and not marked, because peers take any number of revokes but at most MaxCancelMarks marks.
	OneOfMany bool

	t        *Table
	op       Op
	b        *recordSet
	walk     walk
	shortest int // shortest prefix of an op that peers accept

	own      []Op // revokes of this node's own bans
	revoking bool // the revokes are returned, so the marks leave this node out
	groups   map[pkey]map[Origin]word
	order    []pkey // of groups not returned yet, each with something to lift
	listed   map[pkey]bool
}

// Lift begins to lift everything inside op's prefix: bans if op is an unban, allows if it is an unallow. No op is wider
// than min4 or min6 (0 means what this table accepts from peers), except for an entry that is wider itself.
func (t *Table) Lift(op Op, min4, min6 int) (*Lifting, error) {
	var err error
	if op.Prefix, err = Normalize(op.Prefix); err != nil {
		return nil, err
	}
	b := t.setOf(op.Kind)
	return &Lifting{
		t: t, op: op, b: b, walk: newWalk(b, keyOf(op.Prefix)), shortest: t.shortest(op, min4, min6),
		groups: make(map[pkey]map[Origin]word), listed: make(map[pkey]bool),
	}, nil
}

// A word is what one origin says inside a prefix: its latest version and its latest end.
type word struct {
	mark  Mark
	until int64
}

// Next examines n entries or, once it has seen all, returns n revokes or the ops that lift n prefixes, with at most
// MaxMarks origins an op. It reports whether there is more to do.
func (l *Lifting) Next(now time.Time, n int) (ops []Op, more bool) {
	b := l.b
	if l.walk.on {
		l.walk.step(n, func(i uint32) { l.look(now, b, i) })
		return nil, l.walk.on || len(l.own)+len(l.order) > 0
	}
	if !l.revoking && len(l.own) <= maxOwnMark && l.op.Prefix.Bits() >= l.shortest && !l.onlyOwn() {
		l.own = nil
	}
	if len(l.own) > 0 {
		l.revoking = true
		n = min(n, len(l.own))
		ops, l.own = l.own[:n:n], l.own[n:]
		return ops, len(l.own)+len(l.order) > 0
	}
	n = min(n, len(l.order))
	for _, k := range l.order[:n] {
		if l.revoking {
			delete(l.groups[k], l.t.self)
		}
		ops = append(ops, l.cancel(b, k, l.groups[k])...)
	}
	l.order = l.order[n:]
	return ops, len(l.order) > 0
}

// onlyOwn reports whether OneOfMany is set and all there is to lift is one ban of this node.
func (l *Lifting) onlyOwn() bool {
	return l.OneOfMany && len(l.own) == 1 && len(l.order) == 1 && len(l.groups[l.order[0]]) == 1
}

// look notes what is said about entry i. A record that another node alone has lifted is no reason for an op. But an op
// that has another reason lifts that record too, so that it stays lifted if the other node is revoked.
func (l *Lifting) look(now time.Time, b *recordSet, i uint32) {
	t, e := l.t, b.entries.at(i)
	for _, x := range b.of(e) {
		inForce := t.counts(b, e, x)
		if x.until <= millis(now) || !inForce && !t.liftedByOther(b, e, x) {
			continue
		}
		// An own ban counts even if another node lifted it: where that unban is held for the operator, the ban stays in
		// force until this node lifts it too.
		own := b == &t.bans && t.epochs.at(x.epoch).origin == t.self
		if own {
			l.own = append(l.own, Op{
				Kind: KindRevoke, Prefix: e.key().prefix(), Ports: t.ports.at(e.ports), Until: fromMillis(x.until).Add(ClockSkew),
				Reason: l.op.Reason, Source: l.op.Source,
			})
		}
		k := l.group(e.key())
		if l.groups[k] == nil {
			l.groups[k] = make(map[Origin]word)
		}
		if (inForce || own) && !l.listed[k] {
			l.listed[k] = true
			l.order = append(l.order, k)
		}
		t.hear(l.groups[k], x)
	}
}

// liftedByOther reports whether another node's unban or unallow cancels x.
func (t *Table) liftedByOther(b *recordSet, e *entry, x *claim) bool {
	if x.kind != KindBan && x.kind != KindAllow || x.hold == HoldDropped {
		return false
	}
	if _, void := t.withdrawn[t.epochs.at(x.epoch).origin]; void {
		return false
	}
	i := t.cancelMarkOf(b, e, x)
	return i != 0 && t.parties.at(b.cancels.marks.at(i).by) != t.self
}

// group returns the prefix of the op that lifts entry k.
func (l *Lifting) group(k pkey) pkey {
	switch {
	case l.op.Prefix.Bits() >= l.shortest:
		return keyOf(l.op.Prefix)
	case k.len() <= l.shortest:
		return k
	case k.is4():
		return k.widen(form4 + uint8(l.shortest))
	}
	return k.widen(uint8(l.shortest))
}

// hear adds what claim x says to words.
func (t *Table) hear(words map[Origin]word, x *claim) {
	s := t.epochs.at(x.epoch)
	w, ok := words[s.origin]
	if !ok || !w.mark.covers(t.version(x)) {
		w.mark = Mark{s.origin, s.epoch, x.seq}
	}
	w.until = max(w.until, x.until)
	words[s.origin] = w
}

// cancel returns the ops that cancel words inside k. They last at least as long as this node's earlier cancel marks
// there, so that they replace those.
func (l *Lifting) cancel(b *recordSet, k pkey, words map[Origin]word) (ops []Op) {
	list := slices.SortedFunc(maps.Values(words), func(a, b word) int { return bytes.Compare(a.mark.Origin[:], b.mark.Origin[:]) })
	for part := range slices.Chunk(list, MaxMarks) {
		o := l.op
		o.Prefix = k.prefix()
		for _, w := range part {
			o.Marks = append(o.Marks, w.mark)
			until := fromMillis(max(w.until+ClockSkew.Milliseconds(), l.t.ownMarkEnd(b, k, w.mark.Origin)))
			if until.After(o.Until) {
				o.Until = until
			}
		}
		ops = append(ops, o)
	}
	return ops
}

// ownMarkEnd returns the latest end of this node's cancel marks on o at k, in Unix milliseconds, or 0 if there are none.
func (t *Table) ownMarkEnd(b *recordSet, k pkey, o Origin) (until int64) {
	about, ok := t.parties.ids[o]
	if !ok {
		return 0
	}
	for _, s := range b.cancels.at(target{k.hi, k.lo, about, k.form}) {
		if t.parties.at(s.by) == t.self {
			until = max(until, s.until)
		}
	}
	return until
}

// lifting counts the entries that are re-examined when r, which lifts bans or ends allows, is merged. own counts those
// about which only r's origin says anything, or all if r is about nobody else. others counts the rest, at least 1 for
// an op about others. It stops once either exceeds its bound.
func (t *Table) lifting(r *Record, maxOwn, maxOthers int) (own, others int) {
	k, alone := keyOf(r.Prefix), len(r.Marks) == 1 && r.Marks[0].Origin == r.Origin
	flips := false // an allow in force may end
	count := func(b *recordSet) {
		w := newWalk(b, k)
		for w.on && own <= maxOwn && others <= maxOthers {
			w.step(1+min(maxOwn-own, maxOthers-others), func(i uint32) {
				t.looked++
				flips = flips || b == &t.allows && b.entries.at(i).state == StateEnforced
				if alone || t.saidBy(b, i, r.Origin) {
					own++
				} else {
					others++
				}
			})
		}
	}
	switch r.Kind {
	case KindAllow:
		if !t.sheltered(k) {
			count(&t.bans)
		}
	case KindUnban, KindUnallow:
		b := t.setOf(r.Kind)
		if _, news, _ := t.wouldAdd(b, r); !news {
			return 0, 0
		}
		if count(b); flips && !t.sheltered(k) {
			count(&t.bans)
		}
		if !alone { // what the op will lift later cannot be counted, so the op itself counts as one
			others = max(others, 1)
		}
	}
	return own, others
}

// saidBy reports whether no origin but o says anything about entry i.
func (t *Table) saidBy(b *recordSet, i uint32, o Origin) bool {
	for _, x := range b.of(b.entries.at(i)) {
		if (x.kind == KindBan || x.kind == KindAllow) && t.epochs.at(x.epoch).origin != o {
			return false
		}
	}
	return true
}
