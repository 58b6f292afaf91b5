package ban

import (
	"net/netip"
	"testing"
	"time"
)

func TestBanIsEnforcedUntilItsEnd(t *testing.T) {
	tb, err := New(Config{Self: Origin{1}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(1_700_000_000_000).UTC()
	op := Op{Kind: KindBan, Prefix: netip.MustParsePrefix("192.0.2.7/32"), Until: now.Add(time.Minute)}
	b, err := AppendOps(nil, []Op{op})
	if err != nil {
		t.Fatal(err)
	}
	ops, err := DecodeOps(b)
	if err != nil {
		t.Fatal(err)
	}
	cs := tb.Merge(now, []Record{{Op: ops[0], Origin: Origin{2}, Version: Version{1, 1, 0}, Issued: now}})
	if len(cs) != 1 || cs[0].Event != EventBan || !cs[0].Enforce {
		t.Fatalf("got %+v", cs)
	}
	if cs := tb.Expire(now.Add(time.Minute)); len(cs) != 1 || !cs[0].Lift {
		t.Fatalf("got %+v", cs)
	}
}
