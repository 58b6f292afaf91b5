package ban

import "time"

// maxWithdrawn bounds how many withdrawn origins are remembered.
const maxWithdrawn = 1 << 16

// Withdrawal says why the records of an origin no longer count.
type Withdrawal struct {
	Reason string    // in plain words: "revoked", "its certificate has ended"
	At     time.Time // when that was decided
}

// Withdraw voids an origin: what it has said stays until it ends, for Why to show, but has no effect. What it says
// later has none either, until Readmit. A call looks at n records or entries, at least 1, and returns what changed.
// Begin with cursor 0 and continue with next until it is 0.
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

// The bits of a cursor from stageBit up tell the stage: the allows, the bans, the cancel marks of allows and of bans, and
// the chores that these cause. The bits below tell the record or mark.
const stageBit = 29

// reconsider re-examines the entries about which an origin said something: allows first, then bans, then what its
// unbans and unallows are about. Each entry inside those is examined once, however many of them there are.
func (t *Table) reconsider(origin Origin, c cause, cursor uint32, n int) (changes []Change, next uint32) {
	by, lifts := t.parties.ids[origin]
	for stage, i := cursor>>stageBit, cursor&(1<<stageBit-1); stage < 4; stage, i = stage+1, 0 {
		b := [2]*recordSet{&t.allows, &t.bans}[stage%2]
		end := b.claims.end
		if stage >= 2 {
			if end = b.cancels.marks.end; !lifts {
				end = 0
			}
		}
		for i = max(i, 1); i < end; i++ {
			if n == 0 {
				return t.finish(nil), stage<<stageBit | i
			}
			n--
			if stage >= 2 {
				if s := b.cancels.marks.at(i); s.until != 0 && s.by == by {
					t.chore(b, s.key(), c)
				}
			} else if x := b.claims.at(i); x.kind != 0 && t.epochs.at(x.epoch).origin == origin {
				t.touch(b, x.entry, c)
			}
		}
	}
	if t.work(n); t.chores.busy() {
		return t.finish(nil), 4 << stageBit
	}
	return t.finish(nil), 0
}
