package ban

import "time"

// maxWithdrawn bounds how many withdrawn origins are remembered.
const maxWithdrawn = 1 << 16

// Withdrawal says why an origin no longer counts.
type Withdrawal struct {
	Reason string    // in plain words: "revoked", "its certificate has ended"
	At     time.Time // when that was decided
}

// Withdraw makes an origin no longer count. What the origin has said stays until it ends, for Why to show, but has no
// effect. What it says later has none either, until Readmit. A call looks at n records or entries, at least 1, and
// returns what changed. Begin with cursor 0 and continue with next until it is 0.
func (t *Table) Withdraw(origin Origin, w Withdrawal, cursor uint32, n int) (changes []Change, next uint32) {
	if _, ok := t.withdrawn[origin]; !ok && len(t.withdrawn) < maxWithdrawn {
		t.withdrawn[origin] = w
		t.setVoid(origin, true)
	}
	return t.reconsider(origin, cause{kind: KindUnban, origin: origin, words: words{w.Reason, "revoke"}}, cursor, n)
}

// Readmit makes an origin count again, with cursors like those of Withdraw.
func (t *Table) Readmit(origin Origin, cursor uint32, n int) (changes []Change, next uint32) {
	if _, ok := t.withdrawn[origin]; cursor == 0 && !ok {
		return nil, 0
	}
	delete(t.withdrawn, origin)
	t.setVoid(origin, false)
	return t.reconsider(origin, cause{kind: KindUnallow, origin: origin}, cursor, n)
}

// The bits of a cursor from bookBit up tell the stage: the allows, the bans, the cancel marks, and the chores that these
// cause. The bits below tell the record; for a cancel mark, markBit tells the record set.
const bookBit, markBit = 30, 29

// reconsider re-examines the entries about which an origin said something: allows first, then bans, then what its
// unbans and unallows are about. Each entry inside those is examined once, however many of them there are.
func (t *Table) reconsider(origin Origin, c cause, cursor uint32, n int) (changes []Change, next uint32) {
	for ; cursor>>bookBit < 2; cursor = (cursor>>bookBit + 1) << bookBit {
		b := [2]*recordSet{&t.allows, &t.bans}[cursor>>bookBit]
		for i := max(cursor&(1<<bookBit-1), 1); i < b.claims.end; i++ {
			if n == 0 {
				return t.finish(nil), cursor>>bookBit<<bookBit | i
			}
			n--
			if x := b.claims.at(i); x.kind != 0 && t.epochs.at(x.epoch).origin == origin {
				t.touch(b, x.entry, c)
			}
		}
	}
	if cursor>>bookBit == 2 {
		if cursor, n = t.reconsiderMarks(origin, c, cursor, n); n == 0 {
			return t.finish(nil), cursor
		}
	}
	if t.work(n); t.chores.busy() {
		return t.finish(nil), 3 << bookBit
	}
	return t.finish(nil), 0
}

// reconsiderMarks makes chores of what an origin's cancel marks are about. It returns where to continue and what is left
// of n.
func (t *Table) reconsiderMarks(origin Origin, c cause, cursor uint32, n int) (next uint32, left int) {
	by, ok := t.parties.ids[origin]
	if !ok {
		return 3 << bookBit, n
	}
	const inBook = 1<<markBit - 1
	for place := cursor & (1<<bookBit - 1); place>>markBit < 2; place = (place>>markBit + 1) << markBit {
		b := [2]*recordSet{&t.allows, &t.bans}[place>>markBit]
		for i := max(place&inBook, 1); i < b.cancels.marks.end; i++ {
			if n == 0 {
				return 2<<bookBit | place>>markBit<<markBit | i, 0
			}
			n--
			if s := b.cancels.marks.at(i); s.until != 0 && s.by == by {
				t.chore(b, s.key(), c)
			}
		}
	}
	return 3 << bookBit, n
}
