package ban

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// No sequence of ops of one origin causes more entries to be examined than the package's doc says: a few for each op,
// and three for each entry that its allowance pays for.
func TestNoSequenceCostsMoreThanItsAllowance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		const burst, perHour, crowded, perOp = 50, 200, 400, 4
		caps := Caps{Allowance: Allowance{Rate: 1, Burst: burst, Bulk: perHour}, Active: 100, UnbanAny: true, Import: true}
		g, tb := newAdmission(caps, wideCaps.Allowance), newTable(t, Config{})
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
		if tb.RecordsOf(peerA) > 2*caps.Active || tb.CancelMarksOf(peerA) > MaxCancelMarks || tb.AllowsOf(peerA) > MaxAllows {
			rt.Fatalf("%d records, %d cancel marks, %d allows", tb.RecordsOf(peerA), tb.CancelMarksOf(peerA), tb.AllowsOf(peerA))
		}
		if err := sound(tb); err != nil {
			rt.Fatal(err)
		}
	})
}

// No sequence of ops of one origin makes the kernel hold more than the package's doc says, or sends more for one ban
// than the elements it may have. TestBytesKept covers the bytes that each op keeps.
func TestNoSequenceFillsTheKernel(t *testing.T) {
	t.Parallel()
	specs := []string{"", "22", "1-512", "1-1024/tcp", "2000-2511", "1,3,5,7,9-520/udp", "30000-30511"}
	most := 0
	rapid.Check(t, func(rt *rapid.T) {
		g, tb := newAdmission(wideCaps, wideCaps.Allowance), newTable(t, Config{})
		kernel := map[ruleKey]int64{}
		held := func() (n int) {
			for k := range kernel {
				n += max(1, k.ports.Elements())
			}
			return n
		}
		take := func(cs []Change) (put int) {
			for _, c := range cs {
				if c.Enforce {
					put += max(1, c.Ports.Elements())
				}
			}
			if err := fold(kernel, cs); err != nil {
				rt.Fatal(err)
			}
			return put
		}
		now, seq := base, 0
		for range rapid.IntRange(1, 12).Draw(rt, "bursts") {
			kind := rapid.SampledFrom([]Kind{KindBan, KindBan, KindBan, KindRevoke, KindUnban, KindAllow, KindUnallow}).Draw(rt, "kind")
			spec := onPorts(rapid.SampledFrom(specs).Draw(rt, "ports"))
			first := rapid.IntRange(0, 200).Draw(rt, "first")
			for i := range rapid.IntRange(1, 150).Draw(rt, "ops") {
				seq++
				r := record(peerA, seq, kind, address6(first+i).String(), 90_000, func(r *Record) { r.Issued = now })
				switch kind {
				case KindBan, KindRevoke:
					spec(&r)
				case KindUnban, KindUnallow:
					r.Marks = []Mark{upTo(peerA, uint64(seq))}
				}
				if g.Admit(now, tb, &r) != nil {
					continue
				}
				// What an unban or unallow sets free was counted when it was banned.
				if put := take(tb.Merge(now, single(r))); put > MaxPortElements && (kind == KindBan || kind == KindRevoke || kind == KindAllow) {
					rt.Fatalf("one %v sends %d elements", kind, put)
				}
			}
			now = now.Add(rapid.SampledFrom([]time.Duration{0, time.Minute, 2 * time.Hour}).Draw(rt, "pause"))
			for at, ok := tb.Next(); ok && !at.After(now); at, ok = tb.Next() {
				take(tb.Expire(now))
			}
			n := held()
			if n > MaxHeldElements+tb.RecordsOf(peerA) {
				rt.Fatalf("the kernel holds %d elements", n)
			}
			most = max(most, n)
		}
	})
	if most < MaxSaidElements/4 {
		t.Errorf("at most %d elements: the sequences are too tame", most)
	}
}

// Apart from its texts, an op keeps as much memory as the package's doc says.
func TestBytesKept(t *testing.T) {
	const n = 20_000
	for _, c := range []struct {
		name string
		each uint64 // bytes
		say  func(i int) Record
	}{
		{"ban", 112 + 100, func(i int) Record {
			return record(peerA, i+1, KindBan, address6(i).String(), 90_000, seenAt(0))
		}},
		{"ban with ports, all alike", 112 + 100, func(i int) Record {
			return record(peerA, i+1, KindBan, address6(i).String(), 90_000, seenAt(0), onPorts("22,80,443"))
		}},
		{"unban", 72 + 90, func(i int) Record {
			return record(peerA, i+1, KindUnban, address6(i).String(), 90_000, seenAt(0), marks(upTo(peerB, 1)))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tb := newTable(t, Config{})
			before := heapBytes()
			for i := range n {
				tb.Merge(base, single(c.say(i)))
			}
			each := (heapBytes() - before) / n
			t.Logf("%d bytes each", each)
			if each > 2*c.each { // slices and maps grow by doubling
				t.Errorf("%d bytes are kept for each, the doc says %d", each, c.each)
			}
			if tb.RecordsOf(peerA)+tb.CancelMarksOf(peerA) != n {
				t.Error("some are not kept")
			}
		})
	}
}

// marksOf draws marks for the i-th op: of its own origin, also of another, or of nobody.
func marksOf(t *rapid.T, i int) []Mark {
	switch rapid.IntRange(0, 2).Draw(t, "marks") {
	case 0:
		return []Mark{upTo(peerA, uint64(i))}
	case 1:
		return []Mark{upTo(peerA, uint64(i)), upTo(peerB, 1000)}
	}
	return []Mark{upTo(origin(i), 1)}
}
