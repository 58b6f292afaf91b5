package daemon

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// Each cap is the stricter one of the configuration and the certificate.
func TestStricterCaps(t *testing.T) {
	t.Parallel()
	conf := ban.Caps{
		Allowance: ban.Allowance{Rate: 100, Burst: 500, Bulk: 9000}, Active: 1000, MinBits4: 24, MinBits6: 48, MaxFor: time.Hour, UnbanAny: true, Import: true,
	}
	all := pki.DefaultCaps()
	for _, c := range []struct {
		name   string
		cert   pki.Caps
		change func(*ban.Caps) // edits conf
	}{
		{"ok: a certificate that leaves all to the receiver", all, func(*ban.Caps) {}},
		{"ok: a wider certificate", pki.Caps{Rate: 1000, Active: 5000, MinBits4: 8, MinBits6: 19, MaxTTL: 2 * time.Hour, UnbanAny: true, Import: true}, func(*ban.Caps) {}},
		{"ok: a rate bounds what comes at once", pki.Caps{Rate: 10, UnbanAny: true, Import: true}, func(w *ban.Caps) { w.Rate, w.Burst = 10, 10 }},
		{"ok: a rate between rate and burst", pki.Caps{Rate: 200, UnbanAny: true, Import: true}, func(w *ban.Caps) { w.Burst = 200 }},
		{"ok: active", pki.Caps{Active: 7, UnbanAny: true, Import: true}, func(w *ban.Caps) { w.Active = 7 }},
		{"ok: width", pki.Caps{MinBits4: 32, MinBits6: 64, UnbanAny: true, Import: true}, func(w *ban.Caps) { w.MinBits4, w.MinBits6 = 32, 64 }},
		{"ok: length", pki.Caps{MaxTTL: time.Minute, UnbanAny: true, Import: true}, func(w *ban.Caps) { w.MaxFor = time.Minute }},
		{"ok: no unban", pki.Caps{Import: true}, func(w *ban.Caps) { w.UnbanAny = false }},
		{"ok: no import", pki.Caps{UnbanAny: true}, func(w *ban.Caps) { w.Import = false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, want := conf, conf
			c.change(&want)
			if stricter(&got, &c.cert); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			closed := conf
			closed.UnbanAny, want.UnbanAny = false, false
			if stricter(&closed, &c.cert); closed != want {
				t.Errorf("where the configuration forbids unbans: %+v, want %+v", closed, want)
			}
		})
	}
}

// recertify gives node who a certificate with other caps; n holds the authority's key.
func (n *node) recertify(t *testing.T, who *node, caps pki.Caps) {
	t.Helper()
	c := n.mesh.Standing(frame.ID(who.self)).Certificate
	if _, err := n.mesh.Certify(c.Node, c.Name, caps); err != nil {
		t.Fatal(err)
	}
}

func (n *node) capsOf(who *node) (caps ban.Caps) {
	n.state.View(func(*ban.Table) { caps = n.capsLocked(who.self) })
	return caps
}

// refused returns how many ops of peers n refused under a rule.
func (n *node) refused(rule string) uint64 {
	return uint64(testutil.ToFloat64(n.metrics.refusedOps.WithLabelValues(rule)))
}

