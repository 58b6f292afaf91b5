package ban

import (
	"fmt"
	"testing"
	"time"
)

// In these tests an origin keeps to the letter of its bounds and evades their purpose.

// After a restart, when the frames come back from the disk, ops counted that the admission had refused for their
// number: one origin had 2,048 allows in force, and 1,024 on a node that had not restarted.
func TestNumbersHoldAfterARestart(t *testing.T) {
	few := wideCaps
	few.Active = 50
	for _, c := range []struct {
		name string
		caps Caps
		op   func(i int) Record
		most int
		in   func(*Table) int
	}{
		{"allows", wideCaps, func(i int) Record {
			return record(peerA, i, KindAllow, fmt.Sprintf("198.18.%d.%d", i>>8, i&255), 3600)
		}, MaxAllows, func(tb *Table) int { return tb.AllowsOf(peerA) }},
		{"revokes of what was never banned", few, func(i int) Record {
			return record(peerA, i, KindRevoke, fmt.Sprintf("198.18.%d.%d", i>>8, i&255), 3600)
		}, 50, func(tb *Table) int { return tb.RecordsOf(peerA) }},
		{"marks", wideCaps, func(i int) Record {
			return record(peerA, i, KindUnban, "198.18.0.0/24", 3600+i, marks(upTo(peerB, uint64(5000-i))))
		}, maxFront, func(tb *Table) int { return tb.CancelMarksOf(peerA) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, restart := range []bool{false, true} {
				g, tb := newAdmission(c.caps, wideCaps.Allowance), newTable(t, Config{})
				judge := g.Admit
				if restart {
					judge = g.Check
				}
				for i := range 2 * c.most {
					r := c.op(i + 1)
					r.Issued = base
					if judge(base, tb, &r) == nil {
						tb.Merge(base, single(r))
					}
				}
				if n := c.in(tb); n != c.most {
					t.Errorf("restart %v: %d count, want %d", restart, n, c.most)
				}
			}
		})
	}
}

// An unban that only changed the words of an earlier one had all entries inside examined again, and paid nothing.
func TestOtherWordsCostNothing(t *testing.T) {
	const crowded = 256
	caps := wideCaps
	caps.Allowance = Allowance{Rate: 1, Burst: crowded, Bulk: crowded}
	g, tb := newAdmission(caps, wideCaps.Allowance), newTable(t, Config{})
	crowd(tb, peerB, crowded)
	looked, _ := counted(tb, func() {
		for i := range 100 {
			r := record(peerA, i+1, KindUnban, "2001:db8::/48", 3600, marks(upTo(peerB, 10)), because(fmt.Sprintf("%03d", i)))
			r.Issued = base
			if err := g.Admit(base, tb, &r); err != nil || r.Hold != HoldNone {
				t.Fatal(i, err, r.Hold)
			}
			tb.Merge(base, single(r))
		}
	})
	if most := uint64(2*crowded + 100); looked > most {
		t.Errorf("%d entries were looked at, at most %d", looked, most)
	}
	if n := tb.Counts().Active; n != 0 {
		t.Errorf("%d bans count", n)
	}
}

// An unban of a prefix in which nothing is banned yet cancels what is banned there next, within the clock skew. It cost
// nothing, so one origin could keep the bans of all others in any number of prefixes from ever counting.
func TestUnbansAheadAreBounded(t *testing.T) {
	const burst = 100
	caps := wideCaps
	caps.Allowance = Allowance{Rate: 60, Burst: burst, Bulk: burst}
	g, tb := newAdmission(caps, wideCaps.Allowance), newTable(t, Config{})
	counts := 0
	for i := range 10 * burst {
		ms := []Mark{upTo(peerB, maxSeq)}
		if i%2 == 0 { // adding a mark of its own does not help
			ms = []Mark{upTo(peerA, 1), upTo(peerB, maxSeq)}
		}
		r := record(peerA, i+1, KindUnban, fmt.Sprintf("198.18.%d.%d", i>>8, i&255), 86_400, marks(ms...))
		r.Issued = base.Add(5 * time.Minute)
		if err := g.Admit(base, tb, &r); err != nil {
			t.Fatal(err)
		}
		if r.Hold == HoldNone {
			counts++
		}
		tb.Merge(base, single(r))
	}
	if counts != burst {
		t.Errorf("%d unbans of nothing count, want %d", counts, burst)
	}
}

