package ban

import "testing"

// If a node lost a ban of its own and now bans for a shorter time, it takes the lost ban back when that returns.
// Otherwise a node that hears of the shorter ban too late would enforce the longer one.
func TestAmend(t *testing.T) {
	const addr = "192.0.2.7"
	long, short := record(self, 1, KindBan, addr, 1000), record(self, 2, KindBan, addr, 100)
	for _, tt := range []struct {
		name string
		said []Record
		back Record
		want []Kind
	}{
		{"bad: the longer one comes back", []Record{short, long}, long, []Kind{KindRevoke, KindBan}},
		{"bad: the shorter one comes back", []Record{long, short}, short, []Kind{KindRevoke, KindBan}},
		{"bad: the shorter one was lifted since", []Record{short, record(peerA, 9, KindUnban, addr, 5000, marks(upTo(self, 2))), long}, long, []Kind{KindRevoke}},
		{"bad: an allow", []Record{record(self, 2, KindAllow, addr, 100), record(self, 1, KindAllow, addr, 1000)}, record(self, 1, KindAllow, addr, 1000), []Kind{KindUnallow, KindAllow}},
		{"ok: what was said since lasts longer", []Record{long, record(self, 2, KindBan, addr, 2000)}, long, nil},
		{"ok: nothing was said since", []Record{long}, long, nil},
		{"ok: other ports", []Record{long, record(self, 2, KindBan, addr, 100, onPorts("22/tcp"))}, long, nil},
		{"ok: another node's", []Record{record(peerA, 2, KindBan, addr, 100), record(peerA, 1, KindBan, addr, 1000)}, record(peerA, 1, KindBan, addr, 1000), nil},
		{"ok: it is gone again", nil, long, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tb := newTable(t, Config{})
			tb.Merge(tick(3), tt.said)
			ops := tb.Amend(tt.back)
			var kinds []Kind
			late := newTable(t, Config{}) // hears of the longer ban first, and of the amendment once the shorter ban is over
			late.Merge(tick(3), []Record{tt.back})
			for i, op := range ops {
				kinds = append(kinds, op.Kind)
				late.Merge(tick(150), single(Record{Op: op, Origin: self, Version: Version{Epoch: 2, Seq: 1, Index: uint16(i)}, Issued: tick(4)}))
			}
			if len(kinds) != len(tt.want) {
				t.Fatalf("says %v, want %v", kinds, tt.want)
			}
			for i := range kinds {
				if kinds[i] != tt.want[i] {
					t.Errorf("says %v, want %v", kinds, tt.want)
				}
			}
			if n := len(enforcedOf(late)); len(ops) > 0 && n > 0 {
				t.Errorf("%d bans are enforced where it comes late", n)
			}
		})
	}
}