// Every other node enforces the caps in a node's certificate as soon as it has it, also after a restart; the node is told.
func TestCertificateCaps(t *testing.T) {
	t.Parallel()
	web1 := first(t, "web1")
	web2, web3 := web1.join(t, "web2"), web1.join(t, "web3")
	const foreign = "192.0.2.1/32"
	web1.mustBan(t, foreign)
	until(t, "a ban of another node", func() bool { return web2.enforces(t, foreign) && web3.enforces(t, foreign) })
	web1.recertify(t, web2, pki.Caps{Rate: 10, MinBits4: 28, MaxTTL: time.Hour})
	for _, n := range []*node{web1, web2, web3} {
		until(t, n.cfg.Name+" has the new caps", func() bool { c := n.capsOf(web2); return c.Rate == 10 && !c.UnbanAny })
		if c := n.capsOf(web3); c.Rate != n.cfg.Peers.Rate || !c.Import || !c.UnbanAny {
			t.Errorf("%s: caps of another node: %+v", n.cfg.Name, c)
		}
	}

	web2.storm(t, 1, 30, "cli")
	web2.storm(t, 2, 30, ban.SourceImport)
	for _, n := range []*node{web1, web3} {
		until(t, n.cfg.Name+" holds what exceeds", func() bool { c := n.counts(); return c.Active == 11 && c.Held == 50 })
	}
	if !web2.problem(t, "caps: 50 ops of this node") || !web2.problem(t, "10 bans at once or 10 a minute") {
		s, err := web2.Status(t.Context())
		t.Errorf("its own operator is not told: %q, %v", s.Problems, err)
	}
	rep, err := web2.Ban(t.Context(), control.BanRequest{Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, For: control.Duration(time.Minute), Source: "cli"})
	if err != nil || !strings.Contains(rep.Results[0].Note, "wider than /28") {
		t.Errorf("a wide ban: %+v, %v", rep, err)
	}
	rep, err = web2.Ban(t.Context(), control.BanRequest{Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32")}, For: control.Duration(3 * time.Hour), Source: "cli"})
	if err != nil || !strings.Contains(rep.Results[0].Note, "longer than 1h") {
		t.Errorf("a long ban: %+v, %v", rep, err)
	}
	lifted, err := web2.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix(foreign)}})
	if refused := lifted.Results[0].Err; err != nil || refused == nil || refused.Code != control.CodePolicy ||
		!strings.Contains(refused.Message, "refused by web1, web3") || !strings.Contains(refused.Message, "may not lift") {
		t.Errorf("an unban: %+v, %v", lifted, err)
	}
	for _, rule := range []string{ban.RuleWide, ban.RuleLong, ban.RuleOthers} {
		until(t, "refused: "+rule, func() bool { return web1.refused(rule) == 1 && web3.refused(rule) == 1 })
	}
	if web2.enforces(t, foreign) || !web1.takes(t, foreign) || !web3.takes(t, foreign) {
		t.Error("an unban of a node that may not lift others' bans counts elsewhere, or not at home")
	}

	web3.stop()
	web3 = start(t, web3.home, web3.cfg)
	if c := web3.capsOf(web2); c.Rate != 10 || web3.waits() != 50 {
		t.Errorf("after a restart: %+v, %d wait", c, web3.waits())
	}

	// Held and refused ops count once the caps allow them, and no longer count once the caps do not.
	web1.recertify(t, web2, pki.DefaultCaps())
	for _, n := range []*node{web1, web3} {
		until(t, n.cfg.Name+" takes all of it with the next caps", func() bool {
			return n.waits() == 0 && n.counts().Active == 62 && n.enforces(t, "198.51.100.0/24") && n.enforces(t, "198.51.100.1/32") && !n.enforces(t, foreign)
		})
	}
	web1.recertify(t, web2, pki.Caps{Active: 40, MinBits4: 28, MaxTTL: time.Hour, Import: true})
	for _, n := range []*node{web1, web3} {
		until(t, n.cfg.Name+" takes back what the caps after that forbid", func() bool {
			return n.waits() == 20 && n.counts().Active == 41 && !n.enforces(t, "198.51.100.0/24") && !n.enforces(t, "198.51.100.1/32") && n.enforces(t, foreign)
		})
	}
	if s := finding(web3.why(t, "198.51.100.0/24"), "ban", "198.51.100.0/24"); !strings.HasPrefix(s, "refused (prefix too wide): ") {
		t.Errorf("why says of the wide ban: %q", s)
	}
	web1.recertify(t, web2, pki.DefaultCaps())
	until(t, "all of it counts again", func() bool { return web3.waits() == 0 && web3.counts().Active == 62 })
	web2.storm(t, 3, 30, "cli")
	until(t, "all of it counts", func() bool { return web3.counts().Active == 92 })

	// The receiver's configuration stays in force if it is stricter than the certificate.
	web3.tighten(func(c *config.Config) { c.Peers.Active = 1 })
	if c := web3.capsOf(web2); c.Active != 1 {
		t.Errorf("%+v", c)
	}
	if _, err := web1.mesh.Revoke(frame.ID(web2.self), "web2", time.Time{}, ""); err != nil {
		t.Fatal(err)
	}
	until(t, "a revoked node has no caps of its own", func() (ok bool) {
		web3.state.View(func(*ban.Table) { _, ok = web3.granted[web2.self] })
		return !ok
	})
}

