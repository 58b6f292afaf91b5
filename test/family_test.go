//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

func TestIPv6(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	byCommand, byLine := fresh6(), fresh6()
	first, second, other := m.watch(t, byCommand), m.watch(t, byLine), m.watch(t, fresh6())
	start := time.Now()
	m.nodes[2].run(t, "ban", byCommand.String())
	enforced(t, first, start)
	enforced(t, second, m.nodes[0].write(t, byLine, "22"))
	answering(t, other)
	// None of this blocks neighbour discovery.
	for _, n := range m.nodes {
		must(n.Shell("ip -6 neigh flush dev probe0"))(t)
	}
	answering(t, other)
	for _, n := range m.nodes[:2] { // the classic line can carry IPv6
		eventually(t, banLimit, func() error {
			if lines := n.lines(t, byCommand); len(lines) != 1 || !emitted.MatchString(lines[0]) {
				return fmt.Errorf("%s emitted %q", n.Name, lines)
			}
			return nil
		})
	}
	start = time.Now()
	m.nodes[0].run(t, "unban", byCommand.String(), byLine.String())
	open(t, first, start, banLimit)
	open(t, second, start, banLimit)
}

func TestCIDR(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	for _, c := range []struct {
		name, prefix, low, high, outside string
	}{
		{"ok: IPv4", "203.0.113.16/28", "203.0.113.16", "203.0.113.31", "203.0.113.32"},
		{"ok: IPv6", "2001:db8:f0aa::/48", "2001:db8:f0aa::", "2001:db8:f0aa:ffff:ffff:ffff:ffff:ffff", "2001:db8:f0ab::"},
	} {
		t.Run(c.name, func(t *testing.T) {
			low, high := m.watch(t, netip.MustParseAddr(c.low)), m.watch(t, netip.MustParseAddr(c.high))
			outside := m.watch(t, netip.MustParseAddr(c.outside))
			start := time.Now()
			m.nodes[1].run(t, "ban", c.prefix)
			enforced(t, low, start)
			enforced(t, high, start)
			answering(t, outside)
			for _, n := range m.nodes {
				if _, ok := n.entry(t, c.prefix); !ok {
					t.Errorf("%s does not list %s", n.Name, c.prefix)
				}
				n.run(t, "why", c.high) // why finds the prefix that contains it
				// A prefix has no classic form.
				if text, err := n.ReadFile(lineFile); err == nil && strings.Contains(text, c.low) {
					t.Errorf("%s emitted a line for %s", n.Name, c.prefix)
				}
			}
			start = time.Now()
			m.nodes[2].run(t, "unban", c.prefix)
			open(t, low, start, banLimit)
			open(t, high, start, banLimit)
			low.Stop()
			high.Stop()
			outside.Stop()
		})
	}
}

func TestOnePort(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	for _, c := range []struct {
		name string
		src  netip.Addr
	}{{"ok: IPv4", fresh()}, {"ok: IPv6", fresh6()}} {
		t.Run(c.name, func(t *testing.T) {
			var p22, p80 rig.Pairs
			for _, n := range m.nodes {
				p22 = append(p22, m.watchNode(t, c.src, n, 22)...)
				p80 = append(p80, m.watchNode(t, c.src, n, 80)...)
			}
			defer p22.Stop()
			defer p80.Stop()
			start := time.Now()
			m.nodes[0].run(t, "ban", c.src.String(), "--port", "22/tcp")
			enforced(t, p22, start)
			answering(t, p80)
			for _, n := range m.nodes {
				if e, ok := n.entry(t, c.src.String()); !ok || e.Ports != "22/tcp" {
					t.Errorf("%s lists %+v, %v", n.Name, e, ok)
				}
			}
			// A ban of all ports comes and goes beside it.
			start = time.Now()
			m.nodes[1].run(t, "ban", c.src.String(), "--for", "10s")
			open(t, p80, start.Add(enforced(t, p80, start)), 2*banLimit)
			if err := p22.Silent(time.Now().Add(-rig.Settle)); err != nil {
				t.Error(err)
			}
			start = time.Now()
			m.nodes[2].run(t, "unban", c.src.String())
			open(t, p22, start, banLimit)
		})
	}
}
