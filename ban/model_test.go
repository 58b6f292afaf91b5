package ban

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	somePrefixes = []string{
		"192.0.2.7", "192.0.2.8", "192.0.2.0/24", "192.0.2.0/28", "192.0.2.0/32", "198.51.100.1", "192.0.0.0/8",
		"127.0.0.5", "2001:db8::1", "2001:db8::/48", "2001:db8::/64", "2001::/19", "::/24",
	}
	somePorts   = []string{"", "", "", "22/tcp", "80"}
	someOrigins = []Origin{self, peerA, peerB, peerC}
	someHolds   = []Hold{HoldNone, HoldNone, HoldNone, HoldRate, HoldBreaker, HoldDropped}
	someWords   = []string{"", "ssh", "scan"}
)

// anyRecords draws records of all kinds, no two with one origin and version.
func anyRecords(t *rapid.T, n, span int) []Record {
	var out []Record
	used := map[cancelID]bool{}
	for range n {
		r := Record{
			Origin: rapid.SampledFrom(someOrigins).Draw(t, "origin"),
			Version: Version{
				Epoch: rapid.Uint64Range(1, 2).Draw(t, "epoch"),
				Seq:   rapid.Uint64Range(1, 8).Draw(t, "seq"),
				Index: rapid.Uint16Range(0, 2).Draw(t, "index"),
			},
			Issued: tick(rapid.IntRange(-9, 0).Draw(t, "issued")),
		}
		if id := (cancelID{r.Origin, r.Version}); used[id] {
			continue
		} else {
			used[id] = true
		}
		r.Kind = rapid.SampledFrom([]Kind{KindBan, KindBan, KindBan, KindBan, KindRevoke, KindUnban, KindAllow, KindUnallow}).Draw(t, "kind")
		r.Prefix = pfx(rapid.SampledFrom(somePrefixes).Draw(t, "prefix"))
		r.Until = tick(rapid.IntRange(1, span).Draw(t, "until"))
		r.Reason = rapid.SampledFrom(someWords).Draw(t, "reason")
		switch r.Kind {
		case KindBan, KindRevoke:
			r.Ports = ports(rapid.SampledFrom(somePorts).Draw(t, "ports"))
			r.Hold = rapid.SampledFrom(someHolds).Draw(t, "hold")
		case KindAllow:
			r.Hold = rapid.SampledFrom(someHolds).Draw(t, "hold")
		case KindUnban, KindUnallow:
			r.Marks = anyMarks(t)
			r.Hold = rapid.SampledFrom([]Hold{HoldNone, HoldNone, HoldLift}).Draw(t, "hold")
		}
		out = append(out, r)
	}
	return out
}

// decided returns rs with some holds changed as by an operator who decides about what is held.
func decided(t *rapid.T, rs []Record) []Record {
	rs = slices.Clone(rs)
	for i := range rs {
		if rapid.IntRange(0, 3).Draw(t, "decided") == 0 {
			r := &rs[i]
			switch lifts := r.Kind == KindUnban || r.Kind == KindUnallow; {
			case !lifts:
				r.Hold = rapid.SampledFrom(someHolds).Draw(t, "decision")
			case r.Hold != HoldNone: // an operator decides about what waits, and only once
				r.Hold = []Hold{HoldNone, HoldDropped}[r.Version.Seq%2]
			}
		}
	}
	return rs
}

// someSkews bound how much later than a cancel the records that it covers may be issued. Records are issued in the 9 s
// before base.
var someSkews = []time.Duration{time.Second, 4 * time.Second, time.Hour}

func anyMarks(t *rapid.T) []Mark {
	var ms []Mark
	for _, o := range rapid.SliceOfNDistinct(rapid.SampledFrom(someOrigins), 1, 3, rapid.ID).Draw(t, "marked") {
		ms = append(ms, Mark{o, rapid.Uint64Range(1, 2).Draw(t, "epoch"), rapid.Uint64Range(0, 8).Draw(t, "seq")})
	}
	slices.SortFunc(ms, func(a, b Mark) int { return cmp.Compare(a.Origin.String(), b.Origin.String()) })
	return ms
}

var someNever = [][]NeverEntry{
	nil,
	{{pfx("192.0.2.7"), "own address"}},
	{{pfx("192.0.2.0/24"), "office"}, {pfx("2001:db8::1"), "gateway"}},
	{{pfx("2001:db8::/48"), "office"}},
}

func neverPrefixes(es []NeverEntry) []netip.Prefix {
	var ps []netip.Prefix
	for _, e := range append(slices.Clone(builtinNever), es...) {
		ps = append(ps, e.Prefix)
	}
	return ps
}

