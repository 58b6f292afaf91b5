package ban

// OwnOps returns what this node must publish, in this order, to say ops. That is each op alone, unless it is a ban or
// allow that ends before what this node last said about the same prefix and ports. A node that hears of both after the op
// has ended would let the longer one stand, so OwnOps takes the longer one back first. It does so even if another node has
// lifted the longer one: if that node is revoked, its unban no longer counts.
func (t *Table) OwnOps(ops ...Op) []Op {
	all := make([]Op, 0, len(ops))
	for _, op := range ops {
		if op.Kind == KindBan || op.Kind == KindAllow {
			b := t.setOf(op.Kind)
			if _, last := t.ownLast(b, op.Prefix, op.Ports); last != 0 && b.claims.at(last).until > millis(op.Until) {
				all = append(all, t.instead(b, op, t.recordOf(b, last))...)
				continue
			}
		}
		all = append(all, op)
	}
	return all
}

// Amend returns what this node must publish after a record of its own that it had lost has come back. If what it said
// last about the same prefix and ports ends before something that it said earlier, the earlier record would count again
// on nodes that hear of both late. The op that took the earlier record back may be lost, so Amend says it again. It
// returns nil if nothing is amiss.
func (t *Table) Amend(r Record) []Op {
	if r.Origin != t.self || r.Kind != KindBan && r.Kind != KindAllow {
		return nil
	}
	b := t.setOf(r.Kind)
	entry := t.entryAbout(b, &r)
	if entry == 0 {
		return nil
	}
	last, floor := t.said(b, entry, t.self)
	if last == 0 || floor == 0 || b.claims.at(floor).until <= b.claims.at(last).until {
		return nil
	}
	now, earlier := t.recordOf(b, last), t.recordOf(b, floor)
	if t.counts(b, b.entries.at(entry), b.claims.at(last)) {
		return t.instead(b, now.Op, earlier)
	}
	if r.Kind == KindAllow { // the unallow that ended it has a mark that covers the earlier one
		return nil
	}
	return []Op{takeBack(now.Op, earlier)}
}

// takeBack returns a revoke of op's prefix and ports that outlives old.
func takeBack(op Op, old Record) Op {
	return Op{Kind: KindRevoke, Prefix: op.Prefix, Ports: op.Ports, Until: old.Until.Add(ClockSkew), Source: op.Source}
}

// instead returns the ops that take old back and then say op.
func (t *Table) instead(b *recordSet, op Op, old Record) []Op {
	back := takeBack(op, old)
	if op.Kind == KindBan {
		return []Op{back, op}
	}
	// Only an unallow takes an allow back, and it reaches inside the prefix: say again what it must not end.
	mark := Mark{t.self, old.Version.Epoch, old.Version.Seq}
	back.Kind, back.Marks = KindUnallow, []Mark{mark}
	ops := []Op{back, op}
	for i := range b.inside(keyOf(op.Prefix)) {
		last, _ := t.said(b, i, t.self)
		if last == 0 || !t.counts(b, b.entries.at(i), b.claims.at(last)) {
			continue
		}
		if r := t.recordOf(b, last); r.Prefix != op.Prefix && mark.covers(r.Version) {
			ops = append(ops, r.Op)
		}
	}
	return ops
}
