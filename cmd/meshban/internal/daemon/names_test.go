package daemon

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

func certifiedAs(name string, id byte) mesh.Standing {
	return mesh.Standing{ID: frame.ID{id}, Certificate: &pki.Certificate{Name: name}}
}

// A bare name stands for a node only if it can mean no other and imitates nothing.
func TestNames(t *testing.T) {
	t.Parallel()
	one, two, three := ban.Origin{1}, ban.Origin{2}, ban.Origin{3}
	revoked := func(name string, id byte) mesh.Standing {
		s := certifiedAs(name, id)
		s.Revoked = &pki.Revocation{Name: name}
		return s
	}
	for _, c := range []struct {
		name string
		said []mesh.Standing
		of   map[ban.Origin]string
		word map[ban.Origin]string
	}{
		{"ok: one name each", []mesh.Standing{certifiedAs("web1", 1), certifiedAs("web2", 2)},
			map[ban.Origin]string{one: "web1", two: "web2", three: "03000000"}, map[ban.Origin]string{one: "web1", three: "03000000"}},
		{"bad: two of one name", []mesh.Standing{certifiedAs("web", 1), certifiedAs("web", 2)},
			map[ban.Origin]string{one: "web (01000000)", two: "web (02000000)"}, map[ban.Origin]string{one: "web-01000000"}},
		{"ok: who had the name before is revoked", []mesh.Standing{revoked("web", 1), certifiedAs("web", 2)},
			map[ban.Origin]string{one: "web (01000000)", two: "web"}, nil},
		{"ok: revoked, and alone", []mesh.Standing{revoked("web", 1)}, map[ban.Origin]string{one: "web"}, nil},
		{"ok: the certificate has ended", []mesh.Standing{certifiedAs("web", 1), {ID: frame.ID{1}}}, map[ban.Origin]string{one: "web"}, nil},
		{"ok: renamed", []mesh.Standing{certifiedAs("web", 1), certifiedAs("web", 2), certifiedAs("db", 2)},
			map[ban.Origin]string{one: "web", two: "db"}, nil},
		{"bad: it imitates a name with an id", []mesh.Standing{certifiedAs("web (03000000)", 1)},
			map[ban.Origin]string{one: "web (03000000) (01000000)"}, map[ban.Origin]string{one: "01000000"}},
		{"bad: it imitates an id", []mesh.Standing{certifiedAs("03000000", 1)}, map[ban.Origin]string{one: "03000000 (01000000)"}, nil},
		{"bad: letters that look alike", []mesh.Standing{certifiedAs("w\u0435b", 1)}, map[ban.Origin]string{one: "w\u0435b (01000000)"}, nil},
		{"bad: this node's name is another's", []mesh.Standing{certifiedAs("self", 1)},
			map[ban.Origin]string{one: "self (01000000)", {9}: "self (09000000)"}, nil},
	} {
		n := newNames(nil, ban.Origin{9}, "self")
		n.certify(certifiedAs("self", 9))
		if strings.Contains(c.name, "this node") {
			n = newNames(nil, ban.Origin{9}, "self")
		}
		for _, s := range c.said {
			n.certify(s)
		}
		if strings.Contains(c.name, "this node") {
			n.certify(certifiedAs("self", 9))
		}
		for id, want := range c.of {
			if got := n.of(id); got != want {
				t.Errorf("%s: %q, want %q", c.name, got, want)
			}
		}
		for id, want := range c.word {
			if got := n.word(id); got != want {
				t.Errorf("%s: word %q, want %q", c.name, got, want)
			}
		}
		again := newNames(n.save(), ban.Origin{9}, "self")
		if a, b := again.plain(one), n.plain(one); a != b {
			t.Errorf("%s: %q after a restart, %q before", c.name, a, b)
		}
	}
}

