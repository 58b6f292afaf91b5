package daemon

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh/frame"
)

func (n *node) mustBan(t testing.TB, addr string) {
	t.Helper()
	rep, err := n.Ban(t.Context(), control.BanRequest{Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, For: control.Duration(time.Hour), Source: "cli"})
	if err != nil || rep.Results[0].Err != nil {
		t.Fatalf("ban %s: %v, %+v", addr, err, rep)
	}
}

// Revoking a node lifts everything it said, on every node; what it says later has no effect, also after a restart. Its bans
// from before --since stay, in the name of the revoking node.
func TestRevoke(t *testing.T) {
	t.Parallel()
	web1 := first(t, "web1")
	web2, web3 := web1.join(t, "web2"), web1.join(t, "web3")
	id3 := frame.ID(web3.self).String()
	const before, after, later, own = "192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32"
	web3.mustBan(t, before)
	until(t, "the others have the first ban", func() bool { return web1.enforces(t, before) && web2.enforces(t, before) })
	const tick = 2 * time.Millisecond // arrivals are stored in milliseconds
	<-time.After(tick)
	since := time.Now()
	<-time.After(tick)
	web3.mustBan(t, after)
	web2.mustBan(t, own)
	until(t, "the others have the other bans", func() bool {
		return web1.enforces(t, after) && web2.enforces(t, after) && web1.enforces(t, own)
	})

	_, err := web2.Revoke(t.Context(), control.RevokeRequest{Node: "web3"})
	if e := control.AsError(err); e == nil || !strings.Contains(e.Message, "key of the mesh's authority") || !strings.Contains(e.Hint, "ca.key") {
		t.Errorf("revoked without the authority's key: %v", err)
	}
	if _, err := web2.Invite(t.Context(), control.InviteRequest{}); err == nil || !strings.Contains(control.AsError(err).Hint, "ca.key") {
		t.Errorf("invited without the authority's key: %v", err)
	}
	for node, code := range map[string]control.Code{
		"web9": control.CodeNotFound, "web1": control.CodePolicy, "": control.CodeNotFound, id3[:7]: control.CodeNotFound,
	} {
		if _, err := web1.Revoke(t.Context(), control.RevokeRequest{Node: node}); control.AsError(err) == nil || control.AsError(err).Code != code {
			t.Errorf("revoke %q: %v, want %v", node, err, code)
		}
	}
	rep, err := web1.Revoke(t.Context(), control.RevokeRequest{Node: id3[:8], Since: since, Reason: "stolen"})
	if err != nil || rep.ID != id3 || rep.Name != "web3" || rep.Kept != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	again, err := web1.Revoke(t.Context(), control.RevokeRequest{Node: id3})
	if err != nil || !again.Revoked.Equal(rep.Revoked) {
		t.Errorf("revoked again: %+v, %v", again, err)
	}
	for _, n := range []*node{web1, web2} {
		until(t, n.cfg.Name+" lets go of what came after", func() bool { return !n.enforces(t, after) })
		if e, ok := n.entry(t, before); !ok || len(e.Origins) != 1 || e.Origins[0] != "web1" {
			t.Errorf("%s, what came before: %+v", n.cfg.Name, e)
		}
		if !n.takes(t, own) {
			t.Errorf("%s lost the ban of another node", n.cfg.Name)
		}
		why, err := n.Why(t.Context(), netip.MustParsePrefix(after))
		if err != nil || len(why.Findings) != 1 || !strings.Contains(why.Findings[0].Status, "web3") || !strings.Contains(why.Findings[0].Status, "revoked: stolen") {
			t.Errorf("%s: why %+v, %v", n.cfg.Name, why, err)
		}
		if m := n.member(t, id3); m.Certificate != control.CertRevoked || m.RevokedFor != "stolen" || m.Revoked == nil {
			t.Errorf("%s: member %+v", n.cfg.Name, m)
		}
		if m := n.member(t, frame.ID(web2.self).String()); m.Certificate != control.CertValid || m.CertUntil == nil {
			t.Errorf("%s: member %+v", n.cfg.Name, m)
		}
	}
	if !web3.takes(t, after) {
		t.Error("the revoked node does not protect itself any more")
	}

	web3.ban(t, time.Hour, later) // it may already know that it is revoked
	web1.mustBan(t, "192.0.2.9/32")
	until(t, "a ban of another node arrives", func() bool { return web2.enforces(t, "192.0.2.9/32") })
	until(t, "the others have refused it", func() bool {
		return web1.mesh.Stats().Refused["revoked"] > 0 && web2.mesh.Stats().Refused["revoked"] > 0
	})
	web2.stop()
	web2 = start(t, web2.home, web2.cfg)
	until(t, "the restarted node is in sync", func() bool { return web2.mesh.Digest() == web1.mesh.Digest() })
	for _, n := range []*node{web1, web2} {
		if n.enforces(t, later) || n.enforces(t, after) || !n.takes(t, before) || !n.takes(t, own) {
			t.Errorf("%s after a restart: later %v, after %v, before %v, own %v", n.cfg.Name,
				n.enforces(t, later), n.enforces(t, after), n.enforces(t, before), n.enforces(t, own))
		}
	}
}

// member returns what `meshban members` shows for a node.
func (n *node) member(t testing.TB, id string) control.Member {
	t.Helper()
	members, err := n.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.ID == id {
			return m
		}
	}
	return control.Member{}
}

// Two nodes with the same name cannot be told apart by it.
func TestRevokeAmbiguous(t *testing.T) {
	t.Parallel()
	web1 := first(t, "web1")
	a, b := web1.join(t, "web2"), web1.join(t, "web2")
	_, err := web1.Revoke(t.Context(), control.RevokeRequest{Node: "web2"})
	e := control.AsError(err)
	if err == nil || e.Code != control.CodeUsage || !strings.Contains(e.Message, a.self.String()) || !strings.Contains(e.Message, b.self.String()) {
		t.Fatalf("%v", err)
	}
	if _, err := web1.Revoke(t.Context(), control.RevokeRequest{Node: a.self.String()}); err != nil {
		t.Fatal(err)
	}
	// The remaining node has the name to itself.
	if rep, err := web1.Revoke(t.Context(), control.RevokeRequest{Node: "web2"}); err != nil || rep.ID != b.self.String() {
		t.Errorf("%+v, %v", rep, err)
	}
}

// A mesh without an authority believed every holder of its key: a node of one does not start, and says what to do.
func TestFolderWithoutAuthority(t *testing.T) {
	t.Parallel()
	n := first(t, "web1")
	n.stop()
	keys, err := n.home.Keys()
	if err != nil {
		t.Fatal(err)
	}
	keys.Secrets.Authority = [32]byte{}
	if err := keys.Secrets.Save(n.home.Secrets()); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), Config{Home: n.home, Config: n.cfg, Version: "test", Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "meshban init") {
		t.Errorf("%v", err)
	}
}
