package ban

import (
	"bytes"
	"net/netip"
	"slices"
	"time"
)

// UnbanOps returns the ops that lift every live ban inside prefix, whoever made it: one for each
// MaxMarks origins. It returns ErrNotFound if there is none. A wider ban that covers prefix stays.
func (t *Table) UnbanOps(now time.Time, prefix netip.Prefix, reason, source string) ([]Op, error) {
	return t.cancelOps(now, &t.bans, Op{Kind: KindUnban, Prefix: prefix, Reason: reason, Source: source})
}

// UnallowOps returns the ops that end every live allow inside prefix, like UnbanOps.
func (t *Table) UnallowOps(now time.Time, prefix netip.Prefix, reason, source string) ([]Op, error) {
	return t.cancelOps(now, &t.allows, Op{Kind: KindUnallow, Prefix: prefix, Reason: reason, Source: source})
}

func (t *Table) cancelOps(now time.Time, b *book, op Op) ([]Op, error) {
	var err error
	if op.Prefix, err = Normalize(op.Prefix); err != nil {
		return nil, err
	}
	type word struct {
		mark  Mark
		until int64
	}
	words := make(map[Origin]word)
	for i := range b.inside(keyOf(op.Prefix)) {
		e := b.entries.at(i)
		for j := e.recs; j != 0; {
			x := b.recs.at(j)
			j = x.next
			if x.until <= millis(now) || !t.counts(b, e, x) {
				continue
			}
			s := t.speakers.at(x.speaker)
			w, ok := words[s.origin]
			if !ok || !w.mark.covers(t.version(x)) {
				w.mark = Mark{s.origin, s.epoch, x.seq}
			}
			w.until = max(w.until, x.until)
			words[s.origin] = w
		}
	}
	if len(words) == 0 {
		return nil, ErrNotFound
	}
	var list []word
	for _, w := range words {
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b word) int { return bytes.Compare(a.mark.Origin[:], b.mark.Origin[:]) })
	var ops []Op
	for part := range slices.Chunk(list, MaxMarks) {
		o := op
		for _, w := range part {
			o.Marks = append(o.Marks, w.mark)
			if until := fromMillis(w.until).Add(ClockSkew); until.After(o.Until) {
				o.Until = until
			}
		}
		ops = append(ops, o)
	}
	return ops, nil
}

// OwnOps returns what this node must publish, in this order, to say op. That is op alone, unless it
// is a ban or allow that ends before what this node said of the same prefix and ports: a node that
// hears both late would take the longer one for all there is, so op follows what takes it back.
func (t *Table) OwnOps(op Op) []Op {
	b := &t.bans
	switch op.Kind {
	case KindBan:
	case KindAllow:
		b = &t.allows
	default:
		return []Op{op}
	}
	old, ok := t.own(b, op.Prefix, op.Ports)
	if !ok || !old.Until.After(op.Until) {
		return []Op{op}
	}
	return t.instead(b, op, old)
}

// Amend returns what this node must publish after a record of its own has come back, which it had lost. If what it said
// last of the same prefix and ports ends before something that it had said earlier, the earlier would count again for
// whoever hears of both late: what took it back then may be lost, and is said again. It is nil where nothing is amiss.
func (t *Table) Amend(r Record) []Op {
	b := &t.bans
	switch {
	case r.Origin != t.self:
		return nil
	case r.Kind == KindAllow:
		b = &t.allows
	case r.Kind != KindBan:
		return nil
	}
	entry := t.entryAbout(b, &r)
	if entry == 0 {
		return nil
	}
	last, floor := t.said(b, entry, t.self)
	if last == 0 || floor == 0 || b.recs.at(floor).until <= b.recs.at(last).until {
		return nil
	}
	now, earlier := t.recordOf(b, last), t.recordOf(b, floor)
	if t.counts(b, b.entries.at(entry), b.recs.at(last)) {
		return t.instead(b, now.Op, earlier)
	}
	if r.Kind == KindAllow { // what ended it has a mark that covers the earlier one
		return nil
	}
	return []Op{takeBack(now.Op, earlier)}
}

// takeBack returns the revoke that makes room for op, and for nothing, as long as old would last.
func takeBack(op Op, old Record) Op {
	return Op{Kind: KindRevoke, Prefix: op.Prefix, Ports: op.Ports, Until: old.Until.Add(ClockSkew), Source: op.Source}
}

// instead returns what takes old back, and then op.
func (t *Table) instead(b *book, op Op, old Record) []Op {
	back := takeBack(op, old)
	if op.Kind == KindBan {
		return []Op{back, op}
	}
	// Of an allow only an unallow takes back, and that reaches inside: say again what it must not end.
	mark := Mark{t.self, old.Version.Epoch, old.Version.Seq}
	back.Kind, back.Marks = KindUnallow, []Mark{mark}
	ops := []Op{back, op}
	for i := range b.inside(keyOf(op.Prefix)) {
		last, _ := t.said(b, i, t.self)
		if last == 0 || !t.counts(b, b.entries.at(i), b.recs.at(last)) {
			continue
		}
		if r := t.recordOf(b, last); r.Prefix != op.Prefix && mark.covers(r.Version) {
			ops = append(ops, r.Op)
		}
	}
	return ops
}
