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
	back := Op{Kind: KindRevoke, Prefix: op.Prefix, Ports: op.Ports, Until: old.Until.Add(ClockSkew), Source: op.Source}
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
