package ban

// OwnOps returns what this node must publish, in this order, to say op. That is op alone, unless it
// is a ban or allow that ends before what this node said of the same prefix and ports: a node that
// hears both late would take the longer one for all there is, so op follows what takes it back. So it does
// if somebody has lifted the longer one: when that node is revoked, its unban counts no longer.
func (t *Table) OwnOps(op Op) []Op {
	b := &t.bans
	switch op.Kind {
	case KindBan:
	case KindAllow:
		b = &t.allows
	default:
		return []Op{op}
	}
	_, last := t.ownLast(b, op.Prefix, op.Ports)
	if last == 0 || b.recs.at(last).until <= millis(op.Until) {
		return []Op{op}
	}
	return t.instead(b, op, t.recordOf(b, last))
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
