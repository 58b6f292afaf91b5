package daemon

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh/frame"
)

// hears merges a record of another origin, past every check that could refuse it.
func (n *node) hears(by ban.Origin, seq uint64, op ban.Op) {
	now := time.Now()
	op.Until = now.Add(time.Hour).Truncate(time.Millisecond)
	n.merge(now, []ban.Record{{Op: op, Origin: by, Version: ban.Version{Epoch: 1, Seq: seq}, Issued: now, Arrived: now}})
}

// A ban, unban or allow without effect is an error that names the rule and the node behind it.
func TestWithoutEffect(t *testing.T) {
	t.Parallel()
	n := first(t, "one")
	peer := ban.Origin{2}
	n.names.certify(certifiedAs("peer", 2))
	within := netip.MustParsePrefix("192.0.2.0/24")
	far := []ban.Mark{{Origin: n.self, Epoch: n.mesh.Epoch(), Seq: 1 << 40}}
	n.hears(peer, 1, ban.Op{Kind: ban.KindUnban, Prefix: within, Marks: far})
	n.hears(peer, 2, ban.Op{Kind: ban.KindUnallow, Prefix: within, Marks: far})
	n.hears(peer, 3, ban.Op{Kind: ban.KindBan, Prefix: netip.MustParsePrefix("198.51.100.0/24")})

	r := n.ban(t, time.Hour, "192.0.2.1/32", "198.51.100.1/32", "203.0.113.1/32").Results
	if e := r[0].Err; e == nil || e.Code != control.CodePolicy || e.Rule != ruleCancelled || !strings.Contains(e.Message, "by peer") || r[0].State != control.StateLifted {
		t.Errorf("a ban that is cancelled: %+v, %+v", r[0], e)
	}
	for _, r := range r[1:] {
		if r.Err != nil || r.Until.IsZero() {
			t.Errorf("a ban that counts: %+v, %+v", r, r.Err)
		}
	}
	if r[2].State == "" {
		t.Errorf("no state: %+v", r[2])
	}

	allowed, err := n.Allow(t.Context(), control.AllowRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("203.0.113.7/32")}})
	if err != nil {
		t.Fatal(err)
	}
	if e := allowed.Results[0].Err; e == nil || e.Rule != ruleCancelled || !strings.Contains(e.Message, "by peer") {
		t.Errorf("an allow that is cancelled: %+v", e)
	}
	if e := allowed.Results[1].Err; e != nil {
		t.Errorf("an allow that counts: %+v", e)
	}

	lifted, err := n.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32"), netip.MustParsePrefix("203.0.113.1/32")}})
	if err != nil {
		t.Fatal(err)
	}
	if e := lifted.Results[0].Err; e == nil || e.Code != control.CodePolicy || e.Rule != ruleCovered || !strings.Contains(e.Message, "198.51.100.0/24 by peer") {
		t.Errorf("an unban below a wider ban: %+v", e)
	}
	if e := lifted.Results[1].Err; e != nil {
		t.Errorf("an unban that lifts: %+v", e)
	}
}

// A revoked node soon learns that it is revoked. It then says so, and that it still protects itself.
func TestARevokedNodeSaysSo(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	if _, err := a.Revoke(t.Context(), control.RevokeRequest{Node: "b", Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	until(t, "b knows", func() bool {
		b.ban(t, time.Hour, "192.0.2.9/32")
		return b.mesh.Standing(frame.ID(b.self)).Revoked != nil
	})
	r := b.ban(t, time.Hour, "192.0.2.1/32").Results[0]
	if e := r.Err; e == nil || e.Code != control.CodePolicy || e.Rule != ruleRevoked || !strings.Contains(e.Message, "on this node only") || !strings.Contains(e.Message, "stolen") {
		t.Errorf("ban: %+v, %+v", r, e)
	}
	if !b.takes(t, "192.0.2.1/32") {
		t.Error("it does not protect itself")
	}
	one := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	unbanned, err := b.Unban(t.Context(), control.UnbanRequest{Prefixes: one})
	if e := unbanned.Results[0].Err; err != nil || e == nil || e.Rule != ruleRevoked || !strings.Contains(e.Message, "lifted on this node only") {
		t.Errorf("unban: %+v, %v", e, err)
	}
	allowed, err := b.Allow(t.Context(), control.AllowRequest{Prefixes: one})
	if e := allowed.Results[0].Err; err != nil || e == nil || e.Rule != ruleRevoked {
		t.Errorf("allow: %+v, %v", e, err)
	}
	s, err := b.Status(t.Context())
	if err != nil || !strings.Contains(strings.Join(s.Problems, "\n"), "revoked this node") {
		t.Errorf("problems: %q, %v", s.Problems, err)
	}
	if s, err := a.Status(t.Context()); err != nil || strings.Contains(strings.Join(s.Problems, "\n"), "revoked this node") {
		t.Errorf("problems of the other: %q, %v", s.Problems, err)
	}
}
