package ban

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// say formats changes briefly: event, prefix, ports, end in ticks, origin, and + or - for the kernel.
func say(cs []Change) string {
	var out []string
	for _, c := range cs {
		s := fmt.Sprintf("%v %v", c.Event, shortPrefix(c.Prefix))
		if !c.Ports.IsAll() {
			s += " " + c.Ports.String()
		}
		if !c.Until.IsZero() {
			s += fmt.Sprintf(" %d", c.Until.Sub(base)/time.Second)
		}
		s += " " + map[Origin]string{self: "self", peerA: "A", peerB: "B", peerC: "C"}[c.Origin]
		if c.Local != (c.Origin == self) {
			s += " not local"
		}
		if c.Enforce {
			s += " +"
		}
		if c.Lift {
			s += " -"
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

// A step merges records at a time or sets the never-ban list, and names the expected changes.
type step struct {
	at    int
	rs    []Record
	never []NeverEntry
	want  string
}

func TestChanges(t *testing.T) {
	const addr, net24 = "192.0.2.7", "192.0.2.0/24"
	ban := func(o Origin, seq, until int, more ...func(*Record)) Record {
		return record(o, seq, KindBan, addr, until, more...)
	}
	r := func(rs ...Record) []Record { return rs }
	tests := []struct {
		name   string
		quorum int
		steps  []step
	}{
		{"ok: ban, refresh, expiry", 1, []step{
			{0, r(ban(peerA, 1, 60)), nil, "ban 192.0.2.7 60 A +"},
			{0, r(ban(peerA, 1, 60)), nil, ""},
			{9, r(ban(peerA, 2, 90)), nil, "refresh 192.0.2.7 90 A +"},
			{60, nil, nil, ""},
			{89, nil, nil, ""},
			{90, nil, nil, "expire 192.0.2.7 90 A -"},
		}},
		{"ok: our own ban is local", 1, []step{
			{0, r(ban(self, 1, 60)), nil, "ban 192.0.2.7 60 self +"},
		}},
		{"ok: ports are entries of their own", 1, []step{
			{0, r(ban(peerA, 1, 60, onPorts("22/tcp")), ban(peerA, 2, 50)), nil, "ban 192.0.2.7 22/tcp 60 A +; ban 192.0.2.7 50 A +"},
			{0, r(record(peerA, 3, KindRevoke, addr, 60)), nil, "unban 192.0.2.7 50 A -"},
			{60, nil, nil, "expire 192.0.2.7 22/tcp 60 A -"},
		}},
		{"ok: an older version changes nothing", 1, []step{
			{0, r(ban(peerA, 2, 60)), nil, "ban 192.0.2.7 60 A +"},
			{0, r(ban(peerA, 1, 90)), nil, ""},
			{60, nil, nil, "expire 192.0.2.7 60 A -"},
			{60, r(ban(peerA, 1, 90)), nil, ""},
		}},
		{"ok: a newer version shortens", 1, []step{
			{0, r(ban(peerA, 1, 90)), nil, "ban 192.0.2.7 90 A +"},
			{0, r(ban(peerA, 2, 60)), nil, "refresh 192.0.2.7 60 A +"},
			{60, nil, nil, "expire 192.0.2.7 60 A -"},
			{60, r(ban(peerA, 1, 90)), nil, ""},
		}},
		{"ok: the index orders ops of one frame", 1, []step{
			{0, r(ban(peerA, 1, 60, atIndex(1)), ban(peerA, 1, 90)), nil, "ban 192.0.2.7 60 A +"},
		}},
		{"ok: two bans of one batch make one change", 1, []step{
			{0, r(ban(peerA, 1, 60), ban(peerB, 1, 90)), nil, "ban 192.0.2.7 90 A +"},
		}},
		{"ok: ban and unban of one batch make none", 1, []step{
			{0, r(ban(peerA, 1, 60), record(peerB, 1, KindUnban, addr, 99, marks(upTo(peerA, 1)))), nil, ""},
		}},
		{"ok: the longest of two counts, and the shorter one goes unseen", 1, []step{
			{0, r(ban(peerA, 1, 60)), nil, "ban 192.0.2.7 60 A +"},
			{0, r(ban(peerB, 1, 90)), nil, "refresh 192.0.2.7 90 B +"},
			{0, r(ban(peerC, 1, 70)), nil, ""},
			{60, nil, nil, ""},
			{80, r(record(peerB, 2, KindRevoke, addr, 95)), nil, "unban 192.0.2.7 90 B -"},
		}},
		{"ok: a revoke uncovers the shorter one", 1, []step{
			{0, r(ban(peerA, 1, 60), ban(peerB, 1, 90)), nil, "ban 192.0.2.7 90 A +"},
			{0, r(record(peerB, 2, KindRevoke, addr, 95)), nil, "refresh 192.0.2.7 60 B +"},
			{0, r(record(peerA, 2, KindRevoke, addr, 65)), nil, "unban 192.0.2.7 60 A -"},
			{0, r(ban(peerA, 3, 70)), nil, "ban 192.0.2.7 70 A +"},
		}},
		{"ok: a revoke that comes first", 1, []step{
			{0, r(record(peerA, 2, KindRevoke, addr, 65)), nil, ""},
			{0, r(ban(peerA, 1, 60)), nil, ""},
		}},
		{"ok: unban cancels what it knew, of everyone, with any ports", 1, []step{
			{0, r(ban(peerA, 1, 60), ban(peerB, 4, 90), ban(peerB, 5, 50, onPorts("22"))), nil, "ban 192.0.2.7 90 A +; ban 192.0.2.7 22 50 B +"},
			{0, r(record(peerC, 1, KindUnban, net24, 95, marks(upTo(peerA, 1), upTo(peerB, 4)))), nil, "unban 192.0.2.7 90 C -"},
			{0, r(record(peerC, 2, KindUnban, net24, 95, marks(upTo(peerB, 5)))), nil, "unban 192.0.2.7 22 50 C -"},
			{0, r(ban(peerA, 2, 70)), nil, "ban 192.0.2.7 70 A +"},
		}},
		{"ok: unban comes before the ban", 1, []step{
			{0, r(record(peerC, 1, KindUnban, addr, 95, marks(upTo(peerA, 3)))), nil, ""},
			{0, r(ban(peerA, 3, 60)), nil, ""},
			{0, r(ban(peerA, 4, 60)), nil, "ban 192.0.2.7 60 A +"},
		}},
		{"ok: unban of one address leaves the wider ban", 1, []step{
			{0, r(record(peerA, 1, KindBan, net24, 60), ban(peerA, 2, 60)), nil, "ban 192.0.2.0/24 60 A +; ban 192.0.2.7 60 A +"},
			{0, r(record(peerC, 1, KindUnban, addr, 95, marks(upTo(peerA, 2)))), nil, "unban 192.0.2.7 60 C -"},
		}},
		{"ok: when an unban ends before the ban, the ban counts again", 1, []step{
			{0, r(ban(peerA, 1, 60), record(peerC, 1, KindUnban, addr, 30, marks(upTo(peerA, 1)))), nil, ""},
			{30, nil, nil, "ban 192.0.2.7 60 A +"},
		}},
		{"ok: when an unban ends before the longer ban, that counts again", 1, []step{
			{0, r(ban(peerA, 1, 60), ban(peerB, 1, 50)), nil, "ban 192.0.2.7 60 A +"},
			{0, r(record(peerC, 1, KindUnban, addr, 30, marks(upTo(peerA, 1)))), nil, "refresh 192.0.2.7 50 C +"},
			{30, nil, nil, "refresh 192.0.2.7 60 A +"},
		}},
		{"ok: a second unban reaches further for one origin only", 1, []step{
			{0, r(ban(peerA, 3, 60), ban(peerB, 1, 60)), nil, "ban 192.0.2.7 60 A +"},
			{0, r(record(peerC, 1, KindUnban, addr, 95, marks(upTo(peerB, 5)))), nil, ""},
			{0, r(record(peerC, 2, KindUnban, addr, 95, marks(upTo(peerA, 4), upTo(peerB, 4)))), nil, "unban 192.0.2.7 60 C -"},
		}},
		{"ok: quorum of two", 2, []step{
			{0, r(ban(peerA, 1, 60)), nil, "pending 192.0.2.7 60 A"},
			{0, r(ban(peerA, 2, 70)), nil, ""},
			{0, r(ban(peerB, 1, 90)), nil, "ban 192.0.2.7 70 B +"},
			{0, r(ban(peerC, 1, 80)), nil, "refresh 192.0.2.7 80 C +"},
			{0, r(record(peerB, 2, KindRevoke, addr, 95)), nil, "refresh 192.0.2.7 70 B +"},
			{70, nil, nil, "expire 192.0.2.7 70 A -"},
			{80, nil, nil, "expire 192.0.2.7 C"},
		}},
		{"ok: quorum, then one takes it back", 2, []step{
			{0, r(ban(peerA, 1, 60), ban(peerB, 1, 60)), nil, "ban 192.0.2.7 60 B +"},
			{0, r(record(peerB, 2, KindRevoke, addr, 95)), nil, "unban 192.0.2.7 60 B -"},
			{0, r(record(peerA, 2, KindRevoke, addr, 95)), nil, "unban 192.0.2.7 A"},
		}},
		{"ok: our own ban needs no quorum, but others carry on from it", 2, []step{
			{0, r(ban(self, 1, 60)), nil, "ban 192.0.2.7 60 self +"},
			{0, r(ban(peerA, 1, 90)), nil, ""},
			{0, r(ban(peerB, 1, 80)), nil, "refresh 192.0.2.7 80 B +"},
			{0, r(record(peerB, 2, KindRevoke, addr, 95)), nil, "refresh 192.0.2.7 60 B +"},
			{60, nil, nil, "expire 192.0.2.7 60 self -"},
		}},
		{"ok: allow lifts what lies inside, its end brings it back", 1, []step{
			{0, r(ban(peerA, 1, 60), record(peerA, 2, KindBan, net24, 60)), nil, "ban 192.0.2.7 60 A +; ban 192.0.2.0/24 60 A +"},
			{0, r(record(peerB, 1, KindAllow, "192.0.2.0/28", 30)), nil, "allow 192.0.2.0/28 30 B; allow 192.0.2.7 60 B -"},
			{0, r(record(peerC, 1, KindAllow, addr, 20)), nil, "allow 192.0.2.7 20 C"},
			{0, r(ban(peerA, 3, 70)), nil, ""},
			{20, nil, nil, "unallow 192.0.2.7 20 C"},
			{30, nil, nil, "unallow 192.0.2.0/28 30 B; ban 192.0.2.7 70 A +"},
		}},
		{"ok: unallow brings back what still lives", 1, []step{
			{0, r(record(peerB, 1, KindAllow, addr, 50)), nil, "allow 192.0.2.7 50 B"},
			{0, r(ban(peerA, 1, 60)), nil, ""},
			{0, r(record(peerC, 1, KindUnallow, net24, 60, marks(upTo(peerB, 1)))), nil, "unallow 192.0.2.7 50 C; ban 192.0.2.7 60 A +"},
			{0, r(record(peerB, 2, KindAllow, addr, 40)), nil, "allow 192.0.2.7 40 B; allow 192.0.2.7 60 B -"},
		}},
		{"ok: the never-ban list wins and lets go", 1, []step{
			{0, r(ban(peerA, 1, 60), record(peerA, 2, KindBan, net24, 60)), nil, "ban 192.0.2.7 60 A +; ban 192.0.2.0/24 60 A +"},
			{0, nil, []NeverEntry{{pfx(addr), "own address"}}, "allow 192.0.2.7 60 self -"},
			{0, nil, []NeverEntry{{pfx("192.0.2.0/29"), "office"}}, ""},
			{0, nil, []NeverEntry{{pfx(net24), "office"}}, "allow 192.0.2.0/24 60 self -"},
			{0, nil, []NeverEntry{}, "ban 192.0.2.7 60 A +; ban 192.0.2.0/24 60 A +"},
		}},
		{"ok: never banned, whatever a peer says", 1, []step{
			{0, r(record(peerA, 1, KindBan, "127.0.0.1", 60), record(peerA, 2, KindBan, "ff02::1", 60)), nil, ""},
			{0, nil, []NeverEntry{}, ""},
		}},
		{"ok: expiry at the start of a merge comes first", 1, []step{
			{0, r(ban(peerA, 1, 60)), nil, "ban 192.0.2.7 60 A +"},
			{60, r(ban(peerB, 1, 90)), nil, "expire 192.0.2.7 60 A -; ban 192.0.2.7 90 B +"},
		}},
		{"ok: what has ended is not merged", 1, []step{
			{60, r(ban(peerA, 1, 60)), nil, ""},
		}},
		{"ok: what is not well formed is not merged", 1, []step{
			{0, r(Record{}, Record{Op: Op{Kind: KindBan, Until: tick(60)}}, ban(peerA, 1, 60, func(r *Record) { r.Kind = 77 }),
				ban(peerA, 2, 60, func(r *Record) { r.Kind = kindFloor }), record(peerA, 3, KindUnban, addr, 60)), nil, ""},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tb := newTable(t, Config{Quorum: Quorum{Origins: tt.quorum}})
			kernel := map[ruleKey]int64{}
			for i, s := range tt.steps {
				var cs []Change
				if s.never != nil {
					cs = tb.SetNever(tick(s.at), s.never)
					slices.SortStableFunc(cs, func(a, b Change) int { return b.Prefix.Bits() - a.Prefix.Bits() })
				} else {
					cs = tb.Merge(tick(s.at), s.rs)
				}
				if got := say(cs); got != s.want {
					t.Errorf("step %d: got  %s\nwant %s", i, got, s.want)
				}
				if err := fold(kernel, cs); err != nil {
					t.Errorf("step %d: %v", i, err)
				}
				if d := diffMaps(kernel, enforcedOf(tb)); d != "" {
					t.Errorf("step %d: %s", i, d)
				}
				if err := sound(tb); err != nil {
					t.Errorf("step %d: %v", i, err)
				}
			}
		})
	}
}

func TestChangeTellsWhatTheRecordSaid(t *testing.T) {
	tb := newTable(t, Config{})
	r := record(peerA, 3, KindBan, "192.0.2.7", 60, because("sshd: 5 failures"))
	r.Source = "line:sshd"
	c := tb.Merge(base, single(r))[0]
	if c.Reason != r.Reason || c.Source != r.Source || !c.Issued.Equal(r.Issued) || c.Origin != peerA || c.Local {
		t.Errorf("%+v", c)
	}
	c = tb.SetNever(base, []NeverEntry{{r.Prefix, "gateway"}})[0]
	if c.Reason != "gateway" || c.Source != RuleNever || !c.Issued.IsZero() || !c.Local {
		t.Errorf("%+v", c)
	}
}

func TestFullTableDropsWhatIsNewAndRefreshesWhatIsThere(t *testing.T) {
	tb := newTable(t, Config{})
	tb.capacity = 2
	a, b := record(peerA, 1, KindBan, "192.0.2.1", 60), record(peerA, 2, KindBan, "192.0.2.2", 60)
	tb.Merge(base, []Record{a, b, record(peerA, 3, KindBan, "192.0.2.3", 60), record(peerB, 1, KindBan, "192.0.2.1", 60), record(peerA, 3, KindBan, "192.0.2.1", 60, onPorts("1"))})
	if c := tb.Counts(); c.Active != 2 || c.Dropped != 3 {
		t.Fatalf("%+v", c)
	}
	if got := say(tb.Merge(base, single(record(peerA, 4, KindBan, "192.0.2.1", 70)))); got != "refresh 192.0.2.1 70 A +" {
		t.Error(got)
	}
	for i := range 3 {
		tb.Merge(base, single(record(peerB, i+5, KindUnban, "192.0.2.0/24", 80, marks(upTo([]Origin{peerA, peerB, peerC}[i], 4)))))
	}
	if c := tb.Counts(); c.Active != 0 || c.Records != 4 || c.Dropped != 4 {
		t.Errorf("%+v", c)
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
}

// An origin that keeps shortening and prolonging must not make the expiry heap grow.
func TestStaleEndsAreBounded(t *testing.T) {
	t.Parallel()
	tb := newTable(t, Config{})
	for i := range 10_000 {
		tb.Merge(base, single(record(peerA, i+1, KindBan, "192.0.2.7", 20_000+i*(1-i%2*2))))
	}
	if n := len(tb.bans.ends); n > staleSlack+10 {
		t.Errorf("%d ends for one ban", n)
	}
	at, ok := tb.Next()
	if want := tick(20_000 - 9999); !ok || !at.Equal(want) {
		t.Errorf("next %v, want %v", at, want)
	}
	if cs := tb.Expire(at); len(cs) != 1 || !cs[0].Lift {
		t.Errorf("%+v", cs)
	}
	if cs := tb.Expire(tick(40_000)); cs != nil || tb.Counts().Records != 0 {
		t.Errorf("%+v %+v", cs, tb.Counts())
	}
}

func TestLiftBans(t *testing.T) {
	tb := newTable(t, Config{})
	tb.Merge(base, []Record{
		record(peerA, 3, KindBan, "192.0.2.7", 60),
		record(peerA, 5, KindBan, "192.0.2.7", 90, onPorts("22")),
		record(peerB, 2, KindBan, "192.0.2.9", 70),
		record(peerC, 1, KindBan, "192.0.2.0/24", 300),
		record(peerC, 9, KindBan, "198.51.100.1", 300),
	})
	if _, err := tb.liftBans(base, pfx("192.0.2.8"), "", "cli"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing is there: %v", err)
	}
	ops, err := tb.liftBans(base, pfx("192.0.2.0/28"), "mistake", "cli")
	if err != nil || len(ops) != 1 {
		t.Fatal(ops, err)
	}
	op := ops[0]
	if op.Kind != KindUnban || op.Validate() != nil || op.Reason != "mistake" || op.Source != "cli" ||
		!op.Until.Equal(tick(90).Add(ClockSkew)) || !slices.Equal(op.Marks, []Mark{upTo(peerA, 5), upTo(peerB, 2)}) {
		t.Errorf("%+v", op)
	}
	tb.Merge(base, single(Record{Op: op, Origin: self, Version: Version{1, 1, 0}, Issued: base}))
	if n := tb.Counts().Active; n != 2 {
		t.Errorf("%d are left, want the wider and the other one", n)
	}
	if _, err := tb.liftBans(base, pfx("192.0.2.0/28"), "", "cli"); !errors.Is(err, ErrNotFound) {
		t.Errorf("all is cancelled: %v", err)
	}
	if _, err := tb.liftBans(tick(300), pfx("198.51.100.1"), "", "cli"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it has ended: %v", err)
	}
}

// A ban lifted by its own node stayed in force on peers that held another node's unban of it, if that unban had already
// taken effect on the ban's node: there was nothing left to lift there.
func TestLiftOfWhatAnotherLifted(t *testing.T) {
	for _, n := range []int{1, maxOwnMark + 1} {
		tb, peer := newTable(t, Config{Self: self}), newTable(t, Config{Self: peerA})
		var bans []Record
		for i := range n {
			bans = append(bans, record(self, 1+i, KindBan, fmt.Sprintf("192.0.%d.%d", 2+i>>8, i&255), 600))
		}
		tb.Merge(base, bans)
		peer.Merge(base, bans)
		tb.Merge(base, single(record(peerB, 1, KindUnban, "192.0.2.0/23", 900, marks(upTo(self, uint64(n))))))
		if got := tb.Counts().Active; got != 0 {
			t.Fatalf("%d of %d are left", got, n)
		}
		for i := range 2 {
			ops, err := tb.liftBans(base, pfx("192.0.2.0/23"), "", "cli")
			if i == 1 {
				if !errors.Is(err, ErrNotFound) {
					t.Errorf("%d bans lifted twice: %v, %v", n, ops, err)
				}
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for j, op := range ops {
				r := single(Record{Op: op, Origin: self, Version: Version{1, uint64(n + 1 + j), 0}, Issued: base})
				tb.Merge(base, r)
				peer.Merge(base, r)
			}
		}
		if got := peer.Counts().Active; got != 0 {
			t.Errorf("%d of %d are left where the unban is held", got, n)
		}
	}
}

func TestLiftOfManyOrigins(t *testing.T) {
	tb := newTable(t, Config{Quorum: Quorum{Origins: 3}})
	for i := range 2*MaxMarks + 1 {
		tb.Merge(base, single(record(Origin{byte(i + 1)}, 1, KindBan, "192.0.2.7", 60+i)))
	}
	ops, err := tb.liftBans(base, pfx("192.0.2.7"), "", "cli")
	if err != nil || len(ops) != 3 {
		t.Fatal(len(ops), err)
	}
	for i, op := range ops {
		if err := op.Validate(); err != nil {
			t.Error(err)
		}
		tb.Merge(base, single(Record{Op: op, Origin: self, Version: Version{1, 1, uint16(i)}, Issued: base}))
	}
	if c := tb.Counts(); c.Active+c.Pending != 0 {
		t.Errorf("%+v", c)
	}
}

func TestLiftAllows(t *testing.T) {
	tb := newTable(t, Config{})
	tb.Merge(base, []Record{record(peerA, 1, KindAllow, "192.0.2.7", 60), record(peerA, 2, KindBan, "192.0.2.7", 60)})
	ops, err := tb.liftAllows(base, pfx("192.0.2.7"), "", "cli")
	if err != nil || len(ops) != 1 || ops[0].Kind != KindUnallow || ops[0].Validate() != nil {
		t.Fatal(ops, err)
	}
	if got := say(tb.Merge(base, single(Record{Op: ops[0], Origin: self, Version: Version{1, 1, 0}, Issued: base}))); !strings.Contains(got, "ban 192.0.2.7 60 A +") {
		t.Error(got)
	}
}
