package ban

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func seenAt(n int) func(*Record) { return func(r *Record) { r.Issued = tick(n) } }

func TestQuorumWithinAWindow(t *testing.T) {
	pair := Quorum{2, 30 * time.Second}
	sighting := func(o Origin, seq, at, until int, source string) Record {
		return record(o, seq, KindBan, "192.0.2.7", until, seenAt(at), of(source))
	}
	sshd := []SourceQuorum{{"line:ssh*", pair}, {"line:web", Quorum{Origins: 3}}}
	for _, c := range []struct {
		name    string
		quorum  Quorum
		sources []SourceQuorum
		rs      []Record
		state   State
		until   int
	}{
		{"ok: two within it", pair, nil, []Record{sighting(peerA, 1, 0, 100, ""), sighting(peerB, 1, 30, 90, "")}, StateEnforced, 90},
		{"bad: the second too late", pair, nil, []Record{sighting(peerA, 1, 0, 100, ""), sighting(peerB, 1, 31, 100, "")}, StatePending, 0},
		{"bad: one, twice", pair, nil, []Record{sighting(peerA, 1, 0, 100, ""), sighting(peerA, 2, 10, 110, "")}, StatePending, 0},
		{"ok: a refresh undoes nothing", pair, nil, []Record{sighting(peerA, 1, 0, 100, ""), sighting(peerB, 1, 20, 100, ""), sighting(peerA, 2, 60, 160, "")}, StateEnforced, 100},
		{"ok: the third finds a second", pair, nil, []Record{sighting(peerA, 1, 0, 100, ""), sighting(peerB, 1, 50, 110, ""), sighting(peerC, 1, 70, 120, "")}, StateEnforced, 110},
		{"ok: own always bans", pair, nil, []Record{sighting(self, 1, 0, 40, "")}, StateEnforced, 40},
		{"ok: by source, no quorum for others", Quorum{}, sshd, []Record{sighting(peerA, 1, 0, 100, "cli")}, StateEnforced, 100},
		{"bad: by source", Quorum{}, sshd, []Record{sighting(peerA, 1, 0, 100, "line:sshd")}, StatePending, 0},
		{"ok: by source, with a sighting of another source", pair, []SourceQuorum{{"cli", Quorum{}}}, []Record{sighting(peerA, 1, 0, 100, "line:sshd"), sighting(peerB, 1, 9, 80, "cli")}, StateEnforced, 80},
		{"bad: three by source, any time, are two", Quorum{}, sshd, []Record{sighting(peerA, 1, 0, 100, "line:web"), sighting(peerB, 1, 90, 100, "line:web")}, StatePending, 0},
		{"ok: three by source, any time", Quorum{}, sshd, []Record{sighting(peerA, 1, 0, 100, "line:web"), sighting(peerB, 1, 60, 100, "line:web"), sighting(peerC, 1, 90, 95, "line:web")}, StateEnforced, 95},
		{"bad: what is held is no sighting", pair, nil, []Record{sighting(peerA, 1, 0, 100, ""), record(peerB, 1, KindBan, "192.0.2.7", 100, held(HoldRate))}, StateHeld, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			tb := newTable(t, Config{Quorum: c.quorum, Sources: c.sources})
			rs := slices.Clone(c.rs)
			for range 2 { // and in reverse order
				tb.Merge(base, rs)
				slices.Reverse(rs)
				es, _ := tb.EntriesAfter(0, math.MaxInt, nil)
				e := es[0]
				if e.State != c.state || c.until != 0 && !e.Until.Equal(tick(c.until)) {
					t.Errorf("%v until %v, want %v until %v", e.State, e.Until, c.state, tick(c.until))
				}
				if s := tb.Why(pfx("192.0.2.7"))[0].Status; c.state == StatePending && !strings.HasPrefix(s, "waits for more origins: ") {
					t.Errorf("why: %s", s)
				}
				tb = newTable(t, Config{Quorum: c.quorum, Sources: c.sources})
			}
		})
	}
}

