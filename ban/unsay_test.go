package ban

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

// Some tables have merged the wrong one of two frames with one number. Once that is taken back and the rest is merged
// again, they and their kernels ban what all others ban.
func TestUnsayLeavesNoTrace(t *testing.T) {
	t.Parallel()
	prefixes := []string{"192.0.2.1/32", "192.0.2.2/32", "192.0.2.0/25", "192.0.2.0/24"}
	kinds := []Kind{KindBan, KindBan, KindBan, KindRevoke, KindUnban, KindAllow, KindUnallow}
	origins := []Origin{peerA, peerB}
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 12))
		said := func(o Origin, seq int) (rs []Record) {
			for i := range 1 + rng.IntN(3) {
				r := record(o, seq, kinds[rng.IntN(len(kinds))], prefixes[rng.IntN(len(prefixes))], 100+rng.IntN(100), atIndex(uint16(i)))
				if r.Kind == KindUnban || r.Kind == KindUnallow {
					r.Marks = []Mark{upTo(origins[rng.IntN(2)], uint64(rng.IntN(seq)+1))}
				} else if rng.IntN(4) == 0 && r.Kind == KindBan {
					r.Ports = ports("22")
				}
				if rng.IntN(8) == 0 {
					r.Hold = HoldBreaker
				}
				rs = append(rs, r)
			}
			return rs
		}
		var good, bad [][]Record
		for seq := 1; seq <= 6; seq++ {
			for _, o := range origins {
				good = append(good, said(o, seq))
				if rng.IntN(3) == 0 {
					bad = append(bad, said(o, seq))
				}
			}
		}
		want, got := newTable(t, Config{}), newTable(t, Config{})
		for _, rs := range good {
			want.Merge(tick(10), rs)
		}
		kernel := map[ruleKey]int64{}
		note := func(cs []Change) {
			if err := fold(kernel, cs); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		first := append(append([][]Record(nil), good...), bad...)
		rng.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
		for _, rs := range first {
			note(got.Merge(tick(10), rs))
		}
		for _, rs := range bad {
			note(got.Unsay(tick(10), rs))
		}
		for _, rs := range good {
			note(got.Merge(tick(10), rs))
		}
		for at := 10; at < 210; at += 10 { // as time passes, bans that were hidden come to light
			want.Expire(tick(at))
			note(got.Expire(tick(at)))
			if a, b := enforcedOf(want), enforcedOf(got); !maps.Equal(a, b) || !maps.Equal(b, kernel) || want.states != got.states {
				t.Fatalf("seed %d, at %d: enforces %v, want %v; kernel %v; states %v, want %v", seed, at, b, a, kernel, got.states, want.states)
			}
		}
		if n := fmt.Sprint(got.records(), got.lifts.all.live); n != fmt.Sprint(want.records(), want.lifts.all.live) {
			t.Fatalf("seed %d: %s records are left, want %d", seed, n, want.records())
		}
	}
}
