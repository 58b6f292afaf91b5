package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/fw"
)

// fullBackend takes everything except single addresses of 203.0.113.0/24 and of IPv6.
type fullBackend struct{ fw.Backend }

func (fullBackend) Name() string { return "full" }

func refusalOf(e fw.Entry) string {
	switch {
	case e.Prefix.Addr().Is6():
		return "IPv6 packets are not dropped"
	case e.Prefix.IsSingleIP() && netip.MustParsePrefix("203.0.113.0/24").Contains(e.Prefix.Addr()):
		return "the set is full"
	}
	return ""
}

func (fullBackend) Apply(_ context.Context, _ time.Time, updates []fw.Update) error {
	var refused []fw.Refusal
	for _, u := range updates {
		if why := refusalOf(u.Entry); why != "" && !u.Remove {
			refused = append(refused, fw.Refusal{Entry: u.Entry, Why: why})
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return &fw.PartialError{Left: len(refused), Why: refused[0].Why, Refused: refused}
}

// refusing starts a node whose kernel is a fullBackend.
func refusing(t *testing.T) *node {
	t.Helper()
	dir := statedir.Dir(t.TempDir())
	cfg := testConfig(dir, "a")
	if _, _, err := dir.Init(cfg); err != nil {
		t.Fatal(err)
	}
	return startWith(t, dir, cfg, func(d *Daemon) { d.enforceWith(t, fullBackend{fw.NewNone()}) })
}

// A ban that the kernel refused used to be a success, an event "ban" and "enforced" everywhere.
func TestWhatTheKernelRefusesIsNotEnforced(t *testing.T) {
	t.Parallel()
	n := refusing(t)
	w := n.hub.join()
	defer n.hub.leave(w)
	event := func(want, prefix, why string) {
		t.Helper()
		select {
		case e := <-w.events:
			if e.Name != want || e.Prefix.Prefix.String() != prefix || e.NotEnforced != why || (e.LatencyMS == nil) != (why != "") {
				t.Errorf("event %+v, want %s of %s because %q", e, want, prefix, why)
			}
		case <-time.After(patience):
			t.Fatalf("no event of %s", prefix)
		}
	}
	const taken, full, v6 = "192.0.2.1/32", "203.0.113.1/32", "2001:db8::1/128"
	r := n.ban(t, time.Hour, taken, full, v6).Results
	for i, want := range []string{"", "the set is full", "IPv6 packets are not dropped"} {
		e := r[i].Err
		if (e == nil) != (want == "") || e != nil && (e.Code != control.CodeFailed || !strings.Contains(e.Message, want) || r[i].State != control.StateNotEnforced) {
			t.Errorf("%s: %+v, %+v", r[i].Prefix, r[i], e)
		}
		if l, ok := n.entry(t, r[i].Prefix.Prefix.String()); !ok || l.NotEnforced != want || (l.State == control.StateEnforced) != (want == "") {
			t.Errorf("list: %+v", l)
		}
		why, err := n.Why(t.Context(), r[i].Prefix.Prefix)
		if err != nil || (why.Verdict == control.VerdictDropped) != (want == "") || !strings.Contains(why.Summary, want) || !strings.Contains(why.Findings[0].Status, want) {
			t.Errorf("why: %+v, %v", why, err)
		}
	}
	event("ban", taken, "")
	event(control.StateNotEnforced, full, "the set is full")
	event(control.StateNotEnforced, v6, "IPv6 packets are not dropped")
	s, err := n.Status(t.Context())
	if err != nil || s.Firewall.Enforced != 1 || s.Firewall.NotEnforced != 2 || !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, "2 bans are not enforced") }) {
		t.Errorf("status: %+v, %q, %v", s.Firewall, s.Problems, err)
	}

	const peers = "203.0.113.2/32"
	n.hears(ban.Origin{2}, 1, ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix(peers)})
	event(control.StateNotEnforced, peers, "the set is full")
	if n.enforces(t, peers) {
		t.Error("the ban of a peer counts as enforced")
	}

	// A wider ban in the kernel still drops the address.
	n.hears(ban.Origin{2}, 2, ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix("203.0.113.0/24")})
	event("ban", "203.0.113.0/24", "")
	if why, err := n.Why(t.Context(), netip.MustParsePrefix(full)); err != nil || why.Verdict != control.VerdictDropped || !strings.Contains(why.Summary, "203.0.113.0/24") {
		t.Errorf("why below a wider ban: %+v, %v", why, err)
	}

	// A line says that the address is dropped here, so a ban that the kernel refused gets none.
	n.hears(ban.Origin{2}, 3, ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix("192.0.2.9/32")})
	until(t, "the line of a later ban", func() bool { return strings.Contains(n.lineText(t), "HOST 192.0.2.9 ") })
	if text := n.lineText(t); strings.Contains(text, "203.0.113.2") {
		t.Errorf("a line for what the kernel refused: %q", text)
	}

	unbanned, err := n.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix(v6)}})
	if err != nil || unbanned.Results[0].Err != nil {
		t.Errorf("unban: %+v, %v", unbanned, err)
	}

	req := control.BanRequest{For: control.Duration(time.Hour), Source: ban.SourceImport}
	for i := range 3 * lockChunk {
		req.Addrs = append(req.Addrs, netip.MustParsePrefix(fmt.Sprintf("198.18.%d.%d/32", i>>8, i&255)))
	}
	req.Addrs[lockChunk] = netip.MustParsePrefix("203.0.113.3/32")
	reply, err := n.Ban(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reply.Results {
		if (r.Err != nil) != (r.Prefix.Prefix == req.Addrs[lockChunk]) {
			t.Errorf("of a bulk: %+v", r)
		}
	}
}

