//go:build linux && netns

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// missedLimit bounds how soon a node that is back has caught up.
const missedLimit = time.Minute

// A node that is killed with kill -9 and started again never lets a banned
// address through, and catches up on what it missed.
func TestKillLeavesNoGap(t *testing.T) {
	m := newMesh(t, setup{nodes: 3})
	a, b := m.nodes[0], m.nodes[1]
	old, cidr, port, lifted := fresh(), freshNet(), fresh(), fresh()
	start := time.Now()
	before := m.watch(t, old)
	wide := m.watch(t, cidr.Addr().Next())
	one := m.watchNode(t, port, b, 22)
	freed := m.watch(t, lifted)
	a.run(t, "ban", old.String(), cidr.String(), lifted.String(), "--for", "1h")
	a.run(t, "ban", port.String(), "--port", "22/tcp", "--for", "1h")
	for _, p := range []rig.Pairs{before, wide, one, freed} {
		enforced(t, p, start)
	}
	all := append(append(append(rig.Pairs{}, before...), wide...), one...)

	silent := time.Now()
	b.kill(t)
	missed := fresh()
	later := m.watch(t, missed)
	a.run(t, "ban", missed.String(), "--for", "1h")
	a.run(t, "unban", lifted.String())
	ownMissed := fresh()
	own := m.watch(t, ownMissed)
	b.write(t, ownMissed, "22") // no agent follows its file now
	must(later[0].Enforced(banLimit))(t)
	check(t, later[1].Control()) // the dead agent does not know of it
	back := time.Now()
	b.start(t)
	for _, p := range []rig.Pairs{later, own} {
		took := rig.Last(must(p.Enforced(missedLimit))(t)).Sub(back)
		t.Logf("what was missed, after %.0f ms", ms(took))
	}
	took := rig.Last(open(t, freed, back, missedLimit)).Sub(back)
	t.Logf("an unban that was missed, after %.0f ms", ms(took))
	m.inSync(t, syncLimit)
	check(t, all.Silent(silent))
}

// On SIGTERM a node leaves the mesh cleanly, and its kernel keeps its bans.
func TestStopLeavesTheMesh(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	b := m.nodes[1]
	src := fresh()
	pairs := m.watch(t, src)
	start := time.Now()
	b.run(t, "ban", src.String(), "--for", "1h")
	enforced(t, pairs, start)
	silent := time.Now()
	b.stop(t)
	b.exit(t, exitNoAgent, "list")
	for _, n := range []*node{m.nodes[0], m.nodes[2]} {
		eventually(t, banLimit, func() error {
			for _, other := range n.members(t) {
				if other.Name == b.Name && other.State != "left" {
					return fmt.Errorf("%s sees %s as %s", n.Name, b.Name, other.State)
				}
			}
			return nil
		})
		if _, ok := n.entry(t, src.String()); !ok {
			t.Errorf("%s has lost the ban of a node that left", n.Name)
		}
	}
	b.start(t)
	m.inSync(t, syncLimit)
	check(t, pairs.Silent(silent))
}

// All nodes restart at once, as after a power cut: the kernels are empty, and the
// state comes from the stores.
func TestMassRestart(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	src, lifted := fresh(), fresh()
	pairs, freed := m.watch(t, src), m.watch(t, lifted)
	start := time.Now()
	m.nodes[1].run(t, "ban", src.String(), lifted.String(), "--for", "1h", "--reason", "kept")
	enforced(t, pairs, start)
	enforced(t, freed, start)
	start = time.Now()
	m.nodes[2].run(t, "unban", lifted.String())
	open(t, freed, start, banLimit)
	during(3 * time.Second) // the store commits off the hot path: a kill may lose the last commit
	for _, n := range m.nodes {
		n.kill(t)
	}
	start = time.Now()
	for _, n := range m.nodes {
		must(n.Shell("iptables -w -t raw -F; ip6tables -w -t raw -F; ipset destroy; nft flush ruleset"))(t)
	}
	open(t, pairs, start, banLimit)
	for _, n := range m.nodes {
		n.start(t)
	}
	must(pairs.Enforced(missedLimit))(t)
	m.inSync(t, syncLimit)
	answering(t, freed)
	for _, n := range m.nodes {
		e, ok := n.entry(t, src.String())
		if !ok || e.Reason != "kept" || len(e.Origins) != 1 || e.Origins[0] != m.nodes[1].Name {
			t.Errorf("%s lists %+v, %v", n.Name, e, ok)
		}
		if _, ok := n.entry(t, lifted.String()); ok {
			t.Errorf("%s lists what was unbanned", n.Name)
		}
	}
	// A ban made now is newer than all earlier ops.
	start = time.Now()
	m.nodes[1].run(t, "ban", lifted.String())
	enforced(t, freed, start)
}

// A node killed just after it found its first peer once came back alone, because
// it had not yet stored its peers.
func TestKillRightAfterJoin(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	for _, n := range m.nodes {
		n.kill(t)
	}
	for _, n := range m.nodes {
		n.start(t)
	}
	m.nodes[0].kill(t)
	m.nodes[0].start(t)
	m.inSync(t, syncLimit)
}

// A kill right after a confirmed ban once lost it: it was neither pushed nor on disk yet.
func TestKillRightAfterBan(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	a, b := m.nodes[0], m.nodes[1]
	during(5 * time.Second) // remembered peers are written every few seconds
	for range 5 {
		src := fresh()
		pairs := m.watch(t, src)
		a.run(t, "ban", src.String(), "--for", "1h")
		a.kill(t)
		must(pairs[0].Enforced(banLimit))(t)
		a.start(t)
		m.inSync(t, syncLimit)
		for _, n := range m.nodes {
			if _, ok := n.entry(t, src.String()); !ok {
				t.Errorf("%s has lost %v, which the command had confirmed", n.Name, src)
			}
		}
		pairs.Stop()
	}
	if text := b.run(t, "status"); strings.Contains(strings.ToLower(text), "equivocat") {
		t.Errorf("%s takes a restart for a fraud:\n%s", b.Name, text)
	}
}
