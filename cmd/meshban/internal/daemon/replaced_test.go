package daemon

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh/frame"
)

// A peer signs two frames with the same number. Whichever one a node hears first, it ends up with the bans of the one
// that the mesh keeps and of the peer's earlier frames, and with none of the other's.
func TestReplacedFrames(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Millisecond)
	f := func(seq uint64, ops ...ban.Op) frame.Frame {
		payload, err := ban.AppendOps(nil, ops)
		if err != nil {
			t.Fatal(err)
		}
		return frame.Frame{Origin: frame.ID{9}, Epoch: 1, Seq: seq, Issued: now, Expires: now.Add(time.Hour), Payload: payload}
	}
	says := func(kind ban.Kind, addr string, last time.Duration) ban.Op {
		return ban.Op{Kind: kind, Prefix: netip.MustParsePrefix(addr + "/32"), Until: now.Add(last), Source: "test"}
	}
	before := f(1, says(ban.KindBan, "192.0.2.1", 40*time.Minute), says(ban.KindBan, "192.0.2.2", 40*time.Minute))
	lost := f(2, says(ban.KindRevoke, "192.0.2.1", time.Hour), says(ban.KindBan, "192.0.2.2", time.Minute), says(ban.KindBan, "192.0.2.3", time.Hour),
		says(ban.KindBan, "192.0.2.4", 2*time.Minute))
	kept := f(2, says(ban.KindBan, "192.0.2.4", 3*time.Minute))
	want, got := first(t, "a"), first(t, "b")
	for _, n := range []*node{want, got} {
		n.deliver([]frame.Frame{before})
	}
	want.deliver([]frame.Frame{kept})
	got.deliver([]frame.Frame{lost})
	until(t, "what was heard first counts", func() bool { return got.enforces(t, "192.0.2.3/32") && !got.enforces(t, "192.0.2.1/32") })
	got.replaced([]frame.Frame{lost})
	got.deliver([]frame.Frame{kept})
	got.retold(slices.Values([]frame.Frame{before, kept}))
	for _, prefix := range []string{"192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32"} {
		until(t, prefix+" is as if the lost frame had never come", func() bool {
			a, okA := want.entry(t, prefix)
			b, okB := got.entry(t, prefix)
			return okA == okB && (!okA || a.State == b.State && a.Until.Equal(b.Until.Time))
		})
	}
}
