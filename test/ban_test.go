//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

func TestBanAndUnban(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	a, b, c := m.nodes[0], m.nodes[1], m.nodes[2]
	src := fresh()
	pairs := m.watch(t, src)
	start := time.Now()
	b.run(t, "ban", src.String(), "--for", "10m", "--reason", "too many guesses")
	ended := time.Now()
	enforced(t, pairs, start)
	m.inSync(t, syncLimit) // digests are equal
	for _, n := range m.nodes {
		e, ok := n.entry(t, src.String())
		lasts(t, n, e, start, ended, 10*time.Minute)
		if !ok || e.State != "enforced" || e.Reason != "too many guesses" || e.Source != "cli" ||
			!slices.Equal(e.Origins, []string{b.Name}) {
			t.Errorf("%s lists %+v, %v", n.Name, e, ok)
		}
		if why := n.run(t, "why", src.String()); !strings.Contains(why, "too many guesses") || !strings.Contains(why, b.Name) {
			t.Errorf("%s says why: %s", n.Name, why)
		}
	}

	start = time.Now()
	c.run(t, "unban", src.String()) // not the node that banned it
	open(t, pairs, start, banLimit)
	m.inSync(t, syncLimit)
	answering(t, pairs)
	a.exit(t, exitNotFound, "unban", src.String())

	start = time.Now() // a later ban counts again
	a.run(t, "ban", src.String())
	enforced(t, pairs, start)
}

func TestBanListOnStdin(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	one, two := fresh(), fresh()
	first, second := m.watch(t, one), m.watch(t, two)
	start := time.Now()
	r := must(m.nodes[1].RunCmd(rig.Cmd{
		Argv: []string{"meshban", "ban", "-", "--for", "1h"}, Stdin: fmt.Sprintf("%v\n%v\n", one, two),
	}))(t)
	if r.Code != exitDone {
		t.Fatalf("exit code %d: %s", r.Code, r.Stderr)
	}
	enforced(t, first, start)
	enforced(t, second, start)
	start = time.Now()
	m.nodes[0].run(t, "unban", one.String(), two.String())
	open(t, first, start, banLimit)
	open(t, second, start, banLimit)
}

func TestImportAndExport(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	const count = 3000
	var list strings.Builder
	list.WriteString("# a list as they are published\n\n")
	for i := range count {
		fmt.Fprintf(&list, "198.19.%d.%d\t%d  # seen\n", i/250, i%250+1, i)
	}
	last := netip.AddrFrom4([4]byte{198, 19, (count - 1) / 250, (count-1)%250 + 1})
	pairs := m.watch(t, last)
	check(t, m.nodes[0].WriteFile("/root/list", list.String()))
	start := time.Now()
	m.nodes[0].run(t, "import", "/root/list", "--for", "1h", "--reason", "list")
	took := rig.Last(must(pairs.Enforced(syncLimit))(t)).Sub(start)
	t.Logf("%d addresses from the command to the last kernel: %v", count, took.Round(time.Millisecond))
	for _, n := range m.nodes {
		eventually(t, banLimit, func() error {
			if got := n.status(t).Firewall.Enforced; got != count {
				return fmt.Errorf("%s enforces %d of %d", n.Name, got, count)
			}
			return nil
		})
		if got := len(strings.Fields(n.run(t, "export"))); got != count {
			t.Errorf("%s exports %d of %d", n.Name, got, count)
		}
	}
	// ipset and nft accept what is exported for them.
	n := m.nodes[2]
	for format, load := range map[string]string{"ipset": "ipset restore </root/out", "nft": "nft -c -f /root/out"} {
		check(t, n.WriteFile("/root/out", n.run(t, "export", "--format", format)))
		must(n.Shell(load))(t)
	}
	m.inSync(t, syncLimit)
}

func TestNeverBanned(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	a, b := m.nodes[0], m.nodes[1]
	for _, c := range []struct{ name, addr string }{
		{"bad: loopback", "127.0.0.1"},
		{"bad: loopback of IPv6", "::1"},
		{"bad: own address", a.Probe.String()},
		{"bad: a member of the mesh", b.Mesh.String()},
		{"bad: the gateway of the probes", "10.78.0.254"},
		{"bad: the world", "0.0.0.0/0"},
		{"bad: wider than /8", "198.0.0.0/7"},
		{"bad: multicast", "224.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) { a.exit(t, exitPolicy, "ban", c.addr) })
	}

	// An allow on any node lifts an enforced ban, rejects new bans, and overrides
	// a wider ban.
	src := netip.MustParseAddr("203.0.113.130")
	pairs, near := m.watch(t, src), m.watch(t, src.Next())
	start := time.Now()
	a.run(t, "ban", src.String())
	enforced(t, pairs, start)
	start = time.Now()
	b.run(t, "allow", src.String(), "--reason", "the monitoring")
	open(t, pairs, start, banLimit)
	for _, n := range m.nodes {
		if e, ok := n.entry(t, src.String()); ok && e.State != "allowed" {
			t.Errorf("%s lists %+v", n.Name, e)
		}
		eventually(t, banLimit, func() error {
			if out := n.run(t, "allow", "--list"); !strings.Contains(out, src.String()) {
				return fmt.Errorf("%s does not list the allow entry: %s", n.Name, out)
			}
			return nil
		})
		n.exit(t, exitPolicy, "ban", src.String())
	}
	start = time.Now()
	a.run(t, "ban", "203.0.113.128/26")
	enforced(t, near, start)
	answering(t, pairs)
	start = time.Now()
	m.nodes[2].run(t, "allow", "--remove", src.String())
	enforced(t, pairs, start)
	start = time.Now()
	m.nodes[2].run(t, "unban", "203.0.113.128/26")
	open(t, near, start, banLimit)
}

func TestWatch(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	a, b := m.nodes[0], m.nodes[1]
	p := must(b.Start(rig.Cmd{Argv: []string{"meshban", "watch", "--json"}}))(t)
	src := fresh()
	// expect waits for an event about src.
	expect := func(name string) event {
		t.Helper()
		var found event
		eventually(t, banLimit, func() error {
			out := p.Stdout()
			events, err := jsonLines[event](out[:strings.LastIndex(out, "\n")+1])
			for _, e := range events {
				if e.Event == name && canonical(e.Prefix) == canonical(src.String()) {
					found = e
					return nil
				}
			}
			return fmt.Errorf("no %s in %q, %v", name, out, err)
		})
		return found
	}
	// Once the watcher sees a ban, it is listening.
	probe := fresh()
	eventually(t, banLimit, func() error {
		a.run(t, "ban", probe.String(), "--for", "1m")
		a.run(t, "unban", probe.String())
		if !strings.Contains(p.Stdout(), probe.String()) {
			return fmt.Errorf("the watcher is silent")
		}
		return nil
	})
	a.run(t, "ban", src.String(), "--for", "2s")
	e := expect("ban")
	if e.Origin != a.Name || e.LatencyMS == nil || *e.LatencyMS < 0 || *e.LatencyMS > 10_000 {
		t.Errorf("ban: %+v", e)
	}
	expect("expire")
	a.run(t, "ban", src.String(), "--for", "1h")
	a.run(t, "unban", src.String())
	expect("unban")
	must(p.Stop())(t)
}
