package ban

import "time"

// Unsay takes back records as if they had never been merged, except those that their origin has superseded since, and
// returns what changed. What such a record superseded counts again only once it is merged again. Unsay is for an origin
// that gave one version to two records.
func (t *Table) Unsay(now time.Time, rs []Record) []Change {
	return t.unsay(now, rs, cause{kind: KindRevoke, words: words{source: "replaced"}})
}

// Refuse takes back records like Unsay, because the current limits do not allow them. Bans that it lifts are reported
// as EventExpire.
func (t *Table) Refuse(now time.Time, rs []Record) []Change {
	return t.unsay(now, rs, cause{kind: KindRevoke, words: words{source: "refused"}, ending: true})
}

func (t *Table) unsay(now time.Time, rs []Record, c cause) []Change {
	changes := t.expire(millis(now))
	t.atOnce = MaxTouch
	room := MaxTouch
	for i := range rs {
		r := &rs[i]
		c.origin = r.Origin
		b := t.setOf(r.Kind)
		switch r.Kind {
		case KindBan, KindRevoke, KindAllow:
			if entry, gone := t.unput(b, r); gone {
				t.touch(b, entry, c)
			}
		case KindUnban, KindUnallow:
			if t.unmark(b, r) {
				t.rejudge(b, keyOf(r.Prefix), c)
			}
		}
		room = t.work(room)
	}
	return t.finish(changes)
}

// unput removes the claim of r and any floor that r made; gone reports whether there was either.
func (t *Table) unput(b *recordSet, r *Record) (entry uint32, gone bool) {
	if entry = t.entryAbout(b, r); entry == 0 {
		return 0, false
	}
	last, floor := t.said(b, entry, r.Origin)
	for _, i := range [2]uint32{last, floor} {
		if i != 0 && t.version(b.claims.at(i)) == r.Version {
			t.drop(b, i)
			gone = true
		}
	}
	return entry, gone
}

// unmark removes the cancel marks that r made and reports whether there were any. If r is among the lifts, it is removed
// there too.
func (t *Table) unmark(b *recordSet, r *Record) (gone bool) {
	if i, ok := t.lifts.ids[cancelID{r.Origin, r.Version}]; ok {
		t.dropLift(i)
	}
	by, ok := t.parties.ids[r.Origin]
	if !ok {
		return false
	}
	issued, until := millis(r.Issued), millis(r.Until)
	for _, m := range r.Marks {
		about, ok := t.parties.ids[m.Origin]
		if !ok {
			continue
		}
		for i, x := range b.cancels.at(targetOf(r, about)) {
			if x.by == by && x.epoch == m.Epoch && x.seq == m.Seq && x.issued == issued && x.until == until {
				t.removeCancelMark(b, i)
				gone = true
			}
		}
	}
	return gone
}
