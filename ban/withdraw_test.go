package ban

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// steps runs a withdrawal or readmission in small steps and folds their changes into kernel.
func steps(t *rapid.T, kernel map[ruleKey]int64, step func(cursor uint32) ([]Change, uint32)) {
	for cursor := uint32(0); ; {
		cs, next := step(cursor)
		if err := fold(kernel, cs); err != nil {
			t.Fatal(err)
		}
		if cursor = next; cursor == 0 {
			return
		}
	}
}

// A table from which an origin was withdrawn enforces the same as one that never heard of the origin, whether the
// origin's records came before or after. Once the origin is readmitted, it enforces the same as one that heard
// everything.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		records := anyRecords(rt, rapid.IntRange(0, 30).Draw(rt, "records"), 100)
		quorum := rapid.IntRange(1, 2).Draw(rt, "quorum")
		out := rapid.SampledFrom(someOrigins[1:]).Draw(rt, "withdrawn")
		n := rapid.IntRange(1, 5).Draw(rt, "step")
		split := rapid.IntRange(0, len(records)).Draw(rt, "split")
		var others []Record
		for _, r := range records {
			if r.Origin != out {
				others = append(others, r)
			}
		}
		cfg := Config{Self: self, Quorum: Quorum{Origins: quorum}}
		table, full, without := newTable(t, cfg), newTable(t, cfg), newTable(t, cfg)
		full.Merge(tick(0), records)
		without.Merge(tick(0), others)

		kernel := make(map[ruleKey]int64)
		if err := fold(kernel, table.Merge(tick(0), records[:split])); err != nil {
			rt.Fatal(err)
		}
		steps(rt, kernel, func(c uint32) ([]Change, uint32) { return table.Withdraw(out, Withdrawal{"revoked", tick(0)}, c, n) })
		if err := fold(kernel, table.Merge(tick(0), records[split:])); err != nil {
			rt.Fatal(err)
		}
		if want := enforcedOf(without); !maps.Equal(kernel, want) || !maps.Equal(enforcedOf(table), want) {
			rt.Fatalf("withdrawn: %s", diffMaps(kernel, want))
		}
		steps(rt, kernel, func(c uint32) ([]Change, uint32) { return table.Readmit(out, c, n) })
		if want := enforcedOf(full); !maps.Equal(kernel, want) || !maps.Equal(enforcedOf(table), want) {
			rt.Fatalf("readmitted: %s", diffMaps(kernel, want))
		}
	})
}

func TestWhyWithdrawn(t *testing.T) {
	table := newTable(t, Config{})
	table.Merge(tick(0), []Record{record(peerA, 1, KindBan, "192.0.2.7", 50), record(peerB, 1, KindBan, "192.0.2.7", 40)})
	table.Withdraw(peerA, Withdrawal{"revoked: stolen", tick(3)}, 0, 1000)
	got := table.Why(pfx("192.0.2.7"))
	if len(got) != 2 || got[0].Origin != peerB || got[0].Status != "enforced" || !strings.Contains(got[1].Status, "revoked: stolen") || got[1].By != peerA {
		t.Errorf("%+v", got)
	}
	if _, err := table.liftBans(tick(1), pfx("192.0.2.7"), "", ""); err != nil {
		t.Error(err)
	}
}

// An unban lifted nothing if the unban of a withdrawn node had reached as far.
func TestUnbanAfterAVoidOne(t *testing.T) {
	table := newTable(t, Config{Self: self})
	table.Merge(tick(0), []Record{
		record(peerA, 1, KindBan, "192.0.2.7", 600), record(peerB, 1, KindUnban, "192.0.2.7", 900, marks(upTo(peerA, 1))),
	})
	if changes, _ := table.Withdraw(peerB, Withdrawal{"revoked", tick(2)}, 0, 100); len(changes) != 1 || !changes[0].Enforce {
		t.Fatalf("the ban does not count again: %+v", changes)
	}
	if changes := table.Merge(tick(3), single(record(self, 3, KindUnban, "192.0.2.7", 900, marks(upTo(peerA, 1))))); len(changes) != 1 || !changes[0].Lift {
		t.Errorf("not lifted: %+v", changes)
	}
	if left := enforcedOf(table); len(left) > 0 {
		t.Errorf("enforced: %v", left)
	}
}

// What a node had lifted came back with its revocation, although another node had lifted the same address since.
func TestUnbanHoldsWithoutTheOneBefore(t *testing.T) {
	table := newTable(t, Config{Self: self})
	table.Merge(tick(0), []Record{
		record(peerA, 1, KindBan, "192.0.2.7", 600), record(peerB, 1, KindUnban, "192.0.2.7", 900, marks(upTo(peerA, 1))),
	})
	if _, err := table.liftBans(tick(1), pfx("192.0.2.7"), "", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("there was nothing to lift: %v", err)
	}
	table.Merge(tick(1), single(record(peerC, 1, KindBan, "192.0.2.7", 600)))
	ops, err := table.liftBans(tick(2), pfx("192.0.2.7"), "", "")
	if err != nil || len(ops) != 1 {
		t.Fatalf("%v, %v", ops, err)
	}
	if changes := table.Merge(tick(2), single(record(self, 1, KindUnban, "192.0.2.7", 900, marks(ops[0].Marks...)))); len(changes) != 1 || !changes[0].Lift {
		t.Errorf("not lifted: %+v", changes)
	}
	if changes, _ := table.Withdraw(peerB, Withdrawal{"revoked", tick(3)}, 0, 100); len(changes) > 0 {
		t.Errorf("back: %+v", changes)
	}
}
