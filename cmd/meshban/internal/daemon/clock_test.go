package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// A clock that is an hour ahead for a while ends bans whose frame lives on. Once it is right again they count again, but
// for those that were lifted, and those that wait for the operator.
func TestAClockThatWasAhead(t *testing.T) {
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
	b.mesh.Expire(ahead)
	b.mu.Lock()
	b.settleLocked(b.table.Expire(ahead))
	b.mu.Unlock()
	b.fw.Flush()
	if c := b.counts(); c.Active != 0 || c.Held != 1 {
		t.Fatalf("by a clock that is ahead %+v count", c)
	}
	b.mesh.Expire(time.Now())
	until(t, "the ban that had ended counts again", func() bool { return b.enforces(t, "192.0.2.1/32") })
	if c := b.counts(); c.Active != 1 || c.Held != 2 || b.enforces(t, "192.0.2.2/32") {
		t.Errorf("%+v, lifted one in force: %v", c, b.enforces(t, "192.0.2.2/32"))
	}
	if a.meshStatus().Digest != b.meshStatus().Digest {
		t.Error("the digests differ")
	}
}
