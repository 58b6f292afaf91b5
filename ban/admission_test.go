package ban

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// wideCaps bound nothing in practice, so that a test sets only the bounds that it is about.
var wideCaps = Caps{Allowance: Allowance{Rate: 1e6, Burst: 1e6, Bulk: 1e6}, Active: 1e6, UnbanAny: true, Import: true}

func newAdmission(caps Caps, breaker Allowance) *Admission {
	return NewAdmission(AdmissionConfig{Self: self, Caps: func(Origin) Caps { return caps }, Breaker: breaker})
}

// admit passes n new bans of o, issued now, through the admission and returns how many got each hold.
func admit(t *testing.T, g *Admission, tb *Table, now time.Time, o Origin, n int, more ...func(*Record)) map[Hold]int {
	t.Helper()
	out := map[Hold]int{}
	for range n {
		i := tb.RecordsOf(o)
		r := Record{
			Op:     Op{Kind: KindBan, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, o[0], byte(i >> 8), byte(i)}), 32), Until: now.Add(time.Hour)},
			Origin: o, Version: Version{1, uint64(i + 1), 0}, Issued: now,
		}
		for _, m := range more {
			m(&r)
		}
		if err := g.Admit(now, tb, &r); err != nil {
			t.Fatal(err)
		}
		out[r.Hold]++
		tb.Merge(now, single(r))
	}
	if err := sound(tb); err != nil {
		t.Fatal(err)
	}
	return out
}

func of(source string) func(*Record) { return func(r *Record) { r.Source = source } }

func TestAdmissionHoldsWhatExceeds(t *testing.T) {
	tight := Allowance{Rate: 60, Burst: 10, Bulk: 30}
	few := wideCaps
	few.Active = 25
	slow := wideCaps
	slow.Allowance = tight
	plain := slow
	plain.Import = false
	for _, c := range []struct {
		name    string
		caps    Caps
		breaker Allowance
		free    int // how many of 100 at once count
		hold    Hold
		more    []func(*Record)
	}{
		{"ok: nothing exceeds", wideCaps, wideCaps.Allowance, 100, HoldNone, nil},
		{"bad: rate of the origin", slow, wideCaps.Allowance, 10, HoldRate, nil},
		{"bad: active bans of the origin", few, wideCaps.Allowance, 25, HoldActive, nil},
		{"bad: breaker", wideCaps, tight, 10, HoldBreaker, nil},
		{"bad: lists of the origin", slow, wideCaps.Allowance, 30, HoldRate, []func(*Record){of(SourceImport)}},
		{"bad: lists, breaker", wideCaps, tight, 30, HoldBreaker, []func(*Record){of(SourceImport)}},
		{"bad: lists of an origin that may not import", plain, wideCaps.Allowance, 10, HoldRate, []func(*Record){of(SourceImport)}},
		{"ok: and yet what comes late counts as bulk", plain, wideCaps.Allowance, 30, HoldRate, []func(*Record){func(r *Record) { r.Issued = base.Add(-lateAfter - time.Second) }}},
		{"bad: what comes late counts as bulk", slow, wideCaps.Allowance, 30, HoldRate, []func(*Record){func(r *Record) { r.Issued = base.Add(-lateAfter - time.Second) }}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, tb := newAdmission(c.caps, c.breaker), newTable(t, Config{})
			got := admit(t, g, tb, base, peerA, 100, c.more...)
			if got[HoldNone] != c.free || got[c.hold] != 100-c.free && c.hold != HoldNone {
				t.Errorf("%v", got)
			}
			if n := tb.Counts(); n.Active != c.free || n.Held != 100-c.free {
				t.Errorf("%+v", n)
			}
			op := Op{Kind: KindBan, Prefix: pfx("192.0.2.9"), Until: tick(60)}
			own := Record{Op: op, Origin: self, Version: Version{1, 1, 0}, Issued: base}
			if err := g.Admit(base, tb, &own); err != nil || own.Hold != HoldNone {
				t.Errorf("this node's own ban: %v, %v", own.Hold, err)
			}
		})
	}
}

func TestAdmissionRefillsAndTellsOriginsApart(t *testing.T) {
	caps := wideCaps
	caps.Allowance = Allowance{Rate: 60, Burst: 10, Bulk: 10}
	g, tb := newAdmission(caps, wideCaps.Allowance), newTable(t, Config{})
	if got := admit(t, g, tb, base, peerA, 15); got[HoldRate] != 5 {
		t.Errorf("at once: %v", got)
	}
	if got := admit(t, g, tb, base, peerB, 10); got[HoldNone] != 10 {
		t.Errorf("another origin pays for the first: %v", got)
	}
	if got := admit(t, g, tb, tick(3), peerA, 5); got[HoldNone] != 3 {
		t.Errorf("3 s later: %v", got)
	}
	if got := admit(t, g, tb, tick(600), peerA, 15); got[HoldNone] != 10 {
		t.Errorf("10 min later: %v", got)
	}
	g.SetBreaker(Allowance{Rate: 1, Burst: 1, Bulk: 1})
	if got := admit(t, g, tb, tick(601), peerC, 5); got[HoldBreaker] != 5 {
		t.Errorf("a tighter breaker counts what was used before: %v", got)
	}
}

