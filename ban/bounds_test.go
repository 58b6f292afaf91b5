package ban

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// These tests check the bounds in the package's doc by counting what the table examines. None of them looks at a clock.

// counted returns how many entries and how many cancel marks the table examines while f runs.
func counted(tb *Table, f func()) (looked, steps uint64) {
	looked, steps = tb.looked, tb.steps
	f()
	return tb.looked - looked, tb.steps - steps
}

// address6 returns the i-th address of 2001:db8::/48.
func address6(i int) netip.Prefix {
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8, 12: byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
	return netip.PrefixFrom(netip.AddrFrom16(a), 128)
}

// crowd adds n bans of o in 2001:db8::/48, issued at base, to the table.
func crowd(tb *Table, o Origin, n int) {
	rs := make([]Record, n)
	for i := range rs {
		rs[i] = Record{
			Op:     Op{Kind: KindBan, Prefix: address6(i), Until: tick(90_000)},
			Origin: o, Version: Version{1, uint64(i/80 + 1), uint16(i % 80)}, Issued: base,
		}
	}
	tb.Merge(base, rs)
}

// drain expires what is due and checks each call against its bound. It returns the most entries that one call examined.
func drain(t *testing.T, tb *Table, now time.Time) (most uint64) {
	t.Helper()
	for at, ok := tb.Next(); ok && !at.After(now); at, ok = tb.Next() {
		looked, _ := counted(tb, func() { tb.Expire(now) })
		most = max(most, looked)
	}
	if most > MaxExpire {
		t.Errorf("one call of Expire looked at %d entries, at most %d", most, MaxExpire)
	}
	return most
}

// withdraw withdraws o in slices of n. It returns how many entries and cancel marks that examined, and the most entries
// in one slice.
func withdraw(t rapid.TB, tb *Table, o Origin, n int) (looked, steps, most uint64) {
	t.Helper()
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		l, s := counted(tb, func() { _, cursor = tb.Withdraw(o, Withdrawal{"revoked", base}, cursor, n) })
		looked, steps, most = looked+l, steps+s, max(most, l)
	}
	if most > uint64(n) {
		t.Errorf("a slice of %d looked at %d entries", n, most)
	}
	return looked, steps, most
}

