package ban

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// No sequence of ops of one origin has more entries looked at than the package's doc says: a few for each op, and three
// for each entry that its allowance pays for.
func TestNoSequenceCostsMoreThanItsAllowance(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const burst, perHour, crowded, perOp = 50, 200, 400, 4
		caps := Caps{Allowance: Allowance{Rate: 1, Burst: burst, Bulk: perHour}, Active: 100, UnbanAny: true, Import: true}
		g, tb := newGate(caps, wideCaps.Allowance), newTable(t, Config{})
		crowd(tb, peerB, crowded)
		ops := rapid.IntRange(1, 120).Draw(rt, "ops")
		turns := rapid.Bool().Draw(rt, "in turns")
		kinds := []Kind{KindAllow, KindUnallow, KindUnban, KindBan, KindRevoke}
		looked, _ := counted(tb, func() {
			for i := range ops {
				k := kinds[i%2]
				if !turns {
					k = rapid.SampledFrom(kinds).Draw(rt, "kind")
				}
				bits := rapid.SampledFrom([]string{"2001:db8::/48", "2001:db8::/64", "2001:db8::/124", "2001:db8::7"}).Draw(rt, "prefix")
				r := record(peerA, i+1, k, bits, rapid.IntRange(1, 90).Draw(rt, "until"), seenAt(-rapid.SampledFrom([]int{0, 400}).Draw(rt, "dated back")))
				if k == KindUnban || k == KindUnallow {
					r.Marks = marksOf(rt, i)
				}
				if g.Admit(base, tb, &r) == nil {
					tb.Merge(base, single(r))
				}
			}
			for at, ok := tb.Next(); ok && !at.After(base.Add(time.Hour)); at, ok = tb.Next() {
				tb.Expire(at.Add(time.Millisecond))
			}
		})
		if most := uint64(perOp*ops + 3*(burst+2*perHour) + perOp); looked > most {
			rt.Fatalf("%d ops had %d entries looked at, at most %d", ops, looked, most)
		}
		if tb.RecordsOf(peerA) > 2*caps.Active || tb.StrikesOf(peerA) > MaxStrikes || tb.AllowsOf(peerA) > MaxAllows {
			rt.Fatalf("%d records, %d strikes, %d allows", tb.RecordsOf(peerA), tb.StrikesOf(peerA), tb.AllowsOf(peerA))
		}
		if err := sound(tb); err != nil {
			rt.Fatal(err)
		}
	})
}

// marksOf draws marks for the i-th op: of others, of its own, of nobody.
func marksOf(t *rapid.T, i int) []Mark {
	switch rapid.IntRange(0, 2).Draw(t, "marks") {
	case 0:
		return []Mark{upTo(peerA, uint64(i))}
	case 1:
		return []Mark{upTo(peerA, uint64(i)), upTo(peerB, 1000)}
	}
	return []Mark{upTo(origin(i), 1)}
}