// A refresh is not growth; otherwise a long attack would use up what its origin may say about a new one.
func TestAdmissionLetsRefreshesPass(t *testing.T) {
	caps := wideCaps
	caps.Allowance = Allowance{Rate: 1, Burst: 2, Bulk: 1}
	caps.Active = 2
	g, tb := newAdmission(caps, wideCaps.Allowance), newTable(t, Config{})
	admit(t, g, tb, base, peerA, 2)
	for i := range 50 {
		r := record(peerA, 100+i, KindBan, "11.161.0.0", 9999)
		if err := g.Admit(base, tb, &r); err != nil || r.Hold != HoldNone {
			t.Fatalf("refresh %d: %v, %v", i, r.Hold, err)
		}
		tb.Merge(base, single(r))
	}
}

func TestAdmissionRefuses(t *testing.T) {
	caps := wideCaps
	caps.MinBits4, caps.MinBits6, caps.MaxFor, caps.UnbanAny = 28, 64, time.Hour, false
	for _, c := range []struct {
		name string
		r    Record
		rule string // "" = admitted
	}{
		{"ok: in bounds", record(peerA, 1, KindBan, "192.0.2.0/28", 3600), ""},
		{"bad: too wide for its origin", record(peerA, 1, KindBan, "192.0.2.0/27", 60), RuleWide},
		{"bad: too wide, IPv6", record(peerA, 1, KindBan, "2001:db8::/63", 60), RuleWide},
		{"bad: too long for its origin", record(peerA, 1, KindBan, "192.0.2.0/28", 3600+301+1), RuleLong},
		{"bad: unban of others", record(peerA, 1, KindUnban, "192.0.2.7", 60, marks(upTo(peerB, 1))), RuleOthers},
		{"bad: allow", record(peerA, 1, KindAllow, "192.0.2.7", 60), RuleOthers},
		{"ok: takes its own back", record(peerA, 1, KindRevoke, "192.0.2.7", 60), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, tb := newAdmission(caps, wideCaps.Allowance), newTable(t, Config{})
			var policy *PolicyError
			switch err := g.Admit(base, tb, &c.r); {
			case c.rule == "" && err != nil:
				t.Error(err)
			case c.rule != "" && (!errors.As(err, &policy) || policy.Rule != c.rule):
				t.Errorf("got %v, want %q", err, c.rule)
			}
		})
	}
	t.Run("ok: of an unban the own mark stays", func(t *testing.T) {
		r := record(peerA, 1, KindUnban, "192.0.2.7", 60, marks(upTo(peerA, 3), upTo(peerB, 4)))
		if err := newAdmission(caps, wideCaps.Allowance).Admit(base, newTable(t, Config{}), &r); err != nil || len(r.Marks) != 1 || r.Marks[0] != upTo(peerA, 3) {
			t.Errorf("%v, %v", r.Marks, err)
		}
	})
}

func TestAdmissionForeseesWhatPeersDo(t *testing.T) {
	caps := Caps{Allowance: Allowance{Rate: 1, Burst: 2, Bulk: 3}, Active: 100, UnbanAny: true, Import: true}
	g, tb := newAdmission(caps, wideCaps.Allowance), newTable(t, Config{})
	rules := map[string]int{}
	for i := range 10 {
		for _, source := range []string{"line", SourceImport} {
			err := g.Foresee(base, tb, Op{Kind: KindBan, Prefix: pfx(fmt.Sprintf("192.0.2.%d", i)), Until: tick(60), Source: source})
			var policy *PolicyError
			if errors.As(err, &policy) {
				rules[source+" "+policy.Rule]++
			}
		}
	}
	if rules["line "+RuleRate] != 8 || rules["import "+RuleRate] != 7 {
		t.Errorf("%v", rules)
	}
	var policy *PolicyError
	if err := g.Foresee(base, tb, Op{Kind: KindBan, Prefix: pfx("192.0.0.0/16"), Until: tick(60)}); !errors.As(err, &policy) || policy.Rule != RuleWide {
		t.Errorf("%v", err)
	}
}