func (n *node) lineText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(n.cfg.Lines.File)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// gatedBackend takes nothing until the gate is open.
type gatedBackend struct {
	fw.Backend
	gate chan struct{}
}

func (gatedBackend) Name() string { return "gated" }

func (b gatedBackend) Apply(context.Context, time.Time, []fw.Update) error {
	<-b.gate
	return nil
}

// A ban still waiting for the kernel used to be reported as enforced.
func TestWhatWaitsForTheKernelIsNotEnforced(t *testing.T) {
	t.Parallel()
	dir := statedir.Dir(t.TempDir())
	cfg := testConfig(dir, "a")
	if _, _, err := dir.Init(cfg); err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	n := startWith(t, dir, cfg, func(d *Daemon) {
		d.enforceWith(t, gatedBackend{takesAll{fw.NewNone()}, gate})
	})
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	const prefix = "192.0.2.1/32"
	n.hears(ban.Origin{2}, 1, ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix(prefix)})
	const waits = "the kernel has not taken it yet"
	if l, ok := n.entry(t, prefix); !ok || l.State != control.StateNotEnforced || l.NotEnforced != waits {
		t.Errorf("list: %+v", l)
	}
	if why, err := n.Why(t.Context(), netip.MustParsePrefix(prefix)); err != nil || why.Verdict != control.VerdictWithheld || !strings.Contains(why.Summary, waits) {
		t.Errorf("why: %+v, %v", why, err)
	}
	if r := n.ban(t, time.Hour, "192.0.2.2/32").Results[0]; r.Err == nil || r.Err.Code != control.CodeFailed || !strings.Contains(r.Err.Message, "the kernel has not taken it within") {
		t.Errorf("a command's ban: %+v, %+v", r, r.Err)
	}
	open()
	until(t, "the ban is enforced", func() bool { return n.enforces(t, prefix) })
	if why, err := n.Why(t.Context(), netip.MustParsePrefix(prefix)); err != nil || why.Verdict != control.VerdictDropped {
		t.Errorf("why: %+v, %v", why, err)
	}
}

// A node without a firewall backend used to report each ban as enforced or dropped.
func TestWithoutABackendNothingIsEnforced(t *testing.T) {
	t.Parallel()
	dir := statedir.Dir(t.TempDir())
	cfg := testConfig(dir, "a")
	if _, _, err := dir.Init(cfg); err != nil {
		t.Fatal(err)
	}
	n := startWith(t, dir, cfg, func(d *Daemon) { d.enforceWith(t, fw.NewNone()) })
	w := n.hub.join()
	defer n.hub.leave(w)
	const prefix, wide, peers, none = "192.0.2.1/32", "198.51.100.0/24", "203.0.113.2/32", "this node has no firewall backend and drops nothing"
	for _, r := range n.ban(t, time.Hour, prefix, wide).Results {
		if r.Err != nil || r.State != control.StateNotEnforced || !strings.Contains(r.Note, none) {
			t.Errorf("ban: %+v, %v", r, r.Err)
		}
	}
	n.hears(ban.Origin{2}, 1, ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix(peers)})
	for _, p := range []string{prefix, wide, peers} {
		if e := <-w.events; e.Name != control.StateNotEnforced || e.NotEnforced != none || e.Prefix.Prefix.String() != p || e.LatencyMS != nil {
			t.Errorf("event %+v, want %s of %s", e, control.StateNotEnforced, p)
		}
		if l, ok := n.entry(t, p); !ok || l.State != control.StateNotEnforced || l.NotEnforced != none {
			t.Errorf("list: %+v", l)
		}
		why, err := n.Why(t.Context(), netip.MustParsePrefix(p))
		if err != nil || why.Verdict != control.VerdictWithheld || !strings.Contains(why.Summary, none) || !strings.Contains(why.Findings[0].Status, none) {
			t.Errorf("why: %+v, %v", why, err)
		}
	}
	s, err := n.Status(t.Context())
	if err != nil || s.Firewall.Enforced != 0 || s.Firewall.NotEnforced != 3 || s.Bans.Active != 3 {
		t.Errorf("status: %+v, %+v, %v", s.Firewall, s.Bans, err)
	}
	if told := n.tell(time.Now()); told.Enforced != 0 {
		t.Errorf("it tells others that it enforces %d", told.Enforced)
	}
	// Its line file still serves other programs that drop addresses.
	until(t, "a line", func() bool { return strings.Contains(n.lineText(t), "HOST 203.0.113.2 ") })
	lifted, err := n.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}})
	if err != nil || lifted.Results[0].Err != nil {
		t.Errorf("unban: %+v, %v", lifted, err)
	}
}

