package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// Other nodes hold an op that lifts many bans of others, and the command names these nodes. The same command where
// the authority's key is counts everywhere.
func TestMassLifting(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b, c := a.join(t, "b"), a.join(t, "c")
	const bans, most = 30, 10
	for _, n := range []*node{a, b, c} {
		n.tighten(func(c *config.Config) { c.Peers.Burst, c.Peers.Rate = most, 1 })
	}
	now := time.Now()
	var ops []ban.Op
	for i := range bans {
		ops = append(ops, ban.Op{
			Kind: ban.KindBan, Prefix: netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i)), Until: endOf(now, time.Hour), Source: ban.SourceImport,
		})
	}
	if err := a.publish(now, ops); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{b, c} {
		until(t, "all bans count", func() bool { return n.counts().Active == bans })
	}
	req := control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	reply, err := b.Unban(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	e := reply.Results[0].Err
	if e == nil || e.Code != control.CodePolicy || e.Rule != ban.RuleLift || !strings.Contains(e.Message, "a, c") {
		t.Errorf("unban on b: %+v", e)
	}
	if x, y, z := a.counts().Active, b.counts().Active, c.counts().Active; x != bans || y != 0 || z != bans {
		t.Errorf("a has %d bans in force, b %d, c %d", x, y, z)
	}
	var lifts int
	var problem string
	a.state.View(func(t *ban.Table) { lifts, problem = t.LiftsWaiting(), a.heldProblemLocked(t) })
	if lifts != 1 || !strings.Contains(problem, "lift bans") {
		t.Errorf("%d lifts wait on a: %q", lifts, problem)
	}
	reply, err = a.Unban(t.Context(), req)
	if err != nil || reply.Results[0].Err != nil {
		t.Fatal(reply, err)
	}
	for _, n := range []*node{a, b, c} {
		until(t, "all is lifted", func() bool { return n.counts().Active == 0 })
	}
}

// The node with the authority's key lifted many bans of others in a prefix where it had banned many addresses itself. The
// authority used to revoke what it had never said, so the node's own bans stayed, at home and elsewhere, while the command
// reported success.
func TestMassLiftingTakesOwnBansBackToo(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	const bans, own, most = 30, 300, 10
	for _, n := range []*node{a, b} {
		n.tighten(func(c *config.Config) { c.Peers.Burst, c.Peers.Rate = most, 1 })
	}
	now := time.Now()
	say := func(n *node, third, count int) {
		var ops []ban.Op
		for i := range count {
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(third + i>>8), byte(i)}), 32)
			ops = append(ops, ban.Op{Kind: ban.KindBan, Prefix: prefix, Until: endOf(now, time.Hour), Source: ban.SourceImport})
		}
		if err := n.publish(now, ops); err != nil {
			t.Fatal(err)
		}
	}
	say(b, 0, bans)
	say(a, 1, own)
	for _, n := range []*node{a, b} {
		until(t, "all bans count", func() bool { return n.counts().Active == bans+own })
	}
	reply, err := a.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")}})
	if err != nil || reply.Results[0].Err != nil {
		t.Fatal(reply, err)
	}
	for _, n := range []*node{a, b} {
		until(t, "all is lifted", func() bool { return n.counts().Active == 0 })
	}
}

