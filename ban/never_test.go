package ban

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// No entry covers a prefix that the quick check finds far from all of them.
func TestNeverListCovers(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	random := func() netip.Prefix {
		a := netip.AddrFrom4([4]byte{byte(10 + rng.IntN(2)), byte(rng.IntN(4)), byte(rng.Uint32()), byte(rng.Uint32())})
		p, err := a.Prefix(rng.IntN(33))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	inside := 0
	for range 200 {
		var es []NeverEntry
		for range rng.IntN(4) {
			es = append(es, NeverEntry{random(), "test"})
		}
		l := newNeverList(es)
		for range 50 {
			k := keyOf(random())
			want := false
			for w := range l.why {
				want = want || w.contains(k)
			}
			if l.covers(k) != want {
				t.Fatalf("%v: covers %v = %v, want %v", es, k.prefix(), !want, want)
			}
			if _, ok := l.covering(k); ok != want {
				t.Fatalf("%v: covering %v = %v, want %v", es, k.prefix(), !want, want)
			}
			if want {
				inside++
			}
		}
	}
	if inside < 100 {
		t.Fatalf("only %d of the prefixes lay inside an entry", inside)
	}
}
