package ban

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func held(h Hold) func(*Record) { return func(r *Record) { r.Hold = h } }

// only returns the single change in cs.
func only(t *testing.T, cs []Change) Change {
	t.Helper()
	if len(cs) != 1 {
		t.Fatalf("%d changes: %+v", len(cs), cs)
	}
	return cs[0]
}

func TestHeldWaitsForTheOperator(t *testing.T) {
	tb := newTable(t, Config{})
	r := record(peerA, 1, KindBan, "192.0.2.7", 60, held(HoldBreaker))
	if c := only(t, tb.Merge(base, single(r))); c.Event != EventHeld || c.Enforce || !c.Until.Equal(tick(60)) {
		t.Errorf("held: %+v", c)
	}
	if _, dropped := tb.Lookup(r.Prefix); dropped || tb.Counts().Held != 1 {
		t.Errorf("enforced: %+v", tb.Counts())
	}
	for range tb.RemoteBans(base, r.Prefix.Addr()) {
		t.Error("a line about a held address counts as an echo")
	}
	if f := tb.Why(r.Prefix)[0]; !strings.Contains(f.Status, "breaker") {
		t.Errorf("why: %+v", f)
	}
	own := record(self, 1, KindBan, "192.0.2.7", 30)
	if c := only(t, tb.Merge(base, single(own))); c.Event != EventBan || !c.Until.Equal(tick(30)) {
		t.Errorf("own ban of a held address: %+v", c)
	}
	if cs := tb.Expire(tick(30)); !only(t, cs).Lift || tb.Counts().Held != 1 {
		t.Errorf("when the own ban ends: %+v %+v", cs, tb.Counts())
	}
	rs, next := tb.HeldBefore(0, 10)
	if len(rs) != 1 || next != 0 || rs[0].Origin != peerA || rs[0].Hold != HoldBreaker {
		t.Fatalf("%+v %d", rs, next)
	}
	rs[0].Hold = HoldNone
	if c := only(t, tb.Merge(tick(31), rs)); c.Event != EventBan || !c.Enforce || !c.Until.Equal(tick(60)) {
		t.Errorf("released: %+v", c)
	}
	if cs := tb.Merge(tick(31), single(r)); cs != nil {
		t.Errorf("held again when it arrived again: %+v", cs)
	}
}

func TestDroppedNeverCounts(t *testing.T) {
	tb := newTable(t, Config{})
	r := record(peerA, 1, KindBan, "192.0.2.7", 60, held(HoldRate))
	tb.Merge(base, single(r))
	r.Hold = HoldDropped
	if c := only(t, tb.Merge(base, single(r))); c.Event != EventUnban || c.Enforce {
		t.Errorf("dropped: %+v", c)
	}
	for _, h := range []Hold{HoldNone, HoldRate, HoldBreaker} {
		r.Hold = h
		if cs := tb.Merge(base, single(r)); cs != nil {
			t.Errorf("came back as %v: %+v", h, cs)
		}
	}
	if c := tb.Counts(); c.Held+c.Active != 0 || c.Records != 1 {
		t.Errorf("%+v", c)
	}
	if f := tb.Why(r.Prefix)[0]; !strings.Contains(f.Status, "dropped") {
		t.Errorf("why: %+v", f)
	}
	later := record(peerA, 2, KindBan, "192.0.2.7", 60) // a later ban counts again, as after an unban
	if c := only(t, tb.Merge(base, single(later))); !c.Enforce {
		t.Errorf("later: %+v", c)
	}
}

// A walk that decides ends even though the list shrinks under it and grows behind it.
func TestHeldBeforeWalksAll(t *testing.T) {
	tb := newTable(t, Config{})
	seq := 0
	hold := func(n int) {
		for range n {
			seq++
			tb.Merge(base, single(record(peerA, seq, KindBan, fmt.Sprintf("11.0.%d.%d", seq>>8, seq&255), 60, held(HoldRate))))
		}
	}
	hold(1000)
	calls := 0
	for cursor, more := 0, true; more; more = cursor != 0 {
		var rs []Record
		rs, cursor = tb.HeldBefore(cursor, 64)
		for i := range rs {
			rs[i].Hold = Hold(i % 2 * int(HoldDropped))
		}
		tb.Merge(base, rs)
		hold(3)
		if calls++; calls > 100 {
			t.Fatal("does not end")
		}
		if err := sound(tb); err != nil {
			t.Fatal(err)
		}
	}
	for rs, _ := tb.HeldBefore(0, 5000); len(rs) > 0; rs = nil {
		for _, r := range rs {
			if r.Version.Seq <= 1000 {
				t.Fatalf("forgotten: %+v", r)
			}
		}
	}
}

// One origin filled the room for what waits, and ops of honest origins that had to be held were refused.
func TestNobodyTakesTheRoomOfOthers(t *testing.T) {
	t.Parallel()
	caps := wideCaps
	caps.Allowance = Allowance{Rate: 1, Burst: 1, Bulk: 1} // nearly all is held
	g, tb := newAdmission(caps, caps.Allowance), newTable(t, Config{})
	crowd(tb, self, 10)
	seq := 0
	flood := func(o Origin, kind Kind) (waiting int) {
		for {
			seq++
			r := Record{
				Op:     Op{Kind: kind, Prefix: address6(seq), Until: tick(90_000)},
				Origin: o, Version: Version{1, uint64(seq), 0}, Issued: base,
			}
			if kind == KindUnban {
				r.Prefix, r.Marks = pfx("2001:db8::/48"), []Mark{upTo(self, uint64(seq))}
			}
			var policy *PolicyError
			if err := g.Admit(base, tb, &r); errors.As(err, &policy) && policy.Rule == RuleHeldFull {
				return tb.WaitingOf(o)
			} else if err != nil {
				t.Fatal(err)
			}
			tb.Merge(base, single(r))
		}
	}
	if n := flood(peerB, KindUnban); n != MaxHeldOf/(liftRoom+1) {
		t.Errorf("%d unbans of one origin wait, want %d", n, MaxHeldOf/(liftRoom+1))
	}
	last := MaxHeldOf
	for i := range 12 {
		n := flood(origin(i), KindBan)
		if left := MaxHeld - tb.held.all; n == 0 || n > last || n < min(MaxHeldOf, left-1) {
			t.Errorf("%d bans of origin %d wait, %d of the one before, there is room for %d more", n, i, last, left)
		}
		last = n
	}
	rs, _ := tb.HeldBefore(0, MaxHeld)
	for i := range rs {
		rs[i].Hold = HoldNone
	}
	tb.Merge(base, rs)
	if n := flood(peerC, KindBan); n != MaxHeldOf {
		t.Errorf("%d bans wait once there is room, want %d", n, MaxHeldOf)
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
}
