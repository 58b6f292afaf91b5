package ban

import "time"

// Unsay takes back records as if they had never been merged, and returns what changed: each that its origin has not superseded
// since. What it superseded itself counts again once that is merged again. It is for records whose versions their origin has given
// twice.
func (t *Table) Unsay(now time.Time, rs []Record) []Change {
	changes := t.expire(millis(now))
	t.atOnce = MaxTouch
	room := MaxTouch
	for i := range rs {
		r := &rs[i]
		c := cause{kind: KindRevoke, origin: r.Origin, words: words{source: "replaced"}}
		b := &t.bans
		if r.Kind == KindAllow || r.Kind == KindUnallow {
			b = &t.allows
		}
		switch r.Kind {
		case KindBan, KindRevoke, KindAllow:
			if entry, gone := t.unput(b, r); gone {
				t.touch(b, entry, c)
			}
		case KindUnban, KindUnallow:
			if t.unstrike(b, r) {
				t.rejudge(b, keyOf(r.Prefix), c)
			}
		}
		room = t.work(room)
	}
	return t.finish(changes)
}

// unput takes out the rec that says r, and a floor that r has made; gone reports whether there was one.
func (t *Table) unput(b *book, r *Record) (entry uint32, gone bool) {
	if entry = t.entryAbout(b, r); entry == 0 {
		return 0, false
	}
	last, floor := t.said(b, entry, r.Origin)
	for _, i := range [2]uint32{last, floor} {
		if i != 0 && t.version(b.recs.at(i)) == r.Version {
			t.drop(b, i)
			gone = true
		}
	}
	return entry, gone
}

// unstrike takes out the strikes that r has made, and reports whether there were any. If r waits, it waits no longer.
func (t *Table) unstrike(b *book, r *Record) (gone bool) {
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
		for i := b.cancels.first[targetOf(r, about)]; i != 0; {
			x := b.cancels.strikes.at(i)
			next := x.next
			if x.by == by && x.epoch == m.Epoch && x.seq == m.Seq && x.issued == issued && x.until == until {
				t.removeStrike(b, i)
				gone = true
			}
			i = next
		}
	}
	return gone
}
