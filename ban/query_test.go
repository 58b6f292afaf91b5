package ban

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestLookup(t *testing.T) {
	tb := newTable(t, Config{Never: []NeverEntry{{pfx("192.0.2.9"), "gateway"}}})
	tb.Merge(base, []Record{
		record(peerA, 1, KindBan, "192.0.2.0/24", 60, because("wide")),
		record(peerA, 2, KindBan, "192.0.2.7", 50, onPorts("22"), because("narrow")),
		record(peerB, 1, KindBan, "192.0.2.8", 90, because("later"), onPorts("")),
		record(peerA, 3, KindBan, "192.0.2.8", 40, because("first")),
		record(peerA, 4, KindBan, "198.51.100.7", 60, onPorts("80")),
		record(peerA, 5, KindBan, "198.51.100.7", 60, onPorts("443")),
		record(peerC, 1, KindAllow, "192.0.2.64/26", 60, because("office")),
		record(peerC, 2, KindAllow, "192.0.2.10", 60),
	})
	for name, tt := range map[string]struct{ addr, want string }{
		"ok: covered by a CIDR":           {"192.0.2.33", "192.0.2.0/24 wide"},
		"ok: a CIDR inside":               {"192.0.2.32/28", "192.0.2.0/24 wide"},
		"ok: all ports before the narrow": {"192.0.2.7", "192.0.2.0/24 wide"},
		"ok: the narrowest":               {"192.0.2.8", "192.0.2.8/32 later"},
		"ok: one port":                    {"198.51.100.7", "198.51.100.7/32 "},
		"ok: 4-in-6":                      {"::ffff:192.0.2.8", "192.0.2.8/32 later"},
		"bad: never":                      {"192.0.2.9", "through gateway"},
		"bad: allowed":                    {"192.0.2.65", "through office"},
		"bad: allowed without reason":     {"192.0.2.10", "through allowed by c3000000"},
		"bad: not there":                  {"203.0.113.1", "none"},
		"bad: wider than what is there":   {"192.0.0.0/16", "none"},
		"bad: other family":               {"2001:db8::1", "none"},
	} {
		v, ok := tb.Lookup(pfx(tt.addr))
		got := "none"
		if ok {
			got = fmt.Sprintf("%v %s", v.Prefix, v.Reason)
		} else if v.Exception.Prefix.IsValid() {
			got = "through " + v.Exception.Why
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	if v, _ := tb.Lookup(pfx("192.0.2.8")); !slices.Equal(v.Origins, []Origin{peerB, peerA}) || !v.Until.Equal(tick(90)) || !v.Issued.Equal(tick(1)) {
		t.Errorf("%+v", v)
	}
	if _, ok := tb.Lookup(netip.Prefix{}); ok {
		t.Error("an invalid prefix is dropped")
	}
}

func TestOwnBan(t *testing.T) {
	tb := newTable(t, Config{})
	mine := record(self, 1, KindBan, "192.0.2.7", 60, onPorts("22"), because("ssh"))
	tb.Merge(base, []Record{mine, record(peerA, 1, KindBan, "192.0.2.7", 90)})
	got, ok := tb.OwnBan(mine.Prefix, mine.Ports)
	if !ok || fmt.Sprint(got) != fmt.Sprint(mine) {
		t.Errorf("%+v %v", got, ok)
	}
	for name, p := range map[string]Ports{"bad: of another": {}, "bad: ports unknown": ports("99")} {
		if _, ok := tb.OwnBan(mine.Prefix, p); ok {
			t.Error(name)
		}
	}
	if _, ok := tb.OwnBan(netip.Prefix{}, Ports{}); ok {
		t.Error("bad: no prefix")
	}
	tb.Merge(base, single(record(peerA, 2, KindUnban, "192.0.2.7", 60, marks(upTo(self, 1)))))
	if _, ok := tb.OwnBan(mine.Prefix, mine.Ports); ok {
		t.Error("bad: it was cancelled")
	}
}

func TestExceptions(t *testing.T) {
	tb := newTable(t, Config{Never: []NeverEntry{{pfx("10.1.0.0/16"), "office"}, {pfx("10.1.2.3"), "own address"}, {pfx("10.1.0.0/16"), "again"}}})
	tb.Merge(base, []Record{
		record(peerA, 1, KindAllow, "9.9.9.9", 60),
		record(peerA, 2, KindAllow, "10.0.0.0/8", 50),
		record(peerA, 3, KindAllow, "2001:db8::1", 60),
		record(peerB, 1, KindUnallow, "2001:db8::1", 60, marks(upTo(peerA, 3))),
	})
	text := func() string {
		never, allow := tb.Exceptions().Lists()
		return strings.Trim(fmt.Sprint(never[len(builtinNever):], allow), "[]")
	}
	if got, want := text(), "10.1.0.0/16 10.1.2.3/32] [9.9.9.9/32 10.0.0.0/8"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	tb.Expire(tick(50))
	if got, want := text(), "10.1.0.0/16 10.1.2.3/32] [9.9.9.9/32"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if as := tb.Allows(); len(as) != 1 || as[0].Prefix != pfx("9.9.9.9") || as[0].Kind != KindAllow || as[0].Origin != peerA {
		t.Errorf("%+v", as)
	}
	if ns := tb.Never(); len(ns) != len(builtinNever)+2 || ns[1] != (NeverEntry{pfx("10.1.0.0/16"), "office"}) {
		t.Errorf("%+v", ns)
	}
}

func TestSetPolicy(t *testing.T) {
	tb := newTable(t, Config{})
	tb.Merge(base, []Record{
		record(peerA, 1, KindBan, "192.0.2.7", 60), record(peerB, 1, KindBan, "192.0.2.7", 50),
		record(peerA, 2, KindBan, "192.0.2.8", 60),
	})
	for i, tt := range []struct {
		quorum int
		want   string
	}{
		{2, "refresh 192.0.2.7 50 A +; unban 192.0.2.8 60 A -"},
		{2, ""},
		{0, "refresh 192.0.2.7 60 A +; ban 192.0.2.8 60 A +"},
	} {
		cs, err := tb.SetPolicy(base, Limits{MinBits4: 12}, Quorum{Origins: tt.quorum})
		if got := say(cs); err != nil || got != tt.want {
			t.Errorf("step %d: got %s %v, want %s", i, got, err, tt.want)
		}
	}
	if err := tb.CheckLocal(base, record(self, 1, KindBan, "20.0.0.0/11", 60).Op); err == nil {
		t.Error("the new limits do not hold")
	}
	if _, err := tb.SetPolicy(base, Limits{}, Quorum{Origins: MaxQuorum + 1}); err == nil {
		t.Error("bad quorum accepted")
	}
	if _, err := tb.SetPolicy(base, Limits{FutureSkew: -1}, Quorum{}); err == nil {
		t.Error("bad limits accepted")
	}
}

// An entry that stays in the table while it is listed in chunks is listed once, whatever comes and goes.
func TestEntriesInChunks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tb := anyTable(t, 1)
		var stay []Record
		for i := range rapid.IntRange(0, 40).Draw(t, "stay") {
			stay = append(stay, record(peerA, i+1, KindBan, fmt.Sprintf("198.51.100.%d", i), 90))
		}
		for i, r := range stay {
			tb.Merge(base, []Record{r, record(peerB, i+1, KindBan, fmt.Sprintf("203.0.113.%d", i), rapid.IntRange(1, 5).Draw(t, "until"))})
		}
		n := rapid.IntRange(0, 9).Draw(t, "n")
		seen := map[netip.Prefix]int{}
		var cursor uint32
		for calls := 0; ; calls++ {
			var es []Entry
			es, cursor = tb.EntriesAfter(cursor, n, nil)
			if len(es) > max(n, 1) || calls > 100 {
				t.Fatalf("%d entries, call %d", len(es), calls)
			}
			for _, e := range es {
				seen[e.Prefix]++
			}
			if cursor == 0 {
				break
			}
			tb.Expire(tick(calls % 6))
			if calls < 20 {
				tb.Merge(tick(calls%6), single(record(peerC, calls+1, KindBan, fmt.Sprintf("192.0.2.%d", 100+calls), 90)))
			}
		}
		for _, r := range stay {
			if seen[r.Prefix] != 1 {
				t.Fatalf("%v listed %d times", r.Prefix, seen[r.Prefix])
			}
		}
	})
}

