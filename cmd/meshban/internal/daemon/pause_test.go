package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

func (n *node) pause(t *testing.T, req control.PauseRequest) (control.PauseReply, control.Code) {
	t.Helper()
	rep, err := n.Pause(context.WithoutCancel(t.Context()), req)
	if e := (*control.Error)(nil); errors.As(err, &e) {
		return rep, e.Code
	} else if err != nil {
		t.Fatal(err)
	}
	return rep, ""
}

// paused reports whether a node says everywhere that it is paused; a node that says it only in part fails the test.
func (n *node) paused(t *testing.T) bool {
	t.Helper()
	s := n.localStatus()
	problem := slices.ContainsFunc(s.Problems, func(p string) bool { return strings.HasPrefix(p, "paused: nothing is dropped") })
	if kernel := n.fw.Status().Paused; problem != kernel || (s.Paused != nil) != kernel {
		return false // on the way
	}
	return s.Paused != nil
}

func (n *node) audited(t *testing.T, what string) (found int) {
	t.Helper()
	if err := n.audit.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := n.Audit(t.Context(), time.Time{}, func(e control.AuditEntry) error {
		found += count(e.What == what)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A pause is in status, list, why and the audit log, ends by itself or by hand, and survives a restart of the agent. What
// is banned meanwhile is said not to be enforced, and is enforced afterwards.
func TestPause(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.ban(t, time.Hour, "203.0.113.7/32")
	until(t, "the ban is enforced", func() bool { return a.enforces(t, "203.0.113.7/32") })
	if _, code := a.pause(t, control.PauseRequest{Off: true}); code != control.CodeNotFound {
		t.Errorf("the end of no pause: %q", code)
	}
	rep, _ := a.pause(t, control.PauseRequest{For: control.Duration(time.Hour), Reason: "is it meshban?"})
	if rep.Bans != 1 || time.Until(rep.Until.Time) > time.Hour || !a.paused(t) {
		t.Errorf("%+v, paused %v", rep, a.paused(t))
	}
	if rep := a.ban(t, time.Hour, "203.0.113.8/32"); rep.Results[0].Err != nil || rep.Results[0].State != control.StateNotEnforced || !strings.Contains(rep.Results[0].Note, "paused by") {
		t.Errorf("a ban during a pause: %+v", rep.Results[0])
	}
	for _, addr := range []string{"203.0.113.7/32", "203.0.113.8/32"} {
		if e, _ := a.entry(t, addr); e.State != control.StateNotEnforced || !strings.Contains(e.NotEnforced, `"is it meshban?"`) {
			t.Errorf("list: %+v", e)
		}
	}
	if why, _ := a.explain(netip.MustParsePrefix("203.0.113.8/32")); why.Verdict == control.VerdictDropped {
		t.Errorf("why: %+v", why)
	}
	a.stop()
	a = start(t, a.home, a.cfg)
	if !a.paused(t) {
		t.Error("a restart ends the pause")
	}
	a.pause(t, control.PauseRequest{Off: true})
	if a.paused(t) || !a.enforces(t, "203.0.113.7/32") || !a.enforces(t, "203.0.113.8/32") {
		t.Errorf("after the pause: paused %v", a.paused(t))
	}
	a.pause(t, control.PauseRequest{For: control.Duration(time.Second)})
	until(t, "the pause ends by itself", func() bool { return !a.paused(t) && a.enforces(t, "203.0.113.8/32") })
	until(t, "both ends are recorded", func() bool { return a.audited(t, "pause off") == 2 })
	if n := a.audited(t, "pause"); n != 2 {
		t.Errorf("%d pauses are recorded, want 2", n)
	}
	a.stop()
	a = start(t, a.home, a.cfg)
	if a.paused(t) {
		t.Error("a restart begins the pause again")
	}
}

// Only the authority pauses every node. What a captured node says, or says again, does nothing.
func TestPauseOfAllNodes(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b, c := a.join(t, "b"), a.join(t, "c")
	all := []*node{a, b, c}
	until(t, "all know one another", func() bool {
		return c.meshStatus().Alive == 3 && b.meshStatus().Alive == 3 && a.meshStatus().Alive == 3
	})
	everyone := func(paused bool) {
		t.Helper()
		until(t, "all are paused, or none is", func() bool {
			return !slices.ContainsFunc(all, func(n *node) bool { return n.paused(t) != paused })
		})
	}
	if _, code := b.pause(t, control.PauseRequest{All: true, For: control.Duration(time.Minute)}); code != control.CodeFailed {
		t.Errorf("without ca.key: %q", code)
	}

	t.Log("a captured node says so in its own name")
	var forged frame.Frame
	for range 5 {
		var err error
		if forged, err = b.mesh.Publish(time.Now(), pausePayload(time.Now().Add(time.Minute), ""), time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "it has arrived", func() bool { return a.mesh.Digest() == b.mesh.Digest() && c.mesh.Digest() == b.mesh.Digest() })
	if a.paused(t) || c.paused(t) {
		t.Error("a captured node pauses others")
	}
	if n := strings.Count(c.log.String(), "did not sign this pause"); n != 1 {
		t.Errorf("five forged pauses are %d lines in the log, want 1", n)
	}

	rep, _ := a.pause(t, control.PauseRequest{All: true, For: control.Duration(time.Hour)})
	if rep.Nodes != 3 {
		t.Errorf("%+v", rep)
	}
	everyone(true)
	if _, code := b.pause(t, control.PauseRequest{Off: true}); code != control.CodePolicy {
		t.Errorf("one node ends it for itself: %q", code)
	}
	b.stop()
	b = start(t, b.home, b.cfg)
	all[1] = b
	if !b.paused(t) {
		t.Error("a restart ends the authority's pause")
	}
	signed := c.pauses.mesh
	if rep, _ := a.pause(t, control.PauseRequest{All: true, Off: true}); !rep.Until.IsZero() {
		t.Errorf("%+v", rep)
	}
	everyone(false)

	t.Log("the former statement comes again")
	old := forged
	old.Origin, old.Seq, old.Issued = a.mesh.AuthorityID(), signed.number, time.Now()
	old.Payload = pausePayload(time.Now().Add(time.Hour), "")
	if c.hearPause(time.Now(), time.Now(), old) || c.paused(t) {
		t.Error("a statement with an old number counts again")
	}
	long := old
	long.Seq, long.Payload = signed.number+1<<40, pausePayload(time.Now().Add(2*time.Hour), "")
	if c.hearPause(time.Now(), time.Now(), long) {
		t.Error("a pause of two hours counts")
	}
	if _, err := c.mesh.PublishAsAuthority(time.Now(), old.Payload, time.Now().Add(time.Hour)); err == nil || errors.Is(err, mesh.ErrStopped) {
		t.Errorf("c signs as the authority: %v", err)
	}
	everyone(false)
	if n := c.audited(t, "pause all"); n != 1 {
		t.Errorf("c recorded %d pauses, want 1", n)
	}
}

// A pause never lasts longer than it was made for, even if the clock is set back before a restart.
func TestPauseAfterTheClockWasSetBack(t *testing.T) {
	a := first(t, "a")
	a.setOwnPause(pause{Until: time.Now().Add(20 * time.Hour), For: time.Hour, By: "alice"})
	a.stop()
	a = start(t, a.home, a.cfg)
	if in, _, on := a.pauses.at(time.Now()); !on || time.Until(in.Until) > time.Hour {
		t.Errorf("paused until %v", in.Until)
	}
}
