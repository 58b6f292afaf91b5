package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// A clock that runs an hour ahead for a while ends bans whose frames live on. Once the clock is right, these bans
// count again, except those that were lifted or that wait for the operator.
func TestAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	t.Run("on one node", func(t *testing.T) { clockAhead(t, false) })
	t.Run("on all nodes", func(t *testing.T) { clockAhead(t, true) })
}

func clockAhead(t *testing.T, all bool) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	b.tighten(func(c *config.Config) { c.Breaker = config.Allowance{Rate: 1, Burst: 2, Imports: 1} })
	now := time.Now()
	var ops []ban.Op
	for _, s := range []struct {
		addr string
		last time.Duration
	}{{"192.0.2.1", 10 * time.Minute}, {"192.0.2.2", 10 * time.Minute}, {"192.0.2.3", 10 * time.Minute}, {"192.0.2.4", 2 * time.Hour}} {
		ops = append(ops, ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix(s.addr + "/32"), Until: endOf(now, s.last), Source: "test"})
	}
	if err := a.publish(now, ops); err != nil {
		t.Fatal(err)
	}
	until(t, "two in force, two held", func() bool { c := b.counts(); return c.Active == 2 && c.Held == 2 })
	if _, err := a.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32")}}); err != nil {
		t.Fatal(err)
	}
	until(t, "one lifted", func() bool { return b.counts().Active == 1 })

	ahead := now.Add(time.Hour)
	nodes := []*node{b}
	if all { // then nobody still has the frame that lifted the one
		nodes = append(nodes, a)
	}
	for _, n := range nodes {
		var c ban.Counts
		n.state.Change(ahead, func(t *ban.Table) []ban.Change { // nobody may notice that the clock is right before the table has expired its bans too
			changes := t.Expire(ahead)
			c = t.Counts()
			return changes
		})
		if n == b && (c.Active != 0 || c.Held != 1) {
			t.Fatalf("by a clock that is ahead %+v count", c)
		}
		n.mesh.Expire(ahead)
	}
	for _, n := range nodes {
		n.mesh.Expire(time.Now())
	}
	for _, n := range nodes {
		until(t, "the ban that had ended counts again", func() bool { return n.enforces(t, "192.0.2.1/32") })
		if n.enforces(t, "192.0.2.2/32") {
			t.Errorf("%s enforces what was lifted", n.cfg.Name)
		}
	}
	if c := b.counts(); c.Active != 1 || c.Held != 2 {
		t.Errorf("%+v", c)
	}
	until(t, "the digests are equal", func() bool { return a.meshStatus().Digest == b.meshStatus().Digest })
}