// The authority has a name of its own, unless a node has the same name.
func TestNameOfTheAuthority(t *testing.T) {
	t.Parallel()
	n := newNames(nil, ban.Origin{9}, "self")
	n.authority = ban.Origin{8}
	if got := n.of(n.authority); got != nameAuthority {
		t.Errorf("%q", got)
	}
	n.certify(certifiedAs(nameAuthority, 1))
	if got := n.of(n.authority); got != "authority (08000000)" {
		t.Errorf("beside a node of that name: %q", got)
	}
}

// A node that configures another node's name still appears under its certified name everywhere, and revoking a name always
// means the node certified under it.
func TestACapturedNodeUnderAnotherName(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b, c := a.join(t, "b"), a.join(t, "c")
	b.stop()
	cfg := b.cfg
	cfg.Name = "c"
	b = start(t, b.home, cfg)
	events := make(chan control.Event, 100)
	go func() { _ = a.Watch(t.Context(), func(e control.Event) error { events <- e; return nil }) }()
	until(t, "somebody watches", a.hub.busy)
	until(t, "b is back", func() bool { return a.meshStatus().Alive == 3 && b.meshStatus().Alive == 3 })
	const prefix = "192.0.2.1/32"
	b.mustBan(t, prefix)
	for _, n := range []*node{a, c, b} {
		until(t, "the ban is there", func() bool { return n.enforces(t, prefix) })
		e, _ := n.entry(t, prefix)
		if len(e.Origins) != 1 || e.Origins[0] != "b" || e.OriginIDs[0] != b.self.String() {
			t.Errorf("%s: list says %v %v", n.cfg.Name, e.Origins, e.OriginIDs)
		}
		why, err := n.Why(t.Context(), netip.MustParsePrefix(prefix))
		if err != nil || why.Findings[0].Origin != "b" || why.Findings[0].OriginID != b.self.String() {
			t.Errorf("why: %+v, %v", why, err)
		}
		if m := n.member(t, b.self.String()); m.Name != "b" {
			t.Errorf("members: %+v", m)
		}
	}
	for e := range events {
		if e.OriginID == b.self.String() && e.Origin != "b" {
			t.Errorf("event %+v", e)
		}
		if e.Name == "ban" {
			break
		}
	}
	until(t, "the audit log has it", func() (found bool) {
		_ = a.Audit(t.Context(), time.Time{}, func(e control.AuditEntry) error {
			if e.NodeID == b.self.String() && e.What == "ban" {
				if found = true; e.Node != "b" {
					t.Errorf("audit: %+v", e)
				}
			}
			return nil
		})
		return found
	})
	id := frame.ID(b.self).String()
	for text, want := range map[string]string{
		"origin " + id + " signed two frames":              "origin b (" + b.self.Short() + ") signed two frames",
		"names: " + id + ": 1 op":                          "names: b (" + b.self.Short() + "): 1 op",
		"192.0.2.77:7946 sends, " + ban.Origin{7}.String(): "192.0.2.77:7946 sends, 07000000",
	} {
		if got := a.nameNodes(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := a.nameNodes(b.mesh.Addr().String() + " sends too much"); !strings.Contains(got, " is) sends") {
		t.Errorf("an address: %q", got)
	}
	// A member that had left used to hide the node that now sends from its address.
	at := netip.MustParseAddrPort("192.0.2.9:7946")
	shared := []mesh.Member{{ID: frame.ID(c.self), Addr: at, State: mesh.StateLeft}, {ID: frame.ID(b.self), Addr: at}}
	for i, want := range []string{"b", "c"} {
		shared[1].State = []mesh.State{mesh.StateAlive, mesh.StateLeft}[i]
		for _, where := range []string{"192.0.2.9", at.String()} {
			if got := a.whoIsAt(shared, where); !strings.Contains(got, want) {
				t.Errorf("at %s: %q, want %s", where, got, want)
			}
		}
	}
	// Made-up members at the same address, even many, used to hide it too.
	begun := time.Now()
	shared[1].State, shared[1].Since = mesh.StateAlive, begun
	for i := range byte(5) {
		shared = append(shared, mesh.Member{ID: frame.ID{9, i}, Addr: at, State: mesh.StateAlive, Since: begun.Add(time.Second)})
	}
	if got, want := a.whoIsAt(shared, at.String()), a.names.of(b.self); got != want {
		t.Errorf("among made-up members: %q, want %q", got, want)
	}
	if got := a.whoIsAt(shared[2:], at.String()); !strings.HasSuffix(got, " or 2 others") {
		t.Errorf("made-up members alone: %q", got)
	}
	if s, err := b.Status(t.Context()); err != nil || s.Name != "b" {
		t.Errorf("status: %q, %v", s.Name, err)
	}
	if rep, err := a.Revoke(t.Context(), control.RevokeRequest{Node: "c", DryRun: true}); err != nil || rep.ID != c.self.String() || rep.Live.Bans != 0 {
		t.Errorf("revoke c: %+v, %v", rep, err)
	}
	rep, err := a.Revoke(t.Context(), control.RevokeRequest{Node: "b", DryRun: true})
	if err != nil || rep.ID != b.self.String() || rep.Name != "b" || rep.Live.Bans != 1 || len(rep.Last) != 1 || rep.Last[0].Prefix.Prefix.String() != prefix {
		t.Errorf("revoke b: %+v, %v", rep, err)
	}
	if s := a.mesh.Standing(frame.ID(b.self)); s.Revoked != nil {
		t.Error("a dry run has revoked")
	}
}

// The node with the authority's key may change its name; no other node may.
func TestANameInTheConfig(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	rename := func(n *node, name string) *node {
		n.stop()
		cfg := n.cfg
		cfg.Name = name
		return start(t, n.home, cfg)
	}
	a = rename(a, "main")
	until(t, "the other shows the new name", func() bool { return b.member(t, a.self.String()).Name == "main" })
	if s, err := a.Status(t.Context()); err != nil || s.Name != "main" {
		t.Errorf("status: %q, %v", s.Name, err)
	}
	b = rename(b, "main")
	until(t, "it says so", func() bool {
		return strings.Contains(b.log.String(), "the name in the config is not the certified one")
	})
	if s, err := b.Status(t.Context()); err != nil || s.Name != "b" {
		t.Errorf("status of the other: %q, %v", s.Name, err)
	}
}

// Two certified nodes with the same name are told apart in every answer, also after a restart.
func TestNodesOfOneName(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	x, y := a.join(t, "web"), a.join(t, "web")
	x.mustBan(t, "192.0.2.1/32")
	y.mustBan(t, "192.0.2.2/32")
	check := func(when string) {
		t.Helper()
		for prefix, n := range map[string]*node{"192.0.2.1/32": x, "192.0.2.2/32": y} {
			until(t, "the ban is there", func() bool { return a.enforces(t, prefix) })
			e, _ := a.entry(t, prefix)
			if want := "web (" + n.self.Short() + ")"; len(e.Origins) != 1 || e.Origins[0] != want || e.OriginIDs[0] != n.self.String() {
				t.Errorf("%s: list %v %v, want %s", when, e.Origins, e.OriginIDs, want)
			}
			if word := a.names.word(n.self); word != "web-"+n.self.Short() {
				t.Errorf("%s: the line is of %q", when, word)
			}
			if m := a.member(t, n.self.String()); m.Name != "web" {
				t.Errorf("%s: member %+v", when, m)
			}
		}
	}
	check("before")
	if !strings.Contains(a.log.String(), "several certified nodes have one name") {
		t.Error("the log does not tell")
	}
	_, err := a.Revoke(t.Context(), control.RevokeRequest{Node: "web", DryRun: true})
	if e := control.AsError(err); e == nil || e.Code != control.CodeUsage || !strings.Contains(e.Message, x.self.String()) || !strings.Contains(e.Message, "first seen") {
		t.Errorf("%v", err)
	}
	a.stop()
	a = start(t, a.home, a.cfg)
	check("after a restart")
}
