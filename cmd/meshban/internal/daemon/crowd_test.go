package daemon

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh"
)

// fill bans enough addresses to be listed and loaded in several chunks.
func (n *node) fill(t *testing.T) {
	t.Helper()
	req := control.BanRequest{Addrs: crowd(3*lockChunk+1, 3), For: control.Duration(time.Hour), Source: "import"}
	if _, err := n.Ban(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// However slow the reader of a list is, bans go on at every point of the list.
func TestASlowListHoldsUpNobody(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	n.fill(t)
	seen := 0
	err := n.List(t.Context(), false, func(control.ListEntry) error {
		if seen++; seen%lockChunk != 1 {
			return nil
		}
		// In the middle of the list, from the goroutine that would hold the lock.
		n.ban(t, time.Hour, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(seen / lockChunk)}), 32).String())
		return nil
	})
	if err != nil || seen < 3*lockChunk+1 {
		t.Errorf("%d entries, %v", seen, err)
	}
	if !n.takes(t, "192.0.2.0/32") || !n.takes(t, "192.0.2.3/32") {
		t.Error("what was banned meanwhile is not there")
	}
}

func TestALoadOfTheFirewallHoldsUpNobody(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	n.fill(t)
	seen := 0
	n.state.Snapshot().Entries(func(fw.Entry) bool {
		if seen++; seen%lockChunk == 1 {
			n.ban(t, time.Hour, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(seen / lockChunk)}), 32).String())
		}
		return true
	})
	if seen < 3*lockChunk+1 || !n.takes(t, "192.0.2.3/32") {
		t.Errorf("%d entries", seen)
	}
}

// A request of many slices fills its frames, and its results keep the request's order even if some are refused.
func TestARequestOfManySlicesFillsFrames(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	addrs := crowd(4*lockChunk, 4)
	for i := 7; i < len(addrs); i += 100 {
		addrs[i] = netip.MustParsePrefix("127.0.0.1/32")
	}
	req := control.BanRequest{Addrs: addrs, For: control.Duration(time.Hour), Source: "import", Reason: "a list"}
	reply, err := n.Ban(t.Context(), req)
	if err != nil || len(reply.Results) != len(addrs) {
		t.Fatalf("%d results, %v", len(reply.Results), err)
	}
	for i, r := range reply.Results {
		if r.Prefix.Prefix != addrs[i] || (r.Err != nil) != (i%100 == 7) || (r.Err == nil) == r.Until.IsZero() {
			t.Fatalf("result %d = %+v for %v", i, r, addrs[i])
		}
	}
	if held := n.mesh.Stats().Held; held > 4*lockChunk/70+1 {
		t.Errorf("%d frames for %d bans", held, n.counts().Active)
	}
}

// While an import uses up the bulk rate, a single ban is answered at once. The bans of a small request take effect
// before the request waits for its turn.
func TestAFewBansDoNotWaitBehindAnImport(t *testing.T) {
	a := first(t, "a")
	b := a.join(t, "b")
	until(t, "a sees b", func() bool { return a.mesh.Peers() == 1 })
	for range 10 * int(patience/time.Second) * mesh.SayBulkRate / mesh.SayBulkBurst { // more than anyone waits for
		a.bulkRate.ReserveN(time.Now(), mesh.SayBulkBurst)
	}
	a.ban(t, time.Hour, "192.0.2.1/32")

	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	answered := make(chan error, 1)
	few := control.BanRequest{For: control.Duration(time.Hour), Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32"), netip.MustParsePrefix("192.0.2.3/32")}}
	go func() {
		_, err := a.Ban(ctx, few)
		answered <- err
	}()
	for _, prefix := range []string{"192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"} {
		until(t, "b enforces "+prefix, func() bool { return b.enforces(t, prefix) })
	}
	select {
	case err := <-answered:
		t.Errorf("a few bans were answered (%v) before their turn: who sends many such requests has no bound", err)
	default:
	}
	giveUp()
	if err := <-answered; err != nil {
		t.Errorf("the wait was given up: %v, want the answer to bans that are in force", err)
	}
}
