package daemon

import (
	"bytes"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
)

func FuzzNotice(f *testing.F) {
	f.Add(notice{}.encode())
	f.Add(notice{waiting: 7, count: [len(noticeRules)]uint32{1, 2, 3, 4, 5, 6, 7, math.MaxUint32}}.encode())
	f.Add(notice{waiting: ban.MaxHeld + 1}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decodeNotice(b)
		if err == nil && (!bytes.Equal(n.encode(), b) || n.waiting > ban.MaxHeld) {
			t.Errorf("%x was read as %+v", b, n)
		}
	})
}

// A notice fits its bound, and its rules are those by which the admission holds and refuses ops.
func TestNoticeNamesTheRules(t *testing.T) {
	t.Parallel()
	if n := len(notice{}.encode()); n != noticeLen || n > mesh.MaxNotice {
		t.Errorf("%d bytes, want %d and at most %d", n, noticeLen, mesh.MaxNotice)
	}
	for hold := ban.HoldRate; hold.Waits(); hold++ {
		if noticeRules[hold-1] != hold.String() || int(hold) > noticeHeld {
			t.Errorf("%v stands for %q", hold, noticeRules[hold-1])
		}
	}
}

// stopped returns how many ops of n its peers say they stopped under a rule.
func (n *node) stopped(rule string) uint64 {
	return uint64(testutil.ToFloat64(n.metrics.stoppedOps.WithLabelValues(rule)))
}

// A node that bans more than others accept is told by each of them how much, by which rule, and what to do. It is
// also told when that is over.
func TestOriginIsToldByItsPeers(t *testing.T) {
	t.Parallel()
	web1 := first(t, "web1")
	web2, web3 := web1.joinWith(t, "web2", control.InviteRequest{Caps: control.Caps{Rate: 1, Widest4: 28}}), web1.join(t, "web3")
	web2.storm(t, 1, 21, "cli")
	until(t, "held by both", func() bool { return web1.waits() == 20 && web3.waits() == 20 })
	until(t, "its operator is told", func() bool {
		return web2.problem(t, "peers: web1 and another node hold 20 ops of this node (rate of its origin); `meshban held release --from web2` there")
	})
	if n := web1.mesh.Stats().Slowed; n != 1 {
		t.Errorf("%d origins may say less for it, want 1", n)
	}
	if web2.problem(t, "refuse") || web1.problem(t, "peers:") || web3.problem(t, "peers:") {
		t.Error("somebody is told what is not so")
	}
	if n := web2.stopped(ban.RuleRate); n != 40 || web2.heldByPeers() != 20 {
		t.Errorf("metrics: %d stopped, %d held", n, web2.heldByPeers())
	}
	if n := strings.Count(web2.log.String(), "peers do not enforce all"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	rep, err := web2.Ban(t.Context(), control.BanRequest{Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, For: control.Duration(time.Hour), Source: "cli"})
	if err != nil || rep.Results[0].Err != nil {
		t.Fatalf("%+v, %v", rep, err)
	}
	for _, n := range []*node{web1, web3} {
		until(t, "refused", func() bool { return n.refused(ban.RuleWide) == 1 })
		n.tellOnce(time.Now()) // not yet
	}
	if web2.problem(t, "refuse") {
		t.Error("told more than once a minute")
	}
	later := time.Now().Add(2 * noticeEvery)
	web1.decide(t, control.ActionRelease)
	web1.tellOnce(later)
	until(t, "one has let it count", func() bool {
		return web2.problem(t, "peers: web3 holds 20 ops") && web2.problem(t, "peers: web1 refuses 1 ops of this node (prefix too wide)")
	})
	web3.decide(t, control.ActionDrop)
	web3.tellOnce(later)
	until(t, "told that nothing is held", func() bool { return !web2.problem(t, "there lets them count") })

	// If the peer that holds the bans restarts, the reports go on: the origin is told anew.
	web2.storm(t, 2, 5, "cli")
	until(t, "held by both", func() bool { return web1.waits() == 5 && web3.waits() == 5 })
	web3.stop()
	web3 = start(t, web3.home, web3.cfg)
	until(t, "told after a restart", func() bool { return web2.problem(t, "hold") && web2.reported(web3).waiting == 5 })
	if r := web2.reported(web3); r.count[ban.HoldRate-1] != 5 {
		t.Errorf("after a restart: %+v", r)
	}

	// Reports of a revoked node, and reports that nobody repeats, are no longer shown.
	if _, err := web1.Revoke(t.Context(), control.RevokeRequest{Node: "web3"}); err != nil {
		t.Fatal(err)
	}
	until(t, "the report of a revoked node goes", func() bool { return web2.reported(web3).at.IsZero() })
	var held, refused string
	web2.state.View(func(*ban.Table) {
		held, refused = web2.reportProblemsLocked(time.Now().Add(reportKept + time.Second))
	})
	if held != "" || refused != "" || web2.problem(t, "peers:") {
		t.Errorf("shown for ever: %q, %q", held, refused)
	}
}

func (n *node) reported(by *node) (r report) {
	n.state.View(func(*ban.Table) { r = n.reports[by.self] })
	return r
}

// However much there is to tell, feedback is bounded, is dropped when all is over, and stays until it can be told.
func TestDebts(t *testing.T) {
	t.Parallel()
	n := first(t, "a")
	now := time.Now()
	n.state.View(func(*ban.Table) {
		for i := range ban.MaxOrigins + 10 {
			r := ban.Record{Origin: ban.Origin{1, byte(i), byte(i >> 8)}, Hold: ban.HoldRate}
			n.countFeedbackLocked(now, &r, nil)
			n.countFeedbackLocked(now, &r, &ban.PolicyError{Rule: ban.RuleNever})
			n.countFeedbackLocked(now, &r, &ban.PolicyError{Rule: ban.RuleRate})
		}
		o := n.feedback[ban.Origin{1}]
		if len(n.feedback) != ban.MaxOrigins || o.count != [len(noticeRules)]uint32{ban.HoldRate - 1: 1, noticeOtherRate: 1} {
			t.Errorf("feedback for %d, of the first %v", len(n.feedback), o.count)
		}
	})
	for _, c := range []struct {
		at   time.Time
		want int
	}{{now.Add(quietAfter), ban.MaxOrigins}, {now.Add(quietAfter + time.Second), 0}} {
		n.tellOnce(c.at)
		n.state.View(func(*ban.Table) {
			if len(n.feedback) != c.want {
				t.Errorf("after %v: feedback for %d, want %d", c.at.Sub(now), len(n.feedback), c.want)
			}
		})
	}
}
