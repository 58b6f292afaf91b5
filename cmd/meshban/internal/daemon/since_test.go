package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// publishAt publishes ops in a node's name with another issue time.
func (n *node) publishAt(t *testing.T, at time.Time, ops ...ban.Op) {
	t.Helper()
	payload, err := ban.AppendOps(nil, ops)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.mesh.Publish(at, payload, ban.Expires(ops)); err != nil {
		t.Fatal(err)
	}
}

// revoke --since goes by when bans arrived here, also before a restart, not by the times that the revoked node wrote; what
// it lifted or allowed is not published again.
func TestSinceGoesByArrival(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	const honest = "192.0.2.1/32"
	b.mustBan(t, honest)
	until(t, "a has the honest ban", func() bool { return a.enforces(t, honest) })
	a.stop()
	a = start(t, a.home, a.cfg)
	since := time.Now()
	until(t, "times differ, which are in whole milliseconds", func() bool { return time.Since(since) > 2*time.Millisecond })
	var late []ban.Op
	for i := range 20 {
		late = append(late, ban.Op{
			Kind: ban.KindBan, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 32), Until: endOf(since, time.Hour),
		})
	}
	late = append(late, ban.Op{Kind: ban.KindAllow, Prefix: netip.MustParsePrefix("203.0.113.1/32"), Until: endOf(since, time.Hour)})
	until(t, "they are together again", func() bool { return a.meshStatus().Alive == 2 && b.meshStatus().Alive == 2 })
	b.publishAt(t, since.Add(-2*time.Hour), late...)
	until(t, "a has what is dated back", func() bool { return a.enforces(t, "198.51.100.19/32") })

	dry, err := a.Revoke(t.Context(), control.RevokeRequest{Node: "b", Since: since, DryRun: true})
	if err != nil || dry.Kept != 1 || dry.Live != (control.SaidCount{Bans: 21, Allows: 1}) || len(dry.Last) != control.MaxLastBans {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	for _, l := range dry.Last {
		if l.Prefix.Addr().As4()[0] != 198 || l.Arrived.Before(since.Truncate(time.Millisecond)) {
			t.Errorf("among the last: %+v", l)
		}
	}
	rep, err := a.Revoke(t.Context(), control.RevokeRequest{Node: "b", Since: since})
	if err != nil || rep.Kept != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	until(t, "what is dated back is gone", func() bool { return !a.enforces(t, "198.51.100.0/32") })
	if e, ok := a.entry(t, honest); !ok || len(e.Origins) != 1 || e.Origins[0] != "a" {
		t.Errorf("the honest ban: %+v", e)
	}
	allowed, err := a.Allowed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range allowed {
		if e.Prefix.Addr() == netip.MustParseAddr("203.0.113.1") {
			t.Errorf("the allow of the revoked node lives on: %+v", e)
		}
	}
}
