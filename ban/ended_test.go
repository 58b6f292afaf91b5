package ban

import (
	"slices"
	"testing"
)

// The unbans that ended last are remembered, as many as there is room for.
func TestEndedIsBounded(t *testing.T) {
	const extra = 10
	tb := newTable(t, Config{})
	for i := range maxEnded + extra {
		tb.Merge(base, single(record(peerA, i+1, KindUnban, "192.0.2.7", i+1, marks(upTo(origin(i), uint64(i+1))))))
	}
	for at, ok := tb.Next(); ok; at, ok = tb.Next() {
		tb.Expire(at)
	}
	ended := tb.Ended()
	if len(ended) != maxEnded {
		t.Fatalf("%d are remembered, want %d", len(ended), maxEnded)
	}
	for _, seq := range []uint64{extra, extra + 1, maxEnded + extra} {
		is := slices.ContainsFunc(ended, func(r Record) bool { return r.Marks[0].Seq == seq })
		if want := seq > extra; is != want {
			t.Errorf("unban %d of %d is remembered: %v, want %v", seq, maxEnded+extra, is, want)
		}
	}
}

func origin(i int) Origin { return Origin{1, byte(i >> 16), byte(i >> 8), byte(i)} }

// If the clock is set back, a ban comes back lifted, provided that what lifted it is merged first.
func TestEndedLiftsAgain(t *testing.T) {
	tb := newTable(t, Config{})
	lifted := record(peerA, 1, KindBan, "192.0.2.7", 100)
	tb.Merge(base, []Record{lifted, record(peerB, 1, KindUnban, "192.0.2.7", 200, marks(upTo(peerA, 1)))})
	tb.Expire(tick(1000))
	tb.Merge(tick(10), tb.Ended())
	if changes := tb.Merge(tick(10), single(lifted)); len(changes) != 0 || len(enforcedOf(tb)) != 0 {
		t.Errorf("%+v, in force: %v", changes, enforcedOf(tb))
	}
}
