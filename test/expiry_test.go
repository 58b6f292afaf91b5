//go:build linux && netns

package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// early and late bound how much before and after the end that the origin set a
	// kernel may release an address: a probe is sent every millisecond, and ipset
	// counts whole seconds once the agent is gone. late has room for a busy machine.
	early, late = 50 * time.Millisecond, 10 * time.Second
)

// letGo waits until every pair, silent since a time, answers again. It checks
// that none has done so too early, counting from the start of the command, or too
// late, counting from its end.
func letGo(t *testing.T, pairs rig.Pairs, silent, started, ended time.Time, length time.Duration) {
	t.Helper()
	for i, at := range open(t, pairs, silent, length+banLimit) {
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
	all := []rig.Pairs{m.watch(t, src), m.watch(t, src6), m.watch(t, cidr.Addr().Next()), m.watchNode(t, port, m.nodes[0], 22)}
	const length = 10 * time.Second
	started := time.Now()
	m.nodes[1].run(t, "ban", src.String(), src6.String(), cidr.String(), "--for", length.String())
	m.nodes[1].run(t, "ban", port.String(), "--port", "22/tcp", "--for", length.String())
	ended := time.Now()
	var silent []time.Time
	for _, p := range all {
		silent = append(silent, started.Add(enforced(t, p, started)))
	}
	for i, p := range all {
		letGo(t, p, silent[i], started, ended, length)
	}
	for _, n := range m.nodes {
		eventually(t, banLimit, func() error {
			if all := n.list(t); len(all) != 0 {
				return fmt.Errorf("%s still lists %+v", n.Name, all)
			}
			return nil
		})
	}
	m.inSync(t, syncLimit)
}

// A repeated ban lasts as long as the later one, on every node.
func TestRefresh(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	src := fresh()
	pairs := m.watch(t, src)
	const first, second = 10 * time.Second, 14 * time.Second
	started := time.Now()
	m.nodes[0].run(t, "ban", src.String(), "--for", first.String())
	silent := started.Add(enforced(t, pairs, started))
	again := time.Now()
	m.nodes[0].run(t, "ban", src.String(), "--for", second.String())
	letGo(t, pairs, silent, again, time.Now(), second)
}

// The kernel ends bans by itself if no agent does.
func TestExpiryWithoutAgent(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	src := fresh()
	pairs := m.watch(t, src)
	started := time.Now()
	const length = 8 * time.Second
	m.nodes[0].run(t, "ban", src.String(), "--for", length.String())
	ended := time.Now()
	silent := started.Add(enforced(t, pairs, started))
	for _, n := range m.nodes {
		n.kill(t)
	}
	letGo(t, pairs, silent, started, ended, length)
}