// byDefinition returns until when the bans of one prefix are enforced, by trying every possible window.
func byDefinition(rs []Record, global Quorum, sources []SourceQuorum) time.Time {
	type word struct {
		Record
		first int64
		q     Quorum
	}
	words := map[Origin]*word{}
	for _, r := range rs {
		w := words[r.Origin]
		if w == nil {
			w = &word{r, millis(r.Issued), Quorum{}}
			words[r.Origin] = w
		}
		w.first = min(w.first, millis(r.Issued))
		if r.Version.Compare(w.Version) > 0 {
			w.Record = r
		}
	}
	var until time.Time
	var live []*word
	for _, w := range words {
		w.q = global
		if i := slices.IndexFunc(sources, func(s SourceQuorum) bool { return s.Source == w.Source }); i >= 0 {
			w.q = sources[i].Quorum
		}
		switch {
		case w.Kind != KindBan || w.Hold != HoldNone:
		case w.Origin == self:
			until = w.Until
		default:
			live = append(live, w)
		}
	}
	for _, asks := range live {
		within := asks.q.Within.Milliseconds()
		if asks.q.Within == 0 {
			within = 1 << 50
		}
		for _, edge := range live {
			for _, start := range []int64{edge.first, millis(edge.Issued), edge.first - within, millis(edge.Issued) - within} {
				for _, at := range live { // the quorum lasts until this one ends
					n, asked := 0, false
					for _, w := range live {
						if !w.Until.Before(at.Until) && w.first <= start+within && millis(w.Issued) >= start {
							n, asked = n+1, asked || w.q == asks.q
						}
					}
					if asked && n >= asks.q.Origins && at.Until.After(until) {
						until = at.Until
					}
				}
			}
		}
	}
	return until
}

func TestQuorumAgreesWithItsDefinition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		quorum := func(name string) Quorum {
			return Quorum{rapid.IntRange(1, 4).Draw(t, name), time.Duration(rapid.SampledFrom([]int{0, 1, 5, 10}).Draw(t, name+" within")) * time.Second}
		}
		cfg := Config{Self: self, Quorum: quorum("quorum")}
		for _, s := range []string{"cli", "line"} {
			if rapid.Bool().Draw(t, s) {
				cfg.Sources = append(cfg.Sources, SourceQuorum{s, quorum(s)})
			}
		}
		var rs []Record
		origins := []Origin{self, peerA, peerB, peerC, {0xd4}, {0xe5}}
		for i := range rapid.IntRange(1, 15).Draw(t, "records") {
			o := rapid.SampledFrom(origins[rapid.IntRange(0, 1).Draw(t, "without own"):]).Draw(t, "origin")
			r := record(o, i+1, KindBan, "192.0.2.7", rapid.IntRange(100, 200).Draw(t, "until"), seenAt(rapid.IntRange(-30, 0).Draw(t, "seen")))
			r.Source = rapid.SampledFrom([]string{"cli", "line", "api"}).Draw(t, "source")
			r.Hold = rapid.SampledFrom(someHolds).Draw(t, "hold")
			if rapid.IntRange(0, 9).Draw(t, "kind") == 0 {
				r.Kind, r.Hold = KindRevoke, HoldNone
			}
			rs = append(rs, r)
		}
		want := byDefinition(rs, mustNormal(cfg.Quorum), cfg.Sources)
		var before string
		for range 2 {
			tb, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			kernel := map[ruleKey]int64{}
			for _, batch := range shuffled(t, rs) {
				if err := fold(kernel, tb.Merge(base, batch)); err != nil {
					t.Fatal(err)
				}
			}
			got := enforcedOf(tb)[ruleKey{prefix: pfx("192.0.2.7")}]
			if want.IsZero() != (got == 0) || got != 0 && got != millis(want) || kernel[ruleKey{prefix: pfx("192.0.2.7")}] != got {
				t.Fatalf("enforced until %d, want %v, kernel %v", got, want, kernel)
			}
			d := dump(tb, false)
			if before != "" && d != before {
				t.Fatalf("%s\n--- in another order:\n%s", d, before)
			}
			before = d
			if err := sound(tb); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func mustNormal(q Quorum) Quorum {
	q, err := q.normal()
	if err != nil {
		panic(err)
	}
	return q
}

func TestQuorumsAreChecked(t *testing.T) {
	for name, s := range map[string]SourceQuorum{
		"bad: no source":        {"", Quorum{Origins: 2}},
		"bad: star in between":  {"li*ne", Quorum{Origins: 2}},
		"bad: too many origins": {"line", Quorum{Origins: MaxQuorum + 1}},
		"bad: negative window":  {"line", Quorum{Origins: 2, Within: -1}},
	} {
		if _, err := New(Config{Sources: []SourceQuorum{s}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Config{Sources: make([]SourceQuorum, MaxSources+1)}); err == nil {
		t.Error("bad: too many sources: accepted")
	}
	tb := newTable(t, Config{})
	tb.Merge(base, single(record(peerA, 1, KindBan, "192.0.2.7", 60, of("line"))))
	cs, err := tb.SetPolicy(base, Limits{}, Quorum{}, SourceQuorum{"line", Quorum{2, time.Minute}})
	if err != nil || len(cs) != 1 || !cs[0].Lift || tb.Counts().Pending != 1 {
		t.Errorf("after a new quorum: %+v, %v", cs, err)
	}
}