func TestWhy(t *testing.T) {
	tb := newTable(t, Config{Quorum: Quorum{Origins: 2}, Never: []NeverEntry{{pfx("203.0.113.0/28"), "office"}}})
	tb.Merge(base, []Record{
		record(self, 1, KindBan, "192.0.2.7", 60, because("ssh")),
		record(peerA, 1, KindBan, "192.0.2.7", 50),
		record(peerA, 2, KindBan, "192.0.2.0/24", 50),
		record(peerB, 3, KindBan, "192.0.2.7", 50, onPorts("22")),
		record(peerB, 4, KindRevoke, "192.0.2.7", 50, onPorts("80")),
		record(peerC, 5, KindUnban, "192.0.2.0/25", 70, marks(upTo(peerB, 3))),
		record(peerA, 6, KindBan, "198.51.100.1", 50),
		record(peerA, 7, KindAllow, "198.51.100.0/30", 50, because("friends")),
		record(peerB, 8, KindAllow, "198.51.100.1", 50),
		record(peerC, 9, KindUnallow, "198.51.100.1", 50, marks(upTo(peerB, 8))),
		record(peerA, 10, KindBan, "203.0.113.5", 50),
		record(self, 11, KindBan, "203.0.113.0/24", 50),
	})
	for _, tt := range []struct {
		asked string
		want  []string
	}{
		{"192.0.2.7", []string{
			"ban 192.0.2.7 self: enforced",
			"ban 192.0.2.7 A: enforced",
			"ban 192.0.2.0/24 A: waits for more origins: 1 of 2",
			"ban 192.0.2.7 22 B: cancelled by unban of 192.0.2.0/25 by c3000000 (C)",
			"unban 192.0.2.0/25 C: cancels the bans that its origin knew then",
			"revoke 192.0.2.7 80 B: its origin took its ban back",
		}},
		{"198.51.100.1", []string{
			"allow 198.51.100.0/30 A: counts",
			"ban 198.51.100.1 A: suppressed by allow of 198.51.100.0/30 by a1000000 (A)",
			"allow 198.51.100.1 B: ended by unallow of 198.51.100.1 by c3000000 (C)",
			"unallow 198.51.100.1 C: cancels the allows that its origin knew then",
		}},
		{"203.0.113.5", []string{
			"never 203.0.113.0/28: never banned",
			"ban 203.0.113.0/24 self: enforced, except here",
			"ban 203.0.113.5 A: suppressed by the never-ban list: office (203.0.113.0/28)",
		}},
		{"203.0.113.0/24", []string{
			"ban 203.0.113.0/24 self: enforced",
			"ban 203.0.113.5 A: suppressed by the never-ban list: office (203.0.113.0/28)",
			"never 203.0.113.0/28: never banned",
		}},
		{"198.51.100.0/24", []string{
			"ban 198.51.100.1 A: suppressed by allow of 198.51.100.0/30 by a1000000 (A)",
			"allow 198.51.100.1 B: ended by unallow of 198.51.100.1 by c3000000 (C)",
			"unallow 198.51.100.1 C: cancels the allows that its origin knew then",
			"allow 198.51.100.0/30 A: counts",
		}},
		{"::1", []string{"never ::1: never banned"}},
		{"2001:db8::1", nil},
	} {
		var got []string
		names := map[Origin]string{self: " self", peerA: " A", peerB: " B", peerC: " C"}
		for _, f := range tb.Why(pfx(tt.asked)) {
			s := fmt.Sprintf("%v %v", f.Kind, shortPrefix(f.Prefix))
			if !f.Ports.IsAll() {
				s += " " + f.Ports.String()
			}
			s += names[f.Origin] + ": " + f.Status
			if f.By != (Origin{}) {
				s += " (" + names[f.By][1:] + ")"
			}
			got = append(got, s)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n%s\nwant\n%s", tt.asked, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
	if f := tb.Why(netip.Prefix{}); f != nil {
		t.Error(f)
	}
}

func TestWhyIsBounded(t *testing.T) {
	t.Parallel()
	tb := newTable(t, Config{})
	tb.Merge(base, plainBans(20_000))
	for i := range 2 * MaxFindings {
		tb.Merge(base, single(record(peerC, i+1, KindUnban, "11.0.0.0/8", 9999+i, marks(upTo(origin(i), 1)))))
	}
	tb.Merge(base, single(record(peerA, 1, KindBan, "11.0.0.0/8", 9999)))
	for _, p := range []string{"0.0.0.0/1", "11.0.0.0/8", "11.1.1.1"} {
		if fs := tb.Why(pfx(p)); len(fs) != MaxFindings {
			t.Errorf("%s: %d findings", p, len(fs))
		} else if p != "0.0.0.0/1" && fs[0].Prefix != pfx("11.0.0.0/8") {
			t.Errorf("%s: %+v in front", p, fs[0])
		}
	}
}

func TestEnforced(t *testing.T) {
	tb := newTable(t, Config{})
	tb.Merge(base, []Record{
		record(peerA, 1, KindBan, "192.0.2.0/24", 60),
		record(peerA, 2, KindBan, "192.0.2.7", 50, onPorts("22")),
		record(peerA, 3, KindBan, "192.0.2.8", 40),
		record(peerA, 4, KindBan, "192.0.2.9", 40),
		record(peerB, 1, KindAllow, "192.0.2.9", 60),
	})
	for prefix, want := range map[string]bool{
		"192.0.2.0/24": true, "192.0.2.8": true, "::ffff:192.0.2.8": true, // 4-in-6
		"192.0.2.0/25": false, "192.0.2.7": false, "192.0.2.9": false, "198.51.100.1": false,
	} {
		if _, ok := tb.Enforced(pfx(prefix)); ok != want {
			t.Errorf("%s: %v", prefix, ok)
		}
	}
	for prefix, want := range map[string]string{"192.0.2.8": "192.0.2.8/32 192.0.2.0/24 ", "192.0.2.7": "192.0.2.0/24 ", "192.0.0.0/16": "", "192.0.2.0/24": "192.0.2.0/24 "} {
		got := ""
		for _, e := range tb.EnforcedCovering(pfx(prefix)) {
			got += e.Prefix.String() + " "
		}
		if got != want {
			t.Errorf("covering %s: %q, want %q", prefix, got, want)
		}
	}
}

// A change says which end was enforced before.
func TestChangeSaysTheFormerEnd(t *testing.T) {
	tb := newTable(t, Config{})
	for i, want := range []int{0, 60, 90} {
		kind, until := KindBan, 60+30*i
		if i == 2 {
			kind = KindRevoke
		}
		changes := tb.Merge(base, []Record{record(peerA, i+1, kind, "192.0.2.1", until)})
		if len(changes) != 1 {
			t.Fatalf("step %d: %d changes", i, len(changes))
		}
		if was := changes[0].Was; want == 0 && !was.IsZero() || want != 0 && !was.Equal(tick(want)) {
			t.Errorf("step %d, %v: was %v", i, changes[0].Event, was)
		}
	}
}