// Bans with ports, repeated with another end each time, sent 1,024 elements to the kernel each time and paid nothing:
// one origin could keep every node's kernel busy for as long as it liked.
func TestRefreshesOfPortsAreBounded(t *testing.T) {
	g, tb := newAdmission(wideCaps, wideCaps.Allowance), newTable(t, Config{})
	const bans = 100
	elements, refused := 0, 0
	for i := range 2 * MaxSaidElements / MaxPortElements {
		r := record(peerA, i+1, KindBan, fmt.Sprintf("198.18.0.%d", i%bans), 3600+i%7, onPorts("1-512"))
		r.Issued = base
		if err := g.Admit(base, tb, &r); err != nil {
			refused++
			continue
		}
		for _, c := range tb.Merge(base, single(r)) {
			if c.Enforce {
				elements += c.Ports.Elements()
			}
		}
	}
	if elements > MaxSaidElements || refused == 0 {
		t.Errorf("the kernel takes %d elements, at most %d; %d refused", elements, MaxSaidElements, refused)
	}
	if n := tb.Counts(); n.Active != bans || n.Held != 0 {
		t.Errorf("an earlier ban is no longer in force: %+v", n)
	}
	again := record(peerA, 1<<20, KindBan, "198.18.0.1", 9000, onPorts("1-512"))
	again.Issued = tick(3600)
	if err := g.Admit(tick(3600), tb, &again); err != nil {
		t.Errorf("an hour later: %v", err)
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
}

// One origin's bans with ports took all the room that the kernel has for those of peers, so that no other origin's
// counted.
func TestNoOriginTakesAllRoomForPorts(t *testing.T) {
	g, tb := newAdmission(wideCaps, wideCaps.Allowance), newTable(t, Config{})
	say := func(o Origin, i int, k Kind) Hold {
		r := record(o, i, k, fmt.Sprintf("198.18.%d.%d", i>>8, i&255), 36000+i, onPorts("1-512"))
		r.Issued, r.Version.Index = base, uint16(k)          // a revoke comes after its ban
		now := base.Add(time.Duration(i) * 10 * time.Second) // no faster than its allowance
		if err := g.Admit(now, tb, &r); err != nil {
			t.Fatal(err)
		}
		tb.Merge(now, single(r))
		return r.Hold
	}
	const most = MaxHeldElements / MaxPortElements
	for i := range 2 * most {
		want := HoldNone
		if i >= most {
			want = HoldActive
		}
		if h := say(peerA, i+1, KindBan); h != want {
			t.Fatalf("ban %d: %v", i, h)
		}
		if i == most-1 {
			if h := say(peerB, 1, KindBan); h != HoldNone {
				t.Fatalf("a ban of another: %v", h)
			}
			say(peerA, 1, KindRevoke)
			if h := say(peerA, 2*most+1, KindBan); h != HoldNone {
				t.Fatalf("in place of the withdrawn bans: %v", h)
			}
		}
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
}

// Lifts that the operator had dropped still took room from what waits, for up to 30 days. Hardly any more ops were held
// and the rest was refused, although nothing was shown as waiting.
func TestDroppedLiftsTakeNoRoom(t *testing.T) {
	caps := wideCaps
	caps.Allowance = Allowance{Rate: 1, Burst: 1, Bulk: 1}
	g, tb := newAdmission(caps, wideCaps.Allowance), newTable(t, Config{})
	seq := 0
	fill := func() int {
		for {
			seq++
			r := record(peerA, seq, KindUnban, fmt.Sprintf("198.%d.%d.%d", seq>>16, seq>>8&255, seq&255), 86_400, marks(upTo(peerB, 1)))
			r.Issued = base
			if g.Admit(base, tb, &r) != nil {
				return tb.Waiting()
			}
			tb.Merge(base, single(r))
		}
	}
	first := fill()
	for cursor, more := 0, true; more; more = cursor != 0 {
		var rs []Record
		rs, cursor = tb.HeldBefore(cursor, 256)
		for i := range rs {
			rs[i].Hold = HoldDropped
		}
		tb.Merge(base, rs)
	}
	if n := tb.Waiting(); n != 0 {
		t.Fatalf("%d wait", n)
	}
	if second := fill(); second != first {
		t.Errorf("%d are held, and %d once these are dropped", first, second)
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
}
