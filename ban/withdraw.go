package ban

import "time"

// maxWithdrawn bounds the origins that are remembered as withdrawn.
const maxWithdrawn = 1 << 16

// Withdrawal says why an origin counts no longer.
type Withdrawal struct {
	Reason string    // in plain words: "revoked", "its certificate has ended"
	At     time.Time // when that was decided
}

// Withdraw makes an origin count no longer: what it said stays until it ends, for Why to show, but has no effect. More
// that it says has none either, until Readmit. It looks at n records, at least 1, and returns what changed: begin with
// cursor 0 and go on with next until that is 0.
func (t *Table) Withdraw(origin Origin, w Withdrawal, cursor uint32, n int) (changes []Change, next uint32) {
	if _, ok := t.withdrawn[origin]; !ok && len(t.withdrawn) < maxWithdrawn {
		t.withdrawn[origin] = w
	}
	return t.reconsider(origin, cause{kind: KindUnban, origin: origin, words: words{w.Reason, "revoke"}}, cursor, n)
}

// Readmit makes an origin count again, in the same way.
func (t *Table) Readmit(origin Origin, cursor uint32, n int) (changes []Change, next uint32) {
	if _, ok := t.withdrawn[origin]; cursor == 0 && !ok {
		return nil, 0
	}
	delete(t.withdrawn, origin)
	return t.reconsider(origin, cause{kind: KindUnallow, origin: origin}, cursor, n)
}

// bookBit of a cursor tells the book, the bits below the record.
const bookBit = 30

// reconsider looks again at the entries of which an origin said something: allows first, then bans, then what its
// unbans and unallows are about.
func (t *Table) reconsider(origin Origin, c cause, cursor uint32, n int) (changes []Change, next uint32) {
	for ; cursor>>bookBit < 2; cursor = (cursor>>bookBit + 1) << bookBit {
		b := [2]*book{&t.allows, &t.bans}[cursor>>bookBit]
		for i := max(cursor&(1<<bookBit-1), 1); i < b.recs.end; i++ {
			if n == 0 {
				return t.finish(nil, false), cursor>>bookBit<<bookBit | i
			}
			n--
			if x := b.recs.at(i); x.kind != 0 && t.speakers.at(x.speaker).origin == origin {
				t.touch(b, x.entry, c)
			}
		}
	}
	for _, b := range [2]*book{&t.allows, &t.bans} {
		for _, i := range b.cancels.ids {
			if r := b.cancels.all.at(i); r.Origin == origin {
				t.touchInside(b, keyOf(r.Prefix), c)
			}
		}
	}
	return t.finish(nil, false), 0
}