// Nobody waits for a change that the kernel's queue does not take.
func TestNobodyWaitsForWhatIsNotQueued(t *testing.T) {
	t.Parallel()
	n := refusing(t)
	n.stop()
	n.hears(n.self, 1, ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix("192.0.2.1/32")})
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // only what is already answered counts
	if err := n.state.Await(ctx, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}); err != nil {
		t.Errorf("waits for ever: %v", err)
	}
}

// A ban around one of this machine's own networks used to cut off its neighbours, and to be reported as enforced.
func TestAWideBanLeavesOutOwnNetworks(t *testing.T) {
	t.Parallel()
	dir := statedir.Dir(t.TempDir())
	cfg := testConfig(dir, "a")
	if _, _, err := dir.Init(cfg); err != nil {
		t.Fatal(err)
	}
	n := startWith(t, dir, cfg, func(d *Daemon) {
		d.host = func() ([]hostinfo.Entry, error) {
			return []hostinfo.Entry{{Prefix: netip.MustParsePrefix("10.77.0.1/32"), Why: "own address"}, {Prefix: netip.MustParsePrefix("10.77.0.0/24"), Why: hostinfo.OwnNetwork}}, nil
		}
		d.neverList()
		d.enforceWith(t, fullBackend{fw.NewNone()})
		d.fw.ExceptionsChanged()
	})
	until(t, "the networks are known to the firewall", func() bool { return len(n.fw.LeftOut(netip.MustParsePrefix("10.0.0.0/8"))) == 1 })
	const text = "leaves out 10.77.0.0/24: a network of this machine's own"
	dry := n.imports(t, control.BanRequest{For: control.Duration(time.Hour), DryRun: true}, "10.0.0.0/8").Results[0]
	r := n.ban(t, time.Hour, "10.0.0.0/8", "10.77.0.0/24", "10.77.0.9/32").Results
	for i, want := range []struct{ state, note string }{{control.StateEnforced, text}, {control.StateNotEnforced, text}, {control.StateEnforced, ""}} {
		if r[i].Err != nil || r[i].State != want.state || !strings.HasPrefix(r[i].Note, want.note) {
			t.Errorf("ban %v: %+v", r[i].Prefix, r[i])
		}
		if l, ok := n.entry(t, r[i].Prefix.Prefix.String()); !ok || l.State != want.state || (len(l.LeavesOut) > 0) != (want.note != "") {
			t.Errorf("list: %+v", l)
		}
	}
	if dry.Note != r[0].Note {
		t.Errorf("a dry run says %q, the ban %q", dry.Note, r[0].Note)
	}
	for _, c := range []struct{ addr, verdict, summary string }{
		{"10.1.2.3/32", control.VerdictDropped, "as part of 10.0.0.0/8"},
		{"10.77.0.9/32", control.VerdictDropped, "This node drops every packet from 10.77.0.9"},
		{"10.77.0.8/32", control.VerdictWithheld, "does not enforce it: it is a network of this machine's own"},
		{"10.0.0.0/8", control.VerdictDropped, "This node drops every packet from 10.0.0.0/8"},
	} {
		why, err := n.Why(t.Context(), netip.MustParsePrefix(c.addr))
		if err != nil || why.Verdict != c.verdict || !strings.Contains(why.Summary, c.summary) {
			t.Errorf("why %s: %+v, %v", c.addr, why, err)
		}
		if !slices.ContainsFunc(why.Findings, func(f control.Finding) bool {
			return f.Prefix.Prefix.String() == "10.0.0.0/8" && strings.Contains(f.Status, text)
		}) {
			t.Errorf("why %s does not say of the wide ban what it leaves out: %+v", c.addr, why.Findings)
		}
	}
	s, err := n.Status(t.Context())
	if err != nil || s.Firewall.Enforced != 2 || s.Firewall.NotEnforced != 1 || s.Firewall.LeavesOut != "1 ban "+text {
		t.Errorf("status: %+v, %v", s.Firewall, err)
	}
	lifted, err := n.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.77.0.9/32")}})
	if err != nil || lifted.Results[0].Err != nil {
		t.Errorf("unban inside the network: %+v, %v", lifted, err)
	}
	if _, err := n.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24")}}); err != nil {
		t.Error(err)
	}
	if why, err := n.Why(t.Context(), netip.MustParsePrefix("10.77.0.8/32")); err != nil || !strings.Contains(why.Summary, "as part of 10.0.0.0/8, but this node does not enforce it: it "+text) {
		t.Errorf("why of a neighbour: %+v, %v", why, err)
	}
}
