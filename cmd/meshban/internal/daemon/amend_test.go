package daemon

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh/frame"
)

// A node that lost its store bans an address for a shorter time, then receives its own earlier, longer ban: it revokes
// that ban for every node. It leaves alone what a clone of it said in the same epoch or a later one; otherwise the two
// would amend each other forever.
func TestALostBanIsTakenBack(t *testing.T) {
	t.Parallel()
	const addr = "192.0.2.1/32"
	n := first(t, "a")
	former := n.said(t, addr, 2*time.Hour)
	n.stop()
	if err := os.Remove(n.home.Store()); err != nil {
		t.Fatal(err)
	}
	until(t, "an epoch that is a later one", func() bool { return time.Now().Unix() > int64(former.Epoch) })
	n = start(t, n.home, n.cfg)
	copied := n.said(t, addr, 3*time.Hour)
	n.ban(t, 10*time.Minute, addr)
	for _, tt := range []struct {
		name string
		back frame.Frame
		want uint64
	}{{"what a copy has said", copied, 0}, {"the former ban", former, 1}} {
		before := n.mesh.Stats().Published
		n.deliver([]frame.Frame{tt.back})
		if got := n.mesh.Stats().Published - before; got != tt.want {
			t.Errorf("%s came: %d frames were published, want %d", tt.name, got, tt.want)
		}
	}
	if e, ok := n.entry(t, addr); !ok || time.Until(e.Until.Time) > 10*time.Minute {
		t.Errorf("%+v, %v", e, ok)
	}
}

// said publishes a ban in the node's name that its table does not know.
func (n *node) said(t *testing.T, addr string, length time.Duration) frame.Frame {
	t.Helper()
	now := time.Now()
	ops := []ban.Op{{Kind: ban.KindBan, Prefix: netip.MustParsePrefix(addr), Until: endOf(now, length), Source: "test"}}
	payload, err := ban.AppendOps(nil, ops)
	if err != nil {
		t.Fatal(err)
	}
	f, err := n.mesh.Publish(now, payload, ban.Expires(ops))
	if err != nil {
		t.Fatal(err)
	}
	return f
}