// After each step the table enforces what the definition derives from all records it was given, and a kernel that
// applied the changes holds the same.
func TestTableAgreesWithItsDefinition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const span = 40
		quorum := rapid.IntRange(1, 3).Draw(t, "quorum")
		skew := rapid.SampledFrom(someSkews).Draw(t, "skew")
		tb, err := New(Config{Self: self, Quorum: Quorum{Origins: quorum}, Limits: Limits{FutureSkew: skew}})
		if err != nil {
			t.Fatal(err)
		}
		model := oracle{self: self, quorum: quorum, skew: skew, never: neverPrefixes(nil), groups: map[groupKey][]Record{}}
		pool := anyRecords(t, rapid.IntRange(5, 60).Draw(t, "records"), span)
		kernel := map[ruleKey]int64{}
		now := 0
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now += rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(t, "passes")
			ms := millis(tick(now))
			var changes []Change
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 2:
				model.quorum = rapid.IntRange(1, 3).Draw(t, "new quorum")
				model.skew = rapid.SampledFrom(someSkews).Draw(t, "new skew")
				model.expire(ms)
				if changes, err = tb.SetPolicy(tick(now), Limits{FutureSkew: model.skew}, Quorum{Origins: model.quorum}); err != nil {
					t.Fatal(err)
				}
			case 0:
				changes = tb.Expire(tick(now))
				model.expire(ms)
			case 1:
				es := rapid.SampledFrom(someNever).Draw(t, "never")
				changes = tb.SetNever(tick(now), es)
				model.expire(ms)
				model.never = neverPrefixes(es)
			default:
				rs := decided(t, rapid.SliceOfN(rapid.SampledFrom(pool), 1, 6).Draw(t, "merge"))
				changes = tb.Merge(tick(now), rs)
				model.expire(ms)
				model.merge(ms, rs)
				if again := tb.Merge(tick(now), rs); again != nil {
					t.Fatalf("merging again changed %+v", again)
				}
			}
			if err := fold(kernel, changes); err != nil {
				t.Fatal(err)
			}
			if d := diffMaps(enforcedOf(tb), model.enforced()); d != "" {
				t.Fatalf("at %d: %s", now, d)
			}
			if d := diffMaps(kernel, model.enforced()); d != "" {
				t.Fatalf("at %d: kernel: %s", now, d)
			}
			if err := sound(tb); err != nil {
				t.Fatal(err)
			}
			if n := tb.Counts().Active; n != len(kernel) {
				t.Fatalf("counts %d, enforced %d", n, len(kernel))
			}
			checkNext(t, tb, tick(now))
			checkQueries(t, tb, &model, tick(now))
		}
		for range 2 * span { // everything ends, each at the moment that Next names
			at, ok := tb.Next()
			if !ok {
				break
			}
			changes := tb.Expire(at)
			model.expire(millis(at))
			if err := fold(kernel, changes); err != nil {
				t.Fatal(err)
			}
			if d := diffMaps(kernel, model.enforced()); d != "" {
				t.Fatalf("at %v: kernel: %s", at, d)
			}
		}
		if c := tb.Counts(); c != (Counts{}) || tb.bans.entries.live+tb.allows.entries.live != 0 {
			t.Fatalf("when all has ended: %+v", c)
		}
	})
}

// checkNext checks Next against the earliest end of anything in the table.
func checkNext(t *rapid.T, tb *Table, now time.Time) {
	var want time.Time
	look := func(at int64) {
		if u := fromMillis(at); want.IsZero() || u.Before(want) {
			want = u
		}
	}
	for _, b := range []*recordSet{&tb.bans, &tb.allows} {
		for i := uint32(1); i < b.claims.end; i++ {
			if x := b.claims.at(i); x.kind != 0 {
				look(x.until)
			}
		}
		for i := uint32(1); i < b.cancels.marks.end; i++ {
			if s := b.cancels.marks.at(i); s.until != 0 {
				look(s.until)
			}
		}
		for _, at := range b.wakes.at {
			look(at)
		}
	}
	for _, i := range tb.lifts.ids {
		look(millis(tb.lifts.all.at(i).Until))
	}
	got, ok := tb.Next()
	if ok == want.IsZero() || !got.Equal(want) || ok && !got.After(now) {
		t.Fatalf("next is %v %v, want %v", got, ok, want)
	}
}

// checkQueries checks the lookups against a search through everything.
func checkQueries(t *rapid.T, tb *Table, model *oracle, now time.Time) {
	enforced := model.enforced()
	for _, s := range somePrefixes {
		p := pfx(s)
		want := false
		for k := range enforced {
			want = want || contains(k.prefix, p)
		}
		want = want && !model.allowed(p)
		v, got := tb.Lookup(p)
		if got != want || got != v.Prefix.IsValid() {
			t.Fatalf("lookup %v: %+v %v, want %v", p, v, got, want)
		}
		if p.IsSingleIP() {
			remote := 0
			for k, g := range model.groups {
				w := model.winner(g)
				_, is := enforced[ruleKey{k.prefix, k.ports}]
				if want && is && !k.allow && k.origin != self && w.Kind == KindBan && w.Hold == HoldNone && k.prefix == p && !model.cancelled(w, KindUnban) {
					remote++
				}
			}
			for range tb.RemoteBans(now, p.Addr()) {
				remote--
			}
			if remote != 0 {
				t.Fatalf("remote bans of %v: %d missing", p, remote)
			}
		}
		for _, f := range tb.Why(p) {
			if f.Status == "" || f.Kind == kindFloor || !f.Prefix.Overlaps(p) {
				t.Fatalf("why %v: %+v", p, f)
			}
		}
	}
	ours := map[ruleKey]int64{}
	entries, _ := tb.EntriesAfter(0, math.MaxInt, nil)
	for _, e := range entries {
		if e.State == StateEnforced {
			ours[ruleKey{e.Prefix, e.Ports}] = millis(e.Until)
		}
		if len(e.Origins) == 0 {
			t.Fatalf("entry without origin: %+v", e)
		}
	}
	if !maps.Equal(ours, enforced) {
		t.Fatalf("entries: %s", diffMaps(ours, enforced))
	}
}
