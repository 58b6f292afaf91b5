package ban

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The laws of Merge, as grafana/dskit states them for its Mergeable: the same records lead to the same state, whatever
// their order, grouping and repetition.

// shuffled returns rs in a random order, some of them more than once, cut into batches.
func shuffled(t *rapid.T, rs []Record) [][]Record {
	all := slices.Concat(rs, rapid.SliceOfN(rapid.SampledFrom(rs), 0, 5).Draw(t, "repeated"))
	all = rapid.Permutation(all).Draw(t, "order")
	var batches [][]Record
	for len(all) > 0 {
		n := rapid.IntRange(1, len(all)).Draw(t, "batch")
		batches, all = append(batches, all[:n]), all[n:]
	}
	return batches
}

func anyTable(t *rapid.T, quorum int) *Table {
	tb, err := New(Config{Self: self, Quorum: Quorum{Origins: quorum}, Never: someNever[1], Limits: Limits{FutureSkew: 4 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

func TestMergeIsCommutativeAssociativeIdempotent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		quorum := rapid.IntRange(1, 3).Draw(t, "quorum")
		a, b := anyTable(t, quorum), anyTable(t, quorum)
		rs := anyRecords(t, rapid.IntRange(1, 40).Draw(t, "records"), 30)
		if rapid.Bool().Draw(t, "crowded") { // many versions of few keys
			for i := range rs {
				if rs[i].Prefix = pfx("192.0.2.7"); rs[i].Kind == KindAllow {
					rs[i].Prefix = pfx("192.0.2.0/28")
				}
				rs[i].Ports = Ports{}
			}
		}
		rs = append(rs, decided(t, rs)...) // held, released, dropped
		a.Merge(base, rs)
		for _, batch := range shuffled(t, rs) {
			b.Merge(base, batch)
		}
		for _, now := range []int{0, 5, 10, 20, 29, 40} { // and it stays so as time passes
			a.Expire(tick(now))
			b.Expire(tick(now))
			if x, y := dump(a, false), dump(b, false); x != y {
				t.Fatalf("at %d:\n%s\n--- in another order:\n%s", now, x, y)
			}
		}
		if c := a.Counts(); c != (Counts{}) {
			t.Fatalf("left over: %+v", c)
		}
	})
}

// A testFrame is what travels. It is delivered whole, for as long as the last of its ops lives.
type testFrame struct {
	sent, dies int
	rs         []Record
}

// history draws what honest nodes say over time: no record ends before the one that it replaces, unless the same frame
// takes that back.
func history(t *rapid.T, steps int) (frames []testFrame, end int) {
	const skew = 5             // stands for ClockSkew
	last := map[groupKey]int{} // until when what was said about it can count
	seqs := map[Origin]uint64{}
	now := 0
	for range steps {
		now += rapid.IntRange(0, 4).Draw(t, "passes")
		o := rapid.SampledFrom(someOrigins).Draw(t, "origin")
		seqs[o]++
		f := testFrame{sent: now}
		add := func(k Kind, key groupKey, until int, ms []Mark) {
			f.rs = append(f.rs, Record{
				Op:     Op{Kind: k, Prefix: key.prefix, Ports: key.ports, Until: tick(until), Marks: ms},
				Origin: o, Version: Version{1, seqs[o], uint16(len(f.rs))}, Issued: tick(now),
			})
			f.dies = max(f.dies, until)
		}
		for range rapid.IntRange(1, 3).Draw(t, "ops") {
			key := groupKey{prefix: pfx(rapid.SampledFrom(somePrefixes[:6]).Draw(t, "prefix")), origin: o}
			until := now + rapid.IntRange(1, 30).Draw(t, "for")
			switch rapid.IntRange(0, 7).Draw(t, "say") {
			case 0, 1, 2, 3:
				key.ports = ports(rapid.SampledFrom(somePorts).Draw(t, "ports"))
				if old := last[key]; until < old {
					add(KindRevoke, key, old+skew, nil)
				}
				add(KindBan, key, until, nil)
				// What was taken back may arrive late, so the longest end continues to count.
				last[key] = max(until, last[key])
			case 4:
				if old := last[key]; old > now {
					add(KindRevoke, key, old+skew, nil)
					last[key] = old + skew
				}
			case 5:
				key.allow = true
				until = max(until, last[key])
				add(KindAllow, key, until, nil)
				last[key] = until
			case 6:
				add(KindUnban, key, until, someMarks(t, seqs))
			case 7:
				add(KindUnallow, key, until, someMarks(t, seqs))
			}
		}
		if len(f.rs) > 0 {
			frames = append(frames, f)
		}
	}
	return frames, now
}

func someMarks(t *rapid.T, seqs map[Origin]uint64) []Mark {
	ms := anyMarks(t)
	for i := range ms {
		ms[i].Epoch, ms[i].Seq = 1, min(ms[i].Seq, seqs[ms[i].Origin])
	}
	return ms
}

// Nodes agree once each has heard what still lives. Some hear the same frames at different times, some only after part
// of them has ended, and one comes back after all has been said.
func TestNodesConvergeWheneverTheyHear(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		quorum := rapid.IntRange(1, 3).Draw(t, "quorum")
		frames, end := history(t, rapid.IntRange(1, 25).Draw(t, "frames"))
		end += rapid.IntRange(0, 20).Draw(t, "later")
		restarted := anyTable(t, quorum)
		for _, f := range frames {
			if f.dies > end {
				restarted.Merge(tick(end), f.rs)
			}
		}
		want := dump(restarted, true)
		for range 3 {
			type arrival struct{ at, frame int }
			var arrivals []arrival
			for i, f := range frames {
				if f.sent <= end {
					arrivals = append(arrivals, arrival{rapid.IntRange(f.sent, end).Draw(t, "arrives"), i})
				}
			}
			slices.SortStableFunc(arrivals, func(a, b arrival) int { return a.at - b.at })
			tb := anyTable(t, quorum)
			kernel := map[ruleKey]int64{}
			for _, a := range arrivals {
				if f := frames[a.frame]; f.dies > a.at {
					if rapid.Bool().Draw(t, "timer") {
						if err := fold(kernel, tb.Expire(tick(a.at))); err != nil {
							t.Fatal(err)
						}
					}
					if err := fold(kernel, tb.Merge(tick(a.at), f.rs)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := fold(kernel, tb.Expire(tick(end))); err != nil {
				t.Fatal(err)
			}
			if got := dump(tb, true); got != want {
				t.Fatalf("at %d, after %+v:\n%s\n--- restarted:\n%s", end, arrivals, got, want)
			}
			if d := diffMaps(kernel, enforcedOf(restarted)); d != "" {
				t.Fatal(d)
			}
		}
	})
}

// When a node shortens what it said, the result of OwnOps holds even on a node that hears it only after the shorter
// record has ended, and without the unban of the longer one, whose origin was revoked since.
func TestShorterWordHoldsAfterARestart(t *testing.T) {
	lifts := map[Kind]Kind{KindBan: KindUnban, KindAllow: KindUnallow}
	for _, tt := range []struct {
		kind   Kind
		lifted bool
	}{{KindBan, false}, {KindAllow, false}, {KindBan, true}, {KindAllow, true}} {
		t.Run(fmt.Sprintf("ok: %s, lifted: %v", tt.kind, tt.lifted), func(t *testing.T) {
			writer, late := newTable(t, Config{}), newTable(t, Config{})
			inner := record(self, 1, tt.kind, "192.0.2.7", 90)
			long := record(self, 2, tt.kind, "192.0.2.0/24", 100)
			writer.Merge(base, []Record{inner, long})
			if tt.lifted {
				writer.Merge(base, single(record(peerA, 1, lifts[tt.kind], "192.0.2.0/24", 200, marks(upTo(self, 2)))))
				inner.Version.Seq, inner.Version.Epoch = 1, 2 // said again since
				writer.Merge(base, single(inner))
			}
			short := long.Op
			short.Until = tick(10)
			var rs []Record
			for i, op := range writer.OwnOps(short) {
				rs = append(rs, Record{Op: op, Origin: self, Version: Version{2, 3, uint16(i)}, Issued: base})
			}
			writer.Merge(base, rs)
			writer.Expire(tick(20))
			withdraw(t, writer, peerA, 16)
			late.Merge(tick(20), append(rs, long, inner))
			b := &late.bans
			if tt.kind == KindAllow {
				b = &late.allows
			}
			for _, tb := range []*Table{writer, late} {
				if _, ok := tb.own(&tb.bans, short.Prefix, Ports{}); ok && tt.kind == KindBan {
					t.Error("the longer ban counts again")
				}
				if got := tb.exceptionsOf("192.0.2.0/24"); tt.kind == KindAllow && got {
					t.Error("the longer allow counts again")
				}
			}
			if r, ok := late.own(b, inner.Prefix, Ports{}); !ok || !r.Until.Equal(inner.Until) {
				t.Errorf("bans inside it ended too: %+v %v", r, ok)
			}
		})
	}
}

// A node that heard everything and one that starts from the frames that still live enforce the same, even after one of
// the origins is revoked.
func TestRestartedNodesAgreeWithOthers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		open := func(o Origin) *Table {
			tb, err := New(Config{Self: o})
			if err != nil {
				t.Fatal(err)
			}
			return tb
		}
		nodes, seqs := map[Origin]*Table{}, map[Origin]uint64{}
		for _, o := range someOrigins {
			nodes[o] = open(o)
		}
		var frames []testFrame
		now := 0
		prefix := pfx("192.0.2.7")
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			now += rapid.IntRange(0, 9).Draw(t, "passes")
			o := rapid.SampledFrom(someOrigins[:2]).Draw(t, "origin")
			nodes[o].Expire(tick(now))
			var ops []Op
			if rapid.IntRange(0, 2).Draw(t, "say") > 0 {
				until := tick(now + rapid.SampledFrom([]int{3, 20, 100}).Draw(t, "for"))
				ops = nodes[o].OwnOps(Op{Kind: KindBan, Prefix: prefix, Until: until})
			} else {
				ops, _ = nodes[o].liftBans(tick(now), prefix, "", "")
			}
			if len(ops) == 0 {
				continue
			}
			seqs[o]++
			f := testFrame{sent: now, dies: int(Expires(ops).Sub(base).Seconds())}
			for i, op := range ops {
				f.rs = append(f.rs, Record{Op: op, Origin: o, Version: Version{1, seqs[o], uint16(i)}, Issued: tick(now)})
			}
			frames = append(frames, f)
			for _, tb := range nodes {
				tb.Merge(tick(now), f.rs)
			}
		}
		now += rapid.IntRange(0, 20).Draw(t, "later")
		revoked := rapid.SampledFrom([]Origin{{}, someOrigins[0], someOrigins[1]}).Draw(t, "revoked")
		for o, tb := range nodes {
			if o == revoked {
				continue
			}
			tb.Expire(tick(now))
			withdraw(t, tb, revoked, 16)
			fresh := open(o)
			for _, f := range frames {
				if f.dies > now && f.rs[0].Origin != revoked {
					fresh.Merge(tick(now), f.rs)
				}
			}
			if got, want := enforcedOf(tb), enforcedOf(fresh); !maps.Equal(got, want) {
				t.Fatalf("%v at %d, %v revoked: enforces %v, and %v after a restart", o.Short(), now, revoked.Short(), got, want)
			}
		}
	})
}

func (t *Table) exceptionsOf(s string) bool { return t.allowing(keyOf(pfx(s))) != 0 }