// Revoking an origin that had said 4,000 unbans of 1,000 bans stopped every node for two minutes: for each unban it
// examined each ban, and each time all unbans.
func TestRevokeIsNoBomb(t *testing.T) {
	t.Parallel()
	const bans, unbans = 500, 2000
	for _, c := range []struct {
		name string
		ends func(i int) int
	}{
		{"ok: each longer than the last", func(i int) int { return 1000 + i }},
		{"ok: each shorter than the last", func(i int) int { return 9000 - i }},
	} {
		for _, prefix := range []string{"10.0.0.0/8", "10.0.0.0/%d"} {
			t.Run(c.name+", "+prefix, func(t *testing.T) {
				tb := newTable(t, Config{})
				for i := range bans {
					tb.Merge(base, single(record(peerB, i+1, KindBan, fmt.Sprintf("10.0.%d.%d", i>>8, i&255), 20_000, seenAt(0))))
				}
				for i := range unbans {
					p := prefix
					if p != "10.0.0.0/8" {
						p = fmt.Sprintf(prefix, 8+i%16)
					}
					tb.Merge(base, single(record(peerA, i+1, KindUnban, p, c.ends(i), seenAt(0), marks(upTo(peerB, uint64(i+1))))))
				}
				if n := tb.Counts().Active; n == bans {
					t.Fatal("nothing is lifted")
				}
				looked, steps, _ := withdraw(t, tb, peerA, 256)
				if looked > bans+256 || steps > 20*(bans*maxFront+unbans) {
					t.Errorf("looked at %d entries and %d cancel marks", looked, steps)
				}
				if n := tb.Counts().Active; n != bans {
					t.Errorf("%d count again, want %d", n, bans)
				}
				if err := sound(tb); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// An origin that alternately allowed and unallowed a wide prefix had every ban inside examined each time.
func TestAllowAndUnallowInTurns(t *testing.T) {
	t.Parallel()
	const bans, turns = 100_000, 2000
	caps := wideCaps
	caps.Allowance = Allowance{Rate: 1200, Burst: 5000, Bulk: 1_250_000}
	g, tb := newAdmission(caps, Allowance{Rate: 6000, Burst: 20_000, Bulk: 2_500_000}), newTable(t, Config{})
	crowd(tb, peerB, bans)
	for _, wide := range []string{"2001:d00::/24", "2001:db8::/47"} {
		r := record(peerA, 1, KindAllow, wide, 60, seenAt(0))
		var policy *PolicyError
		if err := g.Admit(base, tb, &r); !errors.As(err, &policy) || policy.Rule != RuleWide {
			t.Errorf("allow of %s: %v", wide, err)
		}
	}
	held := 0
	looked, _ := counted(tb, func() {
		for i := range turns {
			r := record(peerA, i+1, KindAllow, "2001:db8::/48", 60, seenAt(0))
			if i%2 == 1 {
				r = record(peerA, i+1, KindUnallow, "2001:db8::/48", 9999, seenAt(0), marks(upTo(peerA, uint64(i))))
			}
			if err := g.Admit(base, tb, &r); err != nil {
				t.Fatal(err)
			}
			if r.Hold == HoldLift {
				held++
			}
			tb.Merge(base, single(r))
		}
	})
	if looked > 5000+4*turns {
		t.Errorf("%d ops had %d entries looked at", turns, looked)
	}
	if n := tb.Counts().Active; n != bans || held == 0 || tb.LiftsWaiting() == 0 {
		t.Errorf("%d of %d bans count, %d ops are held, %d wait", n, bans, held, tb.LiftsWaiting())
	}
	own := record(self, 1, KindBan, "192.0.2.7", 60)
	if looked, _ := counted(tb, func() { tb.Merge(base, single(own)) }); looked > MaxExpire+1 {
		t.Errorf("an own ban had %d entries looked at", looked)
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
}

// An unban with marks of 2^63-1 cancelled bans that were not made yet, even those of this node.
func TestMarksOfTheFuture(t *testing.T) {
	last := Mark{self, math.MaxInt64, math.MaxInt64}
	tb, g := newTable(t, Config{}), newAdmission(wideCaps, wideCaps.Allowance)
	later := func(m time.Duration) Record {
		return Record{
			Op:     Op{Kind: KindBan, Prefix: pfx("192.0.2.7"), Until: base.Add(m + time.Hour)},
			Origin: self, Version: Version{uint64(base.Unix()), uint64((m + 2*time.Hour) / time.Millisecond), 0}, Issued: base.Add(m),
		}
	}
	tb.Merge(base, single(record(peerA, 1, KindUnban, "192.0.2.0/24", 86_400, seenAt(0), marks(last))))
	for _, c := range []struct {
		issued time.Duration
		counts bool
	}{{-time.Hour, false}, {0, false}, {tb.limits.FutureSkew, false}, {tb.limits.FutureSkew + time.Millisecond, true}, {time.Hour, true}} {
		now := base.Add(max(0, c.issued))
		tb.Merge(now, single(later(c.issued)))
		if _, got := tb.OwnBan(pfx("192.0.2.7"), Ports{}); got != c.counts {
			t.Errorf("a ban issued %v after the unban counts: %v, want %v", c.issued, got, c.counts)
		}
	}
	for _, m := range []Mark{
		last, {self, 1 << 62, 0}, {self, 1, math.MaxUint64}, {self, 1, maxSeq + 1}, {self, uint64(base.Add(200 * 366 * 24 * time.Hour).Unix()), 0},
	} {
		r := record(peerA, 1, KindUnban, "192.0.2.0/24", 3600, seenAt(0), marks(m))
		var policy *PolicyError
		if err := g.Admit(base, tb, &r); !errors.As(err, &policy) || policy.Rule != RuleFuture {
			t.Errorf("mark %d.%d: %v", m.Epoch, m.Seq, err)
		}
	}
	// Whatever a peer may say can be lifted.
	edge := record(peerB, 1, KindBan, "192.0.2.9", 3600, seenAt(0))
	edge.Version = Version{uint64(base.Unix()) + maxEpochAhead, maxSeq, 0}
	if err := g.Admit(base, tb, &edge); err != nil {
		t.Fatal(err)
	}
	tb.Merge(base, single(edge))
	ops, err := tb.liftBans(base, edge.Prefix, "", "")
	if err != nil || len(ops) != 1 {
		t.Fatal(ops, err)
	}
	r := Record{Op: ops[0], Origin: peerA, Version: Version{1, 2, 0}, Issued: base}
	if err := g.Admit(base, tb, &r); err != nil {
		t.Error(err)
	}
	if edge.Version.Epoch++; g.Admit(base, tb, &edge) == nil {
		t.Error("a version further ahead than any mark was accepted")
	}
}

// Cancels took 2.1 kB each, and only their number was bounded.
func TestCancelsAreBounded(t *testing.T) {
	tb, g := newTable(t, Config{}), newAdmission(wideCaps, wideCaps.Allowance)
	var refused int
	say := func(r Record) {
		var policy *PolicyError
		switch err := g.Admit(base, tb, &r); {
		case err == nil:
			tb.Merge(base, single(r))
		case errors.As(err, &policy) && policy.Rule == RuleCancelMarks:
			refused++
		default:
			t.Fatal(err)
		}
	}
	for i := range 1000 { // one target: a cancel mark goes if another dominates it
		say(record(peerA, i+1, KindUnban, "192.0.2.7", 5000+i, seenAt(0), marks(upTo(peerB, uint64(i+1)))))
	}
	if n := tb.CancelMarksOf(peerA); n != 1 || refused != 0 {
		t.Fatalf("%d cancel marks at one target, %d refused", n, refused)
	}
	for i := range 1000 { // only so many stay that do not dominate each other
		say(record(peerA, i+2000, KindUnban, "192.0.2.8", 5000-i, seenAt(0), marks(upTo(peerB, uint64(i+1)))))
	}
	if n := tb.CancelMarksOf(peerA); n != 1+maxFront || refused != 1000-maxFront {
		t.Fatalf("%d cancel marks at two targets, %d refused", n, refused)
	}
	refused = 0
	before := heapBytes()
	for i := range MaxCancelMarks/MaxMarks + 10 {
		r := record(peerC, i+1, KindUnban, "192.0.2.0/24", 5000, seenAt(0), because(fmt.Sprint("reason ", i)))
		for j := range MaxMarks {
			r.Marks = append(r.Marks, upTo(origin(i*MaxMarks+j), 1))
		}
		say(r)
	}
	if n := tb.CancelMarksOf(peerC); n != MaxCancelMarks || refused != 10 {
		t.Errorf("%d cancel marks of one origin, %d refused", n, refused)
	}
	if each := (heapBytes() - before) / MaxCancelMarks; each > 256 {
		t.Errorf("a cancel mark takes %d bytes", each)
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
	drain(t, tb, tick(10_000))
	if c := tb.Counts(); c.Records != 0 || len(tb.parties.ids) != 0 {
		t.Errorf("left over: %+v, %d parties", c, len(tb.parties.ids))
	}
}

// Entries inside an unban or allow, of a peer or of this node, are examined in slices, and again when it ends. A fresh
// ban gets in between.
func TestLiftsGoInSlices(t *testing.T) {
	t.Parallel()
	const n = 10 * MaxTouch
	for _, c := range []struct {
		by   Origin
		kind Kind
	}{{peerA, KindAllow}, {peerA, KindUnban}, {self, KindAllow}, {self, KindUnban}} {
		kind := c.kind
		t.Run(fmt.Sprintf("%s, of this node: %v", kind, c.by == self), func(t *testing.T) {
			tb, kernel := newTable(t, Config{}), map[ruleKey]int64{}
			take := func(cs []Change) {
				if err := fold(kernel, cs); err != nil {
					t.Fatal(err)
				}
			}
			crowd(tb, peerB, n)
			maps.Copy(kernel, enforcedOf(tb))
			r := record(c.by, 1, kind, "2001:db8::/48", 60, seenAt(0))
			if kind == KindUnban {
				r.Marks = []Mark{upTo(peerB, n)}
			}
			looked, _ := counted(tb, func() { take(tb.Merge(base, single(r))) })
			if looked > 2*MaxTouch+2 || c.by != self && looked > MaxTouch+2 {
				t.Errorf("Merge looked at %d entries", looked)
			}
			fresh := record(peerC, 1, KindBan, "192.0.2.7", 90_000)
			looked, _ = counted(tb, func() { take(tb.Merge(base, single(fresh))) })
			if _, ok := kernel[ruleKey{fresh.Prefix, Ports{}}]; !ok || looked > MaxExpire+MaxTouch+1 {
				t.Errorf("a fresh ban is in the kernel: %v, after %d entries", ok, looked)
			}
			for _, now := range []int{1, 61} {
				for at, ok := tb.Next(); ok && !at.After(tick(now)); at, ok = tb.Next() {
					looked, _ := counted(tb, func() { take(tb.Expire(tick(now))) })
					if looked > MaxExpire {
						t.Fatalf("Expire looked at %d entries", looked)
					}
				}
				if want := map[int]int{1: 1, 61: n + 1}[now]; len(kernel) != want || !maps.Equal(kernel, enforcedOf(tb)) {
					t.Errorf("at %d the kernel holds %d, want %d", now, len(kernel), want)
				}
			}
			if err := sound(tb); err != nil {
				t.Error(err)
			}
		})
	}
}

// The never-ban list and this node's own withdrawal are applied in slices too.
func TestNeverAndOwnWithdrawalGoInSlices(t *testing.T) {
	const n = 4 * MaxTouch
	tb := newTable(t, Config{})
	crowd(tb, peerB, n)
	for _, c := range []struct {
		list []NeverEntry
		want int
	}{{[]NeverEntry{{pfx("2001:db8::/47"), "ours"}}, 0}, {nil, n}} {
		if looked, _ := counted(tb, func() { tb.SetNever(base, c.list) }); looked > MaxTouch+MaxExpire {
			t.Errorf("SetNever looked at %d entries", looked)
		}
		drain(t, tb, tick(1))
		if got := tb.Counts().Active; got != c.want {
			t.Errorf("%d count, want %d", got, c.want)
		}
	}
	for i := range 8 {
		tb.Merge(base, single(record(self, i+1, KindAllow, fmt.Sprintf("2001:db8::/%d", 40+i), 9999, seenAt(0))))
	}
	drain(t, tb, tick(1))
	withdraw(t, tb, self, 256)
	if got := tb.Counts().Active; got != n {
		t.Errorf("%d count after this node's allows are withdrawn, want %d", got, n)
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
}

// However many unbans without effect end, it costs nothing.
func TestEndsOfUnbansCostWhatChanges(t *testing.T) {
	tb := newTable(t, Config{})
	const bans, unbans = 1000, 2000
	for i := range unbans {
		tb.Merge(base, single(record(peerA, i+1, KindUnban, fmt.Sprintf("2001:db8::/%d", 48+i%64), 10+i/64, seenAt(0), marks(upTo(origin(i), 1)))))
	}
	crowd(tb, peerB, bans)
	looked, _ := counted(tb, func() { drain(t, tb, tick(3600)) })
	if looked != 0 {
		t.Errorf("looked at %d entries, none of which changed", looked)
	}
	if n := tb.Counts(); n.Active != bans || n.Records != bans {
		t.Errorf("%+v", n)
	}
}

// Random ops between the slices of a withdrawal and of its chores lead to the same state as all at once.
func TestSlicesAreAsGoodAsOneGo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		cfg := Config{Self: self, Limits: Limits{FutureSkew: 4 * time.Second}}
		sliced, whole, kernel := newTable(t, cfg), newTable(t, cfg), map[ruleKey]int64{}
		out := rapid.SampledFrom(someOrigins[1:]).Draw(rt, "withdrawn")
		records := anyRecords(rt, rapid.IntRange(1, 40).Draw(rt, "records"), 100)
		split := rapid.IntRange(0, len(records)).Draw(rt, "split")
		rest := records[split:]
		take := func(cs []Change) {
			if err := fold(kernel, cs); err != nil {
				rt.Fatal(err)
			}
		}
		take(sliced.Merge(base, records[:split]))
		for _, readmit := range []bool{false, true}[:rapid.IntRange(1, 2).Draw(rt, "passes")] {
			steps(rt, kernel, func(c uint32) ([]Change, uint32) {
				if len(rest) > 0 && rapid.Bool().Draw(rt, "between") {
					take(sliced.Merge(base, rest[:1]))
					rest = rest[1:]
				}
				n := rapid.IntRange(1, 3).Draw(rt, "slice")
				if readmit {
					return sliced.Readmit(out, c, n)
				}
				return sliced.Withdraw(out, Withdrawal{"revoked", base}, c, n)
			})
		}
		take(sliced.Merge(base, rest))
		if _, void := sliced.withdrawn[out]; void {
			for c, more := uint32(0), true; more; more = c != 0 {
				_, c = whole.Withdraw(out, Withdrawal{"revoked", base}, c, math.MaxInt)
			}
		}
		whole.Merge(base, records)
		if a, b := dump(sliced, false), dump(whole, false); a != b {
			rt.Fatalf("in slices\n%s\n--- at once\n%s", a, b)
		}
		if d := diffMaps(kernel, enforcedOf(sliced)); d != "" {
			rt.Fatal(d)
		}
		if err := sound(sliced); err != nil {
			rt.Fatal(err)
		}
	})
}

// Judging one unban or allow examined each of up to 1,250,000 entries inside it, under the lock.
func TestJudgingALiftIsBounded(t *testing.T) {
	t.Parallel()
	const n = MaxCounted + 1000
	allowance := Allowance{Rate: 1, Burst: 10 * n, Bulk: 100 * n}
	for _, c := range []struct {
		name string
		of   Origin // whose bans are in the table
		say  func(r *Record)
	}{
		{"its own bans", peerA, marks(upTo(peerA, n))},
		{"bans of others", peerB, marks(upTo(peerB, n))},
		{"an allow", peerB, func(r *Record) { r.Kind = KindAllow }},
	} {
		t.Run(c.name, func(t *testing.T) {
			caps := wideCaps
			caps.Allowance = allowance
			g, tb := newAdmission(caps, allowance), newTable(t, Config{})
			crowd(tb, c.of, n)
			for prefix, want := range map[string]Hold{"2001:db8::/48": HoldLift, "2001:db8::/118": HoldNone} {
				r := record(peerA, 1, KindUnban, prefix, 90_000, seenAt(0), c.say)
				looked, _ := counted(tb, func() {
					if err := g.Admit(base, tb, &r); err != nil || r.Hold != want {
						t.Errorf("%s: %v, %v; want %v", prefix, r.Hold, err, want)
					}
				})
				if looked > MaxCounted+2 {
					t.Errorf("%s: looked at %d entries", prefix, looked)
				}
			}
		})
	}
}

// A node could not take back more than MaxCancelMarks of its own bans one by one: peers refused the rest, and the
// command said that all were lifted. A revoke is now judged without examining any other entry.
func TestManyOwnBansAreTakenBackForNothing(t *testing.T) {
	t.Parallel()
	const n = MaxCancelMarks + 1000
	caps := wideCaps
	caps.Allowance = Allowance{Rate: 1, Burst: 1, Bulk: n}
	g, home, peer := newAdmission(caps, caps.Allowance), newTable(t, Config{}), newTable(t, Config{})
	crowd(home, self, n)
	crowd(peer, peerA, n) // the same bans: on its peer this node is peerA
	for i := range n {
		l, err := home.Lift(Op{Kind: KindUnban, Prefix: address6(i)}, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		l.OneOfMany = true
		var ops []Op
		for more := true; more; {
			var some []Op
			some, more = l.Next(base, 1)
			ops = append(ops, some...)
		}
		if len(ops) != 1 || ops[0].Kind != KindRevoke {
			t.Fatalf("%+v", ops)
		}
		r := Record{Op: ops[0], Origin: peerA, Version: Version{2, uint64(i + 1), 0}, Issued: base}
		looked, _ := counted(peer, func() {
			if err := g.Admit(base, peer, &r); err != nil || r.Hold != HoldNone {
				t.Fatalf("%d: %v, %v", i, r.Hold, err)
			}
			peer.Merge(base, single(r))
		})
		if looked > 1 {
			t.Fatalf("%d: looked at %d entries", i, looked)
		}
	}
	if c := peer.Counts(); c.Active != 0 || peer.CancelMarksOf(peerA) != 0 {
		t.Errorf("%+v, %d marks", c, peer.CancelMarksOf(peerA))
	}
	// If others ban it too, a mark lifts both.
	home.Merge(base, single(record(peerB, 1, KindBan, address6(0).String(), 90_000)))
	l, _ := home.Lift(Op{Kind: KindUnban, Prefix: address6(0)}, 0, 0)
	l.OneOfMany = true
	l.Next(base, 10)
	if ops, _ := l.Next(base, 10); len(ops) != 1 || ops[0].Kind != KindUnban || len(ops[0].Marks) != 2 {
		t.Errorf("%+v", ops)
	}
}

// A waiting prefix inside a wider one that is partly examined is examined once more if it changes.
func TestChoreAskedForTwice(t *testing.T) {
	tb := newTable(t, Config{})
	one, two := record(peerA, 1, KindBan, "192.0.2.1", 60), record(peerA, 2, KindBan, "192.0.2.200", 60)
	tb.Merge(base, []Record{one, two})
	c := cause{origin: peerB}
	tb.chore(&tb.bans, keyOf(pfx("192.0.2.0/24")), c)
	tb.chore(&tb.bans, keyOf(one.Prefix), c)
	tb.work(1) // examines the first entry
	lift := record(peerB, 1, KindUnban, "192.0.2.1", 90, marks(upTo(peerA, 2)))
	tb.merge(&lift)
	tb.work(MaxTouch)
	tb.finish(nil)
	if got := enforcedOf(tb); len(got) != 1 {
		t.Errorf("enforces %v, want %v alone", got, two.Prefix)
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
}
