package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// Only a ban without an explicit length grows.
func TestABanWithALengthKeepsIt(t *testing.T) {
	t.Parallel()
	n := first(t, "a")
	n.tighten(func(c *config.Config) { c.Escalation.Factor, c.Bans.For = 2, time.Hour })
	prefix := netip.MustParsePrefix("192.0.2.7/32")
	n.state.View(func(*ban.Table) {
		n.state.Offences.Changed(time.Now(), ban.Change{Prefix: prefix, Until: time.Now(), Enforce: true}, time.Hour)
	})
	for _, c := range []struct {
		name   string
		req    control.BanRequest
		length time.Duration
	}{
		{"ok: with a length", control.BanRequest{For: control.Duration(time.Minute), Source: "cli"}, time.Minute},
		{"ok: an import", control.BanRequest{Source: "import"}, time.Hour},
		{"ok: without", control.BanRequest{Source: "cli"}, 2 * time.Hour},
	} {
		c.req.Addrs = []netip.Prefix{prefix}
		rep, err := n.Ban(t.Context(), c.req)
		if left := time.Until(rep.Results[0].Until.Time); err != nil || left > c.length || left < c.length-time.Minute/2 {
			t.Errorf("%s: %v, %v", c.name, left, err)
		}
	}
}