// A peer that refused the lift, or reported something else meanwhile, used to be taken for one that had lifted it too, and
// the command reported success.
func TestWhatAPeerSaysOfALift(t *testing.T) {
	t.Parallel()
	now := time.Now()
	said := func(at time.Time, lifts, refused uint32) report {
		r := report{at: at}
		r.lifts, r.waiting, r.count[len(r.count)-1] = lifts, lifts, refused
		return r
	}
	for _, c := range []struct {
		name string
		r    report
		want int
	}{
		{"never a word", report{}, liftSilent},
		{"a word of before", said(now.Add(-time.Second), 1, 0), liftSilent},
		{"held", said(now, 1, 3), liftHeld},
		{"refused", said(now, 0, 4), liftRefused},
		{"a word of something else", said(now, 0, 3), liftSilent},
	} {
		if got := c.r.ofLift(now, 3); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// Lifting a very wide prefix holds up no ban: what is inside is visited in slices.
func TestAWideUnbanHoldsUpNobody(t *testing.T) {
	n := first(t, "one")
	now, peer := time.Now(), ban.Origin{2}
	const bans = 200 * lockChunk
	var rs []ban.Record
	for i := range bans {
		rs = append(rs, ban.Record{
			Op: ban.Op{
				Kind: ban.KindBan, Until: now.Add(time.Hour),
				Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32),
			},
			Origin: peer, Version: ban.Version{Epoch: 1, Seq: uint64(i + 1)}, Issued: now,
		})
	}
	n.merge(now, rs)

	between := make(chan struct{})
	go func() {
		n.merge(now, []ban.Record{{
			Op:     ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix("192.0.2.1/32"), Until: now.Add(time.Hour)},
			Origin: peer, Version: ban.Version{Epoch: 2, Seq: 1}, Issued: now,
		}})
		close(between)
	}()
	n.state.View(func(table *ban.Table) {
		// Only lifting releases the lock. It does so until the ban is in the table: a busy machine may start the goroutine late.
		for end, got := time.Now().Add(patience), false; !got; _, got = table.Lookup(netip.MustParsePrefix("192.0.2.1/32")) {
			ops, err := n.liftOpsLocked(now, table, ban.Op{Kind: ban.KindUnban, Prefix: netip.MustParsePrefix("11.0.0.0/8")}, false)
			if err != nil || len(ops) != bans/256 || time.Now().After(end) {
				t.Fatalf("%d ops, %v; no ban came in between", len(ops), err)
			}
		}
	})
	<-between

	reply, err := n.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("11.0.0.0/8")}})
	if err != nil || reply.Results[0].Err != nil || n.counts().Active != 1 {
		t.Errorf("%+v, %v: %d bans are left, want 1", reply.Results, err, n.counts().Active)
	}
	if _, err := n.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}}); err != nil || n.counts().Active != 0 {
		t.Error(err)
	}
}

// Many bans of this node itself are revoked one by one, frame by frame.
func TestAWideUnbanOfOwnBans(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	n.fill(t)
	had := n.counts().Active
	reply, err := n.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("203.0.113.0/24")}})
	if err != nil || reply.Results[0].Err != nil || reply.Results[1].Err == nil || n.counts().Active != 0 {
		t.Errorf("%+v, %v: of %d bans %d are left", reply.Results, err, had, n.counts().Active)
	}
}

// An unban publishes nothing wider than peers accept from this node.
func TestUnbanKeepsToTheCaps(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	for _, n := range []*node{a, b} {
		n.tighten(func(c *config.Config) { c.Bans.MinPrefix4 = 28 })
	}
	b.ban(t, time.Hour, "192.0.2.1/32", "192.0.2.100/32")
	until(t, "a has the bans", func() bool { return a.counts().Active == 2 })
	reply, err := a.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	if err != nil || reply.Results[0].Err != nil {
		t.Fatalf("%+v, %v", reply.Results, err)
	}
	until(t, "b has lifted them", func() bool { return b.counts().Active == 0 })
}

// A held lift is still held after a restart, and can then be released or dropped.
func TestAHeldLiftSurvivesARestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		action string
		left   int
	}{{control.ActionRelease, 0}, {control.ActionDrop, 30}} {
		t.Run(c.action, func(t *testing.T) {
			t.Parallel()
			a := first(t, "a")
			b := a.join(t, "b")
			a.tighten(func(c *config.Config) { c.Peers.Burst, c.Peers.Rate = 10, 1 })
			now := time.Now()
			var ops []ban.Op
			for i := range 30 {
				ops = append(ops, ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i)), Until: endOf(now, time.Hour)})
			}
			if err := a.publish(now, ops); err != nil {
				t.Fatal(err)
			}
			until(t, "b has the bans", func() bool { return b.counts().Active == 30 })
			if _, err := b.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}); err != nil {
				t.Fatal(err)
			}
			until(t, "a holds the lift", func() bool { return a.waits() == 1 })
			a.stop()
			a = start(t, a.home, a.cfg)
			if n := a.waits(); n != 1 || a.counts().Active != 30 {
				t.Fatalf("after the restart %d wait, %d bans count", n, a.counts().Active)
			}
			if n := a.decide(t, c.action); n != 1 || a.waits() != 0 {
				t.Errorf("decided about %d, %d wait", n, a.waits())
			}
			until(t, "the bans are as decided", func() bool { return a.counts().Active == c.left })
		})
	}
}
