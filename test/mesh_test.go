//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// syncLimit bounds how long a new mesh may need until all are in sync.
	syncLimit = time.Minute
	// banLimit bounds how long any ban or unban may take to reach the last kernel.
	// It is not a target: the benchmarks print the real figures.
	banLimit = 30 * time.Second
)

// setup describes a test's mesh.
type setup struct {
	nodes  int
	config string        // added to every node's config file
	invite []string      // further flags of the invitation for all nodes but the first
	before func(n *node) // called before a node's agent starts, once its config file exists
}

// mesh is a fleet whose nodes form one mesh.
type mesh struct {
	*rig.Fleet
	nodes  []*node
	prober *rig.Prober
}

// newMesh sets servers up as a user does: init and invite on the first, join on
// the others.
func newMesh(t testing.TB, s setup) *mesh {
	t.Helper()
	m := newFleet(t, s.nodes)
	m.join(t, s)
	return m
}

// join makes a mesh of a fresh fleet.
func (m *mesh) join(t testing.TB, s setup) {
	t.Helper()
	first := m.nodes[0]
	first.run(t, "init", "--dir", stateDir, "--name", first.Name, "--bind", m.bind(first))
	m.up(t, s, first)
	if s.nodes > 1 {
		invite := append([]string{"invite", "--uses", strconv.Itoa(s.nodes - 1)}, s.invite...)
		token := strings.TrimSpace(first.run(t, invite...))
		for _, n := range m.nodes[1:] {
			n.run(t, "join", token, "--name", n.Name, "--bind", m.bind(n))
			m.up(t, s, n)
		}
	}
	m.inSync(t, syncLimit)
}

// newFleet returns servers with the program on them and nothing set up.
func newFleet(t testing.TB, nodes int) *mesh {
	t.Helper()
	return newFleetOf(t, nodes, program)
}

// newFleetOf is newFleet with another build of the program.
func newFleetOf(t testing.TB, nodes int, program string) *mesh {
	t.Helper()
	f := rig.New(t, rig.Options{Nodes: nodes, Binds: map[string]string{"/usr/local/bin/meshban": program}})
	m := &mesh{Fleet: f, prober: f.Prober(t)}
	for _, n := range f.Nodes {
		m.nodes = append(m.nodes, &node{Node: n})
	}
	return m
}

func (m *mesh) bind(n *node) string { return netip.AddrPortFrom(n.Mesh, meshPort).String() }

func (m *mesh) up(t testing.TB, s setup, n *node) {
	t.Helper()
	if s.config != "" {
		n.configure(t, s.config)
	}
	if s.before != nil {
		s.before(n)
	}
	n.start(t)
}

// inSync waits until every node sees every node alive and in sync.
func (m *mesh) inSync(t testing.TB, limit time.Duration) {
	t.Helper()
	check(t, rig.Within(limit, func() error { return m.outOfSync(t) }))
}

// outOfSync returns an error unless every node sees every node alive and in sync.
func (m *mesh) outOfSync(t testing.TB) error {
	t.Helper()
	digests := map[string]string{}
	for _, n := range m.nodes {
		seen := map[string]bool{}
		for _, other := range n.members(t) {
			if other.State == "alive" && other.InSync {
				seen[other.Name] = true
			}
		}
		for _, other := range m.nodes {
			if !seen[other.Name] {
				return fmt.Errorf("%s does not see %s alive and in sync", n.Name, other.Name)
			}
		}
		digests[n.status(t).Mesh.Digest] = n.Name
	}
	if len(digests) != 1 {
		return fmt.Errorf("digests differ: %v", digests)
	}
	return nil
}

var usedAddrs atomic.Uint32

// fresh returns an attacker's IPv4 address that no test of this run has used.
func fresh() netip.Addr {
	n := usedAddrs.Add(1)
	return netip.AddrFrom4([4]byte{198, 18, byte(n / 250), byte(n%250 + 1)})
}

// freshNet returns an attacker's /29 that no test of this run has used, outside
// the addresses that fresh returns.
func freshNet() netip.Prefix {
	n := usedAddrs.Add(1)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(128 + n/32), byte(n % 32 * 8)}), 29)
}

// fresh6 returns an attacker's IPv6 address that no test of this run has used, each in
// a /48 of its own.
func fresh6() netip.Addr {
	n := usedAddrs.Add(1)
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 4: byte(n >> 8), 5: byte(n), 15: 7})
}

// watch probes every node from src and returns once each has answered.
func (m *mesh) watch(t testing.TB, src netip.Addr) rig.Pairs {
	t.Helper()
	return must(m.prober.WatchAll(src))(t)
}

// watchNode probes one port of one node from src and returns once it has
// answered.
func (m *mesh) watchNode(t testing.TB, src netip.Addr, n *node, port uint16) rig.Pairs {
	t.Helper()
	p := m.prober.Watch(src, n.Node, port)
	check(t, p.Control())
	return rig.Pairs{p}
}

// enforced waits until every pair is silent, and logs and returns how long after
// start the last one was.
func enforced(t testing.TB, pairs rig.Pairs, start time.Time) time.Duration {
	t.Helper()
	took := rig.Last(must(pairs.Enforced(banLimit))(t)).Sub(start)
	if took > banLimit {
		t.Fatalf("%v: enforced everywhere only after %v", pairs[0].Src, took)
	}
	t.Logf("%v: enforced on %d of %d pairs after %.1f ms", pairs[0].Src, len(pairs), len(pairs), ms(took))
	return took
}

// lasts checks that an entry ends length after its ban, which was made between from and to; entries have whole seconds.
func lasts(t testing.TB, n *node, e entry, from, to time.Time, length time.Duration) {
	t.Helper()
	if earliest, latest := from.Add(length-time.Second), to.Add(length+time.Second); e.Until.Before(earliest) || e.Until.After(latest) {
		t.Errorf("%s: a ban of %v ends at %v, want %v to %v", n.Name, length, e.Until, earliest, latest)
	}
}

// open waits until every pair answers a probe sent after start, and then checks
// that all of them keep answering.
func open(t testing.TB, pairs rig.Pairs, start time.Time, limit time.Duration) []time.Time {
	t.Helper()
	at := must(pairs.Open(start, limit))(t)
	check(t, pairs.Control())
	return at
}

// answering checks that every pair answers its newest probes.
func answering(t testing.TB, pairs rig.Pairs) {
	t.Helper()
	check(t, pairs.Control())
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// eventually waits until f returns nil.
func eventually(t testing.TB, limit time.Duration, f func() error) {
	t.Helper()
	check(t, rig.Within(limit, f))
}

// during waits for the time d: some tests prove that nothing happens.
func during(d time.Duration) { <-time.After(d) }