// Caps are set by the invitation, shown by members, and changed where the authority's key is, at once on all nodes.
func TestCapsOfInvitationAndVerb(t *testing.T) {
	t.Parallel()
	web1 := first(t, "web1")
	want := control.Caps{Rate: 60, Widest4: 28, MaxFor: control.Duration(time.Hour), NoImport: true}
	web2 := web1.joinWith(t, "web2", control.InviteRequest{Caps: want})
	id := frame.ID(web2.self).String()
	for _, n := range []*node{web1, web2} {
		if m := n.member(t, id); m.Caps == nil || *m.Caps != want {
			t.Errorf("%s shows %+v", n.cfg.Name, m.Caps)
		}
		if m := n.member(t, frame.ID(web1.self).String()); m.Caps == nil || *m.Caps != (control.Caps{}) {
			t.Errorf("%s shows %+v of the founder", n.cfg.Name, m.Caps)
		}
		if rep, err := n.Caps(t.Context(), control.CapsRequest{Node: "web2"}); err != nil || rep.Caps != want || rep.ID != id {
			t.Errorf("%s tells %+v, %v", n.cfg.Name, rep, err)
		}
	}
	other := control.Caps{Active: 5, Widest6: 64, NoUnbanAny: true}
	for node, code := range map[string]control.Code{"web9": control.CodeNotFound, strings.Repeat("0", 32): control.CodeFailed} {
		if _, err := web1.Caps(t.Context(), control.CapsRequest{Node: node, Caps: &other}); control.AsError(err) == nil || control.AsError(err).Code != code {
			t.Errorf("caps of %q: %v", node, err)
		}
	}
	if _, err := web2.Caps(t.Context(), control.CapsRequest{Node: "web2", Caps: &other}); err == nil || !strings.Contains(control.AsError(err).Hint, "ca.key") {
		t.Errorf("caps without the authority's key: %v", err)
	}
	if rep, err := web1.Caps(t.Context(), control.CapsRequest{Node: "web2", Caps: &other}); err != nil || rep.Caps != other {
		t.Errorf("%+v, %v", rep, err)
	}
	for _, n := range []*node{web1, web2} {
		until(t, n.cfg.Name+" has the new caps", func() bool { c := n.capsOf(web2); return c.Active == 5 && c.Rate == n.cfg.Peers.Rate })
	}
	audited := false
	if err := web1.Audit(t.Context(), time.Time{}, func(e control.AuditEntry) error {
		audited = audited || e.What == "caps" && strings.Contains(e.Reason, "web2 ("+id+") active 5, widest_ipv6 64, no unban_any")
		return nil
	}); err != nil || !audited {
		t.Errorf("the audit log does not tell: %v", err)
	}
	if _, err := web1.Revoke(t.Context(), control.RevokeRequest{Node: "web2"}); err != nil {
		t.Fatal(err)
	}
	if _, err := web1.Caps(t.Context(), control.CapsRequest{Node: id, Caps: &other}); control.AsError(err) == nil || control.AsError(err).Code != control.CodePolicy {
		t.Errorf("caps of a revoked node: %v", err)
	}
}
