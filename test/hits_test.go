//go:build linux && netns

package test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// knocker is what `meshban list --sort hits --json` prints.
type knocker struct {
	Prefix  string  `json:"prefix"`
	Packets *uint64 `json:"packets"`
	Bytes   *uint64 `json:"bytes"`
}

func (n *node) knockers(t testing.TB) []knocker {
	t.Helper()
	return must(jsonLines[knocker](n.run(t, "list", "--sort", "hits", "--json")))(t)
}

// Who still knocks is shown first, on every backend that drops; with ipset also after a restart.
func TestListByHits(t *testing.T) {
	t.Parallel()
	backends := []string{"ipset", "nftables", "iptables"}
	m := newFleet(t, len(backends))
	for i, n := range m.nodes {
		n.args = []string{"--firewall", backends[i]}
	}
	m.join(t, setup{nodes: len(backends), config: "firewall: {counters: true}"})
	quiet, loud := fresh(), fresh()
	pairs := m.watch(t, loud)
	check(t, pairs.Control())
	start := time.Now()
	m.nodes[0].run(t, "ban", quiet.String(), loud.String())
	enforced(t, pairs, start)
	first := func(n *node, least uint64) func() error {
		return func() error {
			switch k := n.knockers(t); {
			case len(k) != 2 || k[0].Packets == nil || k[1].Packets == nil:
				return fmt.Errorf("%s: %+v", n.Name, k)
			case *k[0].Packets <= least || k[0].Prefix != loud.String() || *k[1].Packets != 0 || *k[0].Bytes < 40**k[0].Packets:
				return fmt.Errorf("%s: %s has %d packets, %d bytes, want more than %d of %s", n.Name, k[0].Prefix, *k[0].Packets, *k[0].Bytes, least, loud)
			}
			return nil
		}
	}
	for _, n := range m.nodes {
		check(t, rig.Within(banLimit, first(n, 100)))
		if why := n.run(t, "why", loud.String()); !strings.Contains(why, "has dropped ") {
			t.Errorf("%s: %s", n.Name, why)
		}
	}
	n := m.nodes[0]
	before := *n.knockers(t)[0].Packets
	n.stop(t)
	n.start(t)
	check(t, first(n, before-1)())
	n.run(t, "unban", loud.String())
	check(t, rig.Within(banLimit, func() error {
		for _, n := range m.nodes {
			if k := n.knockers(t); len(k) != 1 || *k[0].Packets != 0 {
				return errors.New(n.Name + " still lists what was lifted")
			}
		}
		return nil
	}))
}
