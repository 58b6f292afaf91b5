package ban

import (
	"net/netip"
	"time"
)

// SaidAfter returns the bans of an origin that reached this node before a time and count now: another node must say
// them if they are to stand when the origin is withdrawn. It goes by arrival, because the origin chose the times in its
// records. It leaves out the origin's unbans and allows, which lift what others ban, and bans that are held, dropped or
// lifted. Begin with cursor 0 and continue with next until it is 0; a call looks at n records, at least 1.
func (t *Table) SaidAfter(now time.Time, origin Origin, before time.Time, cursor uint32, n int) (ops []Op, next uint32) {
	b, last := &t.bans, millis(before)
	next = t.eachOf(b, origin, cursor, n, func(i uint32, x *claim) {
		arrived := x.arrived > 0 && x.arrived < last
		if arrived && x.hold == HoldNone && x.until > millis(now) && t.counts(b, b.entries.at(x.entry), x) {
			ops = append(ops, t.recordOf(b, i).Op)
		}
	})
	return ops, next
}

// SaidBy returns the live bans, allows, unbans and unallows of an origin, whatever became of them, with cursors like
// those of SaidAfter.
func (t *Table) SaidBy(now time.Time, origin Origin, cursor uint32, n int) (rs []Record, next uint32) {
	for ; cursor>>stageBit < 2; cursor = (cursor>>stageBit + 1) << stageBit {
		b := [2]*recordSet{&t.allows, &t.bans}[cursor>>stageBit]
		next := t.eachOf(b, origin, cursor&(1<<stageBit-1), n, func(i uint32, x *claim) {
			if r := t.recordOf(b, i); (r.Kind == KindBan || r.Kind == KindAllow) && r.Until.After(now) {
				rs = append(rs, r)
			}
		})
		if next != 0 {
			return rs, cursor>>stageBit<<stageBit | next
		}
	}
	for _, b := range [2]*recordSet{&t.allows, &t.bans} {
		by, ok := t.parties.ids[origin]
		for i := range b.cancels.distinct(func(s *cancelMark) bool { return ok && s.by == by && s.until > millis(now) }) {
			rs = append(rs, t.cancelMarkRecord(b, i))
		}
	}
	for _, i := range t.lifts.ids {
		if r := t.lifts.all.at(i); r.Origin == origin && r.Until.After(now) {
			rs = append(rs, *r)
		}
	}
	return rs, 0
}

// eachOf calls f for those of the next n records of a record set that are from an origin. It returns where to continue,
// 0 at the end.
func (t *Table) eachOf(b *recordSet, origin Origin, cursor uint32, n int, f func(i uint32, x *claim)) (next uint32) {
	from, to, next := places(b.claims.end, cursor, n)
	for i := from; i < to; i++ {
		if x := b.claims.at(i); x.kind != 0 && t.epochs.at(x.epoch).origin == origin {
			f(i, x)
		}
	}
	return next
}

// Has reports whether merging r would change nothing but its hold, because the table has r or something later that its
// origin said.
func (t *Table) Has(r *Record) bool {
	b := t.setOf(r.Kind)
	if r.Kind == KindUnban || r.Kind == KindUnallow {
		_, waits := t.lifts.ids[cancelID{r.Origin, r.Version}]
		_, news, _ := t.wouldAdd(b, r)
		return waits || !news
	}
	entry := t.entryAbout(b, r)
	if entry == 0 {
		return false
	}
	last, floor := t.said(b, entry, r.Origin)
	for _, i := range [2]uint32{last, floor} {
		if i != 0 && t.version(b.claims.at(i)).Compare(r.Version) >= 0 {
			return true
		}
	}
	return false
}

// InForce reports whether the ban r counts: its origin has said nothing later about the same prefix and ports, nothing
// cancels it, and it does not wait.
func (t *Table) InForce(r *Record) bool {
	entry := t.entryAbout(&t.bans, r)
	if entry == 0 {
		return false
	}
	last, _ := t.said(&t.bans, entry, r.Origin)
	return last != 0 && t.version(t.bans.claims.at(last)) == r.Version && t.stands(r)
}

// Effect returns the state of this node's own ban of a prefix and ports, or the unban that cancels it. The state is 0
// if there is no such ban or it is cancelled.
func (t *Table) Effect(prefix netip.Prefix, ports Ports) (state State, cancelled *Record) {
	e, by := t.effect(&t.bans, prefix, ports)
	if e == nil || by != nil {
		return stateNone, by
	}
	return e.state, nil
}

// AllowLifted returns the unallow that cancels this node's own allow of a prefix, or nil if none does.
func (t *Table) AllowLifted(prefix netip.Prefix) *Record {
	_, by := t.effect(&t.allows, prefix, Ports{})
	return by
}

// effect returns the entry of this node's own ban or allow of a prefix and ports, nil if there is none, and what
// cancels it.
func (t *Table) effect(b *recordSet, prefix netip.Prefix, ports Ports) (*entry, *Record) {
	e, last := t.ownLast(b, prefix, ports)
	if last == 0 {
		return nil, nil
	}
	return e, (&query{t: t}).cancelOf(b, e, b.claims.at(last))
}
