package ban

import (
	"fmt"
	"maps"
	"testing"
)

// A hundred thousand bans that ended in the same second once held up every other call until all were gone.
func TestWhatEndsTogetherEndsInSlices(t *testing.T) {
	tb := newTable(t, Config{})
	const n = 10*MaxExpire + 7
	var rs []Record
	for i := range n {
		rs = append(rs, record(peerA, i+1, KindBan, fmt.Sprintf("198.51.%d.%d", i>>8, i&255), 5))
	}
	kernel := map[ruleKey]int64{}
	if err := fold(kernel, tb.Merge(base, rs)); err != nil {
		t.Fatal(err)
	}
	now, calls := tick(10), 0
	for at, ok := tb.Next(); ok && !at.After(now); at, ok = tb.Next() {
		calls++
		// Bans that arrive in the meantime get in, and merging them also ends what is due a slice at a time.
		fresh := record(peerB, calls, KindBan, fmt.Sprintf("203.0.113.%d", calls), 60)
		renewed := record(peerA, n+calls, KindBan, fmt.Sprintf("198.51.0.%d", calls), 60)
		for _, cs := range [][]Change{tb.Expire(now), tb.Merge(now, []Record{fresh, renewed})} {
			if len(cs) > MaxExpire+2 {
				t.Fatalf("%d changes in one call", len(cs))
			}
			if err := fold(kernel, cs); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := tb.Counts().Active; got != 2*calls || calls < n/(2*MaxExpire) {
		t.Errorf("%d active after %d calls", got, calls)
	}
	if !maps.Equal(kernel, enforcedOf(tb)) {
		t.Errorf("the kernel holds %d, the table says %d", len(kernel), len(enforcedOf(tb)))
	}
	if err := sound(tb); err != nil {
		t.Error(err)
	}
}

func TestEnforcedAfterIsEnforced(t *testing.T) {
	tb := newTable(t, Config{Quorum: Quorum{Origins: 2}})
	for i := range 50 {
		tb.Merge(base, single(record(peerA, i+1, KindBan, fmt.Sprintf("198.51.100.%d", i), 90)))
		if i%3 == 0 {
			tb.Merge(base, single(record(peerB, i+1, KindBan, fmt.Sprintf("198.51.100.%d", i), 80)))
		}
	}
	got := map[ruleKey]int64{}
	var rules []Rule
	for cursor, more := uint32(0), true; more; more = cursor != 0 {
		rules, cursor = tb.EnforcedAfter(cursor, 7, rules[:0])
		for _, r := range rules {
			got[ruleKey{r.Prefix, r.Ports}] = millis(r.Until)
		}
	}
	if want := enforcedOf(tb); len(want) != 17 || !maps.Equal(got, want) {
		t.Errorf("%d rules, want %d", len(got), len(want))
	}
}
