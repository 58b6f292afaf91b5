package fw

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// A fresh ban used to wait behind any bulk of more than 8,192 updates.
func TestFreshPassesAnyBulk(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	at := func(i int) Update {
		return Update{Entry: Entry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)}}
	}
	var in inbox
	next, taken := 0, 0
	for range 2000 {
		switch rng.IntN(3) {
		case 0, 1:
			some := make([]Update, rng.IntN(300))
			for j := range some {
				some[j] = at(next)
				next++
			}
			in.bulk.put(some, nil)
		case 2:
			got, _ := in.bulk.take(rng.IntN(300))
			taken += len(got)
		}
		for range 4 {
			i := rng.IntN(next + 10)
			if waits := i >= taken && i < next; in.passes([]Update{at(i)}) == waits {
				t.Fatalf("of %d to %d in the bulk, %d: waits is %v", taken, next, i, waits)
			}
		}
	}
	if in.bulk.updates <= indexAbove {
		t.Fatalf("only %d updates in the bulk: its index was not tried", in.bulk.updates)
	}
	in.bulk.drop()
	if !in.passes([]Update{at(taken)}) {
		t.Error("the queue waits for a dropped change")
	}
}

// Updates of peers that pass a bulk must not keep this node's own from passing it.
func TestOwnPassesFresh(t *testing.T) {
	var in inbox
	for i := range maxInline {
		in.fresh.put([]Update{{Entry: Entry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)}}}, nil)
	}
	other := Update{Entry: Entry{Prefix: netip.MustParsePrefix("192.0.2.1/32")}}
	own := other
	own.Own = true
	if in.passes([]Update{other}) || !in.passes([]Update{own}) {
		t.Error("want an own update, and no other, to pass a bulk beside a full queue of fresh ones")
	}
}
