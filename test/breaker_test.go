//go:build linux && netns

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// stormBans is how many addresses a faulty peer bans at once.
const stormBans = 30_000

// The breakers of the other nodes stop a peer that bans thousands of addresses a second, while their own bans still
// work at once. Each node decides about what it holds, and its decisions last.
func TestBreaker(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3, config: "peers: {rate: 100000000, burst: 100000000}\nbreaker: {rate: 1, burst: 2000}"})
	bad, b, c := m.nodes[0], m.nodes[1], m.nodes[2]

	// Positive control: before the storm, this peer's bans are enforced everywhere.
	control := fresh()
	pairs := m.watch(t, control)
	start := time.Now()
	bad.run(t, "ban", control.String())
	enforced(t, pairs, start)

	victim, ownB, ownC := fresh(), fresh(), fresh()
	held, atB, atC := m.watch(t, victim), m.watchNode(t, ownB, b, 80), m.watchNode(t, ownC, c, 80)
	var list strings.Builder
	for i := range stormBans {
		fmt.Fprintf(&list, "11.0.%d.%d\n", i>>8, i&255)
	}
	fmt.Fprintln(&list, victim)
	check(t, bad.WriteFile("/root/storm", list.String()))
	start = time.Now()
	storm := must(bad.Start(rig.Cmd{Argv: []string{"sh", "-c", "meshban ban - --for 1h </root/storm >/root/out"}}))(t)
	eventually(t, banLimit, func() error {
		if n := b.status(t).Bans.Held; n == 0 {
			return fmt.Errorf("nothing is held yet")
		}
		return nil
	})
	local := time.Now()
	b.run(t, "ban", ownB.String())
	enforced(t, atB, local)
	enforced(t, atC, c.write(t, ownC, "22"))
	eventually(t, crowdLimit, func() error {
		for _, n := range m.nodes[1:] {
			if s := n.status(t); s.Bans.Held < stormBans-2000 {
				return fmt.Errorf("%s holds %d", n.Name, s.Bans.Held)
			}
		}
		return nil
	})
	took := time.Since(start)
	t.Logf("%d bans at %.0f a second", stormBans, stormBans/took.Seconds())
	if e := must(storm.Wait(banLimit))(t); e.Code != exitDone {
		t.Errorf("the storm ended with %+v", e)
	}
	m.inSync(t, syncLimit) // held bans are replicated too
	for _, n := range m.nodes[1:] {
		s := n.status(t)
		if s.Bans.Held+s.Bans.Active < stormBans || s.Bans.Active > 2000+3 || s.Firewall.Enforced != s.Bans.Active {
			t.Errorf("%s: %+v, %+v", n.Name, s.Bans, s.Firewall)
		}
		if !strings.Contains(strings.Join(s.Problems, "\n"), "held:") {
			t.Errorf("%s raises no alarm: %q", n.Name, s.Problems)
		}
		if e, ok := n.entry(t, victim.String()); !ok || e.State != "held" {
			t.Errorf("%s lists %+v, %v", n.Name, e, ok)
		}
		if why := n.run(t, "why", victim.String()); !strings.Contains(why, "held for the operator: breaker") {
			t.Errorf("%s says why: %s", n.Name, why)
		}
	}
	must(held[:1].Enforced(banLimit))(t) // the node itself enforces it
	answering(t, held[1:])

	start = time.Now()
	b.run(t, "held", "release", victim.String())
	enforced(t, held[1:2], start)
	if out := c.run(t, "held", "drop", "--from", bad.Name); !strings.HasSuffix(out, " bans dropped\n") {
		t.Errorf("drop: %q", out)
	}
	// What b banned meanwhile is held too, unless it came before the breaker opened: the breaker spares no peer.
	if r := must(c.Run("meshban", "held", "drop", "--all"))(t); r.Code != exitDone && r.Code != exitNotFound {
		t.Errorf("drop of the rest: exit code %d\n%s", r.Code, r.Stderr)
	}
	c.exit(t, exitNotFound, "held", "drop", "--all")
	answering(t, held[2:])

	// Decisions survive a restart, and so do held bans.
	waiting := b.status(t).Bans.Held
	for _, n := range m.nodes[1:] {
		n.stop(t)
		n.start(t)
	}
	if n := b.status(t).Bans.Held; n != waiting {
		t.Errorf("%d held after a restart, %d before", n, waiting)
	}
	if s := c.status(t); s.Bans.Held != 0 || s.Bans.Active > 2000+3 {
		t.Errorf("after drop and restart: %+v", s.Bans)
	}
	m.inSync(t, syncLimit)
	answering(t, held[2:])
	check(t, held[1:2].Silent(time.Now().Add(-rig.Settle)))

	// A release of all held bans is one batch; a fresh ban need not wait for it.
	src := fresh()
	here := m.watchNode(t, src, b, 80)
	all := must(b.Start(rig.Cmd{Argv: []string{"meshban", "held", "release", "--all"}}))(t)
	start = time.Now()
	b.run(t, "ban", src.String())
	enforced(t, here, start)
	if e := must(all.Wait(crowdLimit))(t); e.Code != exitDone {
		t.Errorf("release of all ended with %+v", e)
	}
	if s := b.status(t); s.Bans.Held != 0 || s.Bans.Active < stormBans {
		t.Errorf("after the release: %+v", s.Bans)
	}
}

// A single peer is stopped by its own caps, and the others' bans are not affected.
func TestCapsOfOnePeer(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3, config: "peers: {rate: 1, burst: 100}"})
	bad, good, c := m.nodes[0], m.nodes[1], m.nodes[2]
	var list strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&list, "11.0.%d.%d\n", i>>8, i&255)
	}
	check(t, bad.WriteFile("/root/storm", list.String()))
	must(bad.Shell("meshban ban - --for 1h </root/storm"))(t)
	eventually(t, banLimit, func() error {
		if s := c.status(t); s.Bans.Held != 900 || s.Bans.Active != 100 {
			return fmt.Errorf("%+v", s.Bans)
		}
		return nil
	})
	src := fresh()
	pairs := m.watch(t, src)
	start := time.Now()
	good.run(t, "ban", src.String())
	enforced(t, pairs, start)
	if p := strings.Join(bad.status(t).Problems, "\n"); !strings.Contains(p, "caps: 900 ops of this node") {
		t.Errorf("its own status shows: %q", p)
	}
}
