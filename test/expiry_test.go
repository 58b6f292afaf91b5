//go:build linux && netns

package test

import (
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// early and late bound when a kernel lets an address go, from the end that
	// the origin set: a probe is sent each millisecond, and ipset counts whole
	// seconds where the agent is gone.
	early, late = 50 * time.Millisecond, time.Second
)

// letGo waits until every pair answers again and says that none did so too
// early, counting from the start of the command, or too late, from its end.
func letGo(t *testing.T, pairs rig.Pairs, started, ended time.Time, length, late time.Duration) {
	t.Helper()
	silent := started.Add(min(length/2, time.Second)) // enforced long since
	for i, at := range open(t, pairs, silent, length+late+5*time.Second) {
		if at.Before(started.Add(length - early)) {
			t.Errorf("%v: open %v before the end", pairs[i], started.Add(length).Sub(at))
		}
		if at.After(ended.Add(length + late)) {
			t.Errorf("%v: open %v after the end", pairs[i], at.Sub(ended.Add(length)))
		}
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	src, src6, cidr, port := fresh(), fresh6(), freshNet(), fresh()
	pairs, pairs6, wide := m.watch(t, src), m.watch(t, src6), m.watch(t, cidr.Addr().Next())
	one := m.watchNode(t, port, m.nodes[0], 22)
	const length = 3 * time.Second
	started := time.Now()
	m.nodes[1].run(t, "ban", src.String(), src6.String(), cidr.String(), "--for", length.String())
	m.nodes[1].run(t, "ban", port.String(), "--port", "22/tcp", "--for", length.String())
	ended := time.Now()
	for _, p := range []rig.Pairs{pairs, pairs6, wide, one} {
		enforced(t, p, started)
	}
	for _, p := range []rig.Pairs{pairs, pairs6, wide, one} {
		letGo(t, p, started, ended, length, late)
	}
	for _, n := range m.nodes {
		if all := n.list(t); len(all) != 0 {
			t.Errorf("%s still lists %+v", n.Name, all)
		}
	}
	m.inSync(t, syncLimit)
}

// A ban that is said again lasts as long as the later one, everywhere.
func TestRefresh(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	src := fresh()
	pairs := m.watch(t, src)
	started := time.Now()
	m.nodes[0].run(t, "ban", src.String(), "--for", "2s")
	enforced(t, pairs, started)
	silent := time.Now()
	again := time.Now()
	m.nodes[0].run(t, "ban", src.String(), "--for", "4s")
	ended := time.Now()
	letGo(t, pairs, again, ended, 4*time.Second, late)
	check(t, pairs.Silent(silent, again.Add(4*time.Second-early)))
}

// The kernel lets go by itself when no agent is there to do it.
func TestExpiryWithoutAgent(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	src := fresh()
	pairs := m.watch(t, src)
	started := time.Now()
	m.nodes[0].run(t, "ban", src.String(), "--for", "3s")
	ended := time.Now()
	enforced(t, pairs, started)
	for _, n := range m.nodes {
		n.kill(t)
	}
	letGo(t, pairs, started, ended, 3*time.Second, late+time.Second)
}
