package ban

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func TestRemoteBans(t *testing.T) {
	tb := newTable(t, Config{Never: []NeverEntry{{pfx("192.0.2.9"), "gateway"}}})
	tb.Merge(base, []Record{
		record(peerA, 1, KindBan, "192.0.2.0/24", 60),
		record(self, 1, KindBan, "192.0.2.1", 60),
		record(peerA, 2, KindBan, "192.0.2.1", 40),
		record(peerB, 1, KindBan, "192.0.2.1", 50),
		record(peerB, 2, KindBan, "192.0.2.9", 60),
		record(peerB, 3, KindBan, "192.0.2.2", 60),
		record(peerA, 3, KindUnban, "192.0.2.2", 60, marks(upTo(peerB, 3))),
	})
	for _, tt := range []struct {
		name, addr string
		at         int
		want       []Origin
	}{
		{"ok: of two others, not of this node", "192.0.2.1", 0, []Origin{peerA, peerB}},
		{"ok: 4-in-6", "::ffff:192.0.2.1", 0, []Origin{peerA, peerB}},
		{"ok: one has ended", "192.0.2.1", 45, []Origin{peerB}},
		{"bad: only the prefix around it", "192.0.2.7", 0, nil},
		{"bad: never banned", "192.0.2.9", 0, nil},
		{"bad: lifted", "192.0.2.2", 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []Origin
			for r := range tb.RemoteBans(tick(tt.at), netip.MustParseAddr(tt.addr)) {
				got = append(got, r.Origin)
			}
			slices.SortFunc(got, func(a, b Origin) int { return slices.Compare(a[:], b[:]) })
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	for range tb.RemoteBans(base, netip.Addr{}) {
		t.Error("bad: no address")
	}
}
