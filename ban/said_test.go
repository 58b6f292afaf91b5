package ban

import (
	"net/netip"
	"testing"
	"time"
	"unsafe"
)

// A claim must stay small, because there can be a million of them.
func TestClaimSize(t *testing.T) {
	if n := unsafe.Sizeof(claim{}); n > 64 {
		t.Errorf("a claim has %d bytes, want at most 64", n)
	}
}

// SaidAfter goes by arrival alone and returns only bans that count.
func TestSaidAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	bad, other := Origin{2}, Origin{3}
	prefix := func(i byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, i}), 32) }
	seq := uint64(0)
	record := func(o Origin, kind Kind, i byte, issued, arrived time.Duration) Record {
		seq++
		r := Record{
			Op:     Op{Kind: kind, Prefix: prefix(i), Until: now.Add(time.Hour)},
			Origin: o, Version: Version{Epoch: 1, Seq: seq}, Issued: now.Add(issued), Arrived: now.Add(arrived),
		}
		if kind == KindUnban {
			r.Marks = []Mark{{bad, 1, seq}}
		}
		return r
	}
	table, err := New(Config{Self: Origin{1}})
	if err != nil {
		t.Fatal(err)
	}
	const early, late = -2 * time.Hour, -time.Minute
	held, unknown := record(bad, KindBan, 4, early, early), record(bad, KindBan, 5, early, early)
	held.Hold, unknown.Arrived = HoldRate, time.Time{}
	refreshed := record(bad, KindBan, 8, early, early)
	again := refreshed
	again.Arrived = now // a repetition changes nothing
	table.Merge(now, []Record{
		record(bad, KindBan, 1, early, early),
		record(bad, KindBan, 2, early, late), // backdated
		record(bad, KindBan, 3, late, early), // from a clock that is ahead
		held, unknown,
		record(bad, KindAllow, 6, early, early),
		record(other, KindBan, 7, early, early),
		refreshed, again,
		record(bad, KindBan, 9, early, early), record(other, KindUnban, 9, late, late),
		record(bad, KindUnban, 10, early, early),
		record(bad, KindBan, 11, early, early), record(bad, KindBan, 11, early, late), // refreshed later
	})
	got := map[netip.Prefix]bool{}
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		var ops []Op
		ops, cursor = table.SaidAfter(now, bad, now.Add(-time.Hour), cursor, 2)
		for _, op := range ops {
			if op.Kind != KindBan || got[op.Prefix] {
				t.Errorf("said again: %+v", op)
			}
			got[op.Prefix] = true
		}
	}
	for i := byte(1); i < 12; i++ {
		if want := i == 1 || i == 3 || i == 8; got[prefix(i)] != want {
			t.Errorf("%v: %v, want %v", prefix(i), got[prefix(i)], want)
		}
	}
	counts := map[Kind]int{}
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		var rs []Record
		rs, cursor = table.SaidBy(now, bad, cursor, 2)
		for _, r := range rs {
			counts[r.Kind]++
		}
	}
	if counts[KindBan] != 8 || counts[KindAllow] != 1 || counts[KindUnban] != 1 {
		t.Errorf("said: %v", counts)
	}
}