// However many origins there are, the buckets stay bounded, and an origin without a bucket of its own is still held to
// a rate.
func TestAdmissionBoundsItsBuckets(t *testing.T) {
	caps := wideCaps
	caps.Allowance = Allowance{Rate: 60, Burst: 5, Bulk: 1}
	g, tb := newAdmission(caps, Allowance{Rate: 1e9, Burst: 1e9, Bulk: 1}), newTable(t, Config{})
	held := 0
	for i := range 2 * MaxOrigins {
		o := Origin{1, byte(i >> 16), byte(i >> 8), byte(i)}
		r := record(o, 1, KindBan, "192.0.2.7", 60)
		if err := g.Admit(base, tb, &r); err != nil {
			t.Fatal(err)
		}
		if r.Hold == HoldRate {
			held++
		}
	}
	if len(g.origins) != MaxOrigins || held != MaxOrigins-5 {
		t.Errorf("%d buckets, %d held", len(g.origins), held)
	}
}

// Ops other than bans are held to a rate too, because allows and unbans would fill the memory otherwise. An op that
// takes back a ban always counts.
func TestAdmissionBoundsWhatIsNoBan(t *testing.T) {
	t.Parallel()
	g, tb := newAdmission(wideCaps, wideCaps.Allowance), newTable(t, Config{})
	tb.Merge(base, single(record(peerA, 1, KindBan, "192.0.2.7", 60)))
	for i := range MaxOthers {
		r := record(peerA, i+2, []Kind{KindAllow, KindUnban, KindRevoke}[i%3], "192.0.2.8", 9999, seenAt(0))
		if r.Kind == KindUnban {
			r.Marks = []Mark{upTo(peerB, 1)}
		}
		if err := g.Admit(base, tb, &r); err != nil {
			t.Fatalf("op %d: %v", i, err)
		}
	}
	more := record(peerA, MaxOthers+2, KindAllow, "192.0.2.9", 9999, seenAt(0))
	var policy *PolicyError
	if err := g.Admit(base, tb, &more); !errors.As(err, &policy) || policy.Rule != RuleRate {
		t.Errorf("one more: %v", err)
	}
	other := more
	other.Origin = peerB
	if err := g.Admit(base, tb, &other); err != nil {
		t.Errorf("of another origin: %v", err)
	}
	back := record(peerA, MaxOthers+3, KindRevoke, "192.0.2.7", 60, seenAt(0))
	if err := g.Admit(base, tb, &back); err != nil {
		t.Errorf("a ban that is taken back: %v", err)
	}
	more.Issued = tick(60)
	if err := g.Admit(tick(60), tb, &more); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

// An unban could cancel, on this node itself, bans that this node was about to make: its mark lay above everything that
// the node had said.
func TestNobodyLiftsWhatThisNodeHasNotSaid(t *testing.T) {
	tb := newTable(t, Config{})
	g := NewAdmission(AdmissionConfig{
		Self: self, Authority: peerC, Caps: func(Origin) Caps { return wideCaps }, Breaker: wideCaps.Allowance,
		Last: func() (epoch, seq uint64) { return 7, 5 },
	})
	for _, c := range []struct {
		name string
		by   Origin
		mark Mark
		ok   bool
	}{
		{"ok: the last frame", peerA, Mark{self, 7, 5}, true},
		{"ok: an earlier start", peerA, Mark{self, 6, 900}, true},
		{"ok: another origin", peerA, Mark{peerB, 9, 9}, true},
		{"ok: this node itself, read back", self, Mark{self, 7, 6}, true},
		{"bad: the next frame", peerA, Mark{self, 7, 6}, false},
		{"bad: a later start", peerA, Mark{self, 8, 0}, false},
		{"bad: of the authority", peerC, Mark{self, 7, 6}, false},
	} {
		for _, kind := range []Kind{KindUnban, KindUnallow} {
			for what, judge := range map[string]func(time.Time, *Table, *Record) error{"Admit": g.Admit, "Check": g.Check} {
				r := record(c.by, 1, kind, "192.0.2.0/24", 3600, seenAt(0), marks(c.mark))
				err := judge(base, tb, &r)
				var policy *PolicyError
				if c.ok != (err == nil) || err != nil && (!errors.As(err, &policy) || policy.Rule != RuleFuture) {
					t.Errorf("%s, %s, %s: %v", c.name, kind, what, err)
				}
			}
		}
	}
	// The same holds if it is one of many marks.
	r := record(peerA, 1, KindUnban, "192.0.2.0/24", 3600, seenAt(0), marks(Mark{self, 7, 6}, Mark{peerB, 1, 1}))
	if g.Admit(base, tb, &r) == nil {
		t.Error("a mark above the last frame passes among others")
	}
}
