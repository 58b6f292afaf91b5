//go:build linux && netns

package rig

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	os.Exit(Main(m, func(string) error {
		return Require("ipset", "iptables", "ip6tables", "iptables-legacy", "nft", "ss", "ip", "ssh", "sshpass",
			"sshd", "ssh-keygen", "rsyslogd", "busybox", "logger", "fail2ban-server", "fail2ban-client")
	}))
}

// must ends the test on an error; otherwise it passes the value through.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dropRules drops packets by a set of source addresses, as the product does.
const dropRules = `ipset create t4 hash:ip
ipset create t6 hash:ip family inet6
iptables -w -t raw -A PREROUTING ! -i lo -m set --match-set t4 src -j DROP
ip6tables -w -t raw -A PREROUTING ! -i lo -m set --match-set t6 src -j DROP
`

func TestHostsAreApart(t *testing.T) {
	f := New(t, Options{Nodes: 2})
	a, b := f.Nodes[0], f.Nodes[1]
	for _, path := range []string{"/etc/only-here", "/run/only-here", "/tmp/only-here", "/dev/only-here",
		"/var/log/only-here", "/var/lib/meshban/only-here", "/usr/local/bin/only-here"} {
		check(t, a.WriteFile(path, "x"))
		if got := must(a.Do("cat", path))(t); got != "x" {
			t.Errorf("%s in its own host: %q", path, got)
		}
		if r := must(b.Run("cat", path))(t); r.Code == 0 {
			t.Errorf("%s of one host shows in another", path)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s of a host shows on the machine", path)
		}
	}
	for _, n := range f.Nodes {
		if got := must(n.Do("hostname"))(t); strings.TrimSpace(got) != n.Name {
			t.Errorf("host name of %s: %q", n.Name, got)
		}
		if got := must(n.Do("stat", "-f", "-c", "%T", "/var/lib/meshban"))(t); strings.TrimSpace(got) == "tmpfs" {
			t.Error("the state folder is not on a disk")
		}
		if r := must(n.Run("ping", "-c", "1", "-W", "2", f.Nodes[2-n.Index].Mesh.String()))(t); r.Code != 0 {
			t.Errorf("%s does not reach its neighbour: %s", n.Name, r.Stdout)
		}
		if r := must(n.Run("ping", "-c", "1", "-W", "2", f.Nodes[2-n.Index].Mesh6.String()))(t); r.Code != 0 {
			t.Errorf("%s does not reach its neighbour by IPv6: %s", n.Name, r.Stdout)
		}
	}
}

func TestProcesses(t *testing.T) {
	f := New(t, Options{Nodes: 1})
	n := f.Nodes[0]
	r := must(n.RunCmd(Cmd{
		Argv: []string{"sh", "-c", "cat; echo $WORD; pwd; echo bad >&2; exit 7"},
		Env:  []string{"WORD=word"}, Dir: "/tmp", Stdin: "in ",
	}))(t)
	if r.Stdout != "in word\n/tmp\n" || r.Stderr != "bad\n" || r.Code != 7 {
		t.Errorf("run: %+v", r)
	}
	if _, err := n.Run("no-such-command"); err == nil {
		t.Error("a missing command is no error")
	}
	p := must(n.Start(Cmd{Argv: []string{"sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done"}}))(t)
	check(t, Within(startLimit, func() error {
		if p.Stdout() != "up\n" {
			return fmt.Errorf("output %q", p.Stdout())
		}
		return nil
	}))
	if u := must(p.Usage())(t); u.PSS <= 0 || u.RSS < u.PSS {
		t.Errorf("usage %+v", u)
	}
	if e := must(p.Stop())(t); e.Code != 3 {
		t.Errorf("stop: %+v", e)
	}
	p = must(n.Start(Cmd{Argv: []string{"sleep", "1000"}}))(t)
	check(t, p.Kill(false))
	if p.exit.Signal != 9 || p.Running() {
		t.Errorf("kill: %+v", p.exit)
	}
	if err := p.Signal(15); err == nil {
		t.Error("a signal to a process that has ended is no error")
	}
	never := func(*Proc) error { return errors.New("not yet") }
	if _, err := n.StartDaemon(Cmd{Argv: []string{"false"}}, time.Minute, never); err == nil || !strings.Contains(err.Error(), "code 1") {
		t.Errorf("a daemon that ends at once: %v", err)
	}
}

func TestProberSeesRules(t *testing.T) {
	f := New(t, Options{Nodes: 3})
	p := f.Prober(t)
	for _, n := range f.Nodes {
		must(n.Shell(dropRules))(t)
	}
	for _, c := range []struct{ name, set, addr string }{
		{"ok: IPv4", "t4", "192.0.2.77"},
		{"ok: IPv4 from 198.18.0.0/15", "t4", "198.19.4.1"},
		{"ok: IPv6", "t6", "2001:db8:7::77"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pairs := must(p.WatchAll(netip.MustParseAddr(c.addr)))(t)
			defer pairs.Stop()
			other := p.Watch(netip.MustParseAddr(c.addr).Next(), f.Nodes[0], ClosedPort)
			defer other.Stop()
			check(t, other.Control())
			start := time.Now()
			for _, n := range f.Nodes {
				must(n.Do("ipset", "add", c.set, c.addr))(t)
			}
			added := time.Now()
			at := must(pairs.Enforced(controlLimit))(t)
			for i, when := range at {
				if when.Before(start) || when.After(added.Add(controlLimit)) {
					t.Errorf("%s: enforced %v after the start, set after %v", f.Nodes[i].Name, when.Sub(start), added.Sub(start))
				}
			}
			silent := Last(at)
			check(t, pairs.Silent(silent))
			if w := other.Count(silent, time.Now().Add(-Settle/2)); w.Answered != w.Sent || w.Sent < 10 {
				t.Errorf("a source that is not listed: %+v", w)
			}
			start = time.Now()
			for _, n := range f.Nodes {
				must(n.Do("ipset", "del", c.set, c.addr))(t)
			}
			must(pairs.Open(start, controlLimit))(t)
			check(t, pairs.Control())
			if err := pairs.Silent(silent); err == nil {
				t.Error("a source that answers again counts as silent")
			}
			if _, err := pairs.Enforced(0); err == nil {
				t.Error("a source that answers counts as enforced")
			}
		})
	}
}

func TestProberTellsPortsApart(t *testing.T) {
	f := New(t, Options{Nodes: 1})
	n, p, src := f.Nodes[0], f.Prober(t), netip.MustParseAddr("203.0.113.5")
	must(n.Shell("iptables -w -t raw -A PREROUTING -p tcp --dport 22 -j DROP"))(t)
	if _, err := p.Watch(src, n, 22).Open(time.Now(), time.Second); err == nil {
		t.Error("a dropped port answers")
	}
	check(t, p.Watch(src, n, 80).Control())
	l := must(n.Listen("tcp", netip.AddrPortFrom(n.Probe, 81).String()))(t)
	defer l.Close()
	check(t, p.Watch(src, n, 81).Control()) // an open port answers too
	must(n.Shell("iptables -w -I INPUT -p tcp --dport 80 -j REJECT"))(t)
	must(p.Watch(src, n, 80).Enforced(controlLimit))(t) // an ICMP error is no answer
}

func TestLinksAndCounters(t *testing.T) {
	f := New(t, Options{Nodes: 2})
	a, b := f.Nodes[0], f.Nodes[1]
	ping := []string{"ping", "-c", "3", "-i", "0.02", "-W", "1", "-s", "1000", b.Mesh.String()}
	must(a.Do(ping...))(t)
	before := must(a.Traffic())(t)
	wire := must(f.WireBytes())(t)
	must(a.Do(ping...))(t)
	got := must(a.Traffic())(t).Sub(before)
	const want = 3 * (1000 + 8 + 20 + 14)
	if got.Sent < want || got.Sent > want+200 || got.Received < want || got.Received > want+200 {
		t.Errorf("three pings of %d bytes in all: %+v", want, got)
	}
	if sum := must(f.WireBytes())(t) - wire; sum < 2*want || sum > 2*want+400 {
		t.Errorf("on the wire: %d bytes, want about %d", sum, 2*want)
	}
	check(t, b.Cut())
	if r := must(a.Run("ping", "-c", "1", "-W", "1", b.Mesh.String()))(t); r.Code == 0 {
		t.Error("a node that is cut off answers")
	}
	check(t, b.Heal())
	must(a.Do("ping", "-c", "1", "-W", "2", b.Mesh.String()))(t)
	must(a.Do("ping", "-c", "1", "-W", "2", b.Mesh6.String()))(t)
}

func TestEstablishedConnection(t *testing.T) {
	f := New(t, Options{Nodes: 1})
	n := f.Nodes[0]
	must(n.Shell(dropRules))(t)
	dst := netip.AddrPortFrom(n.Probe, 7)
	n.Echo(t, dst)
	bad := f.Connect(t, netip.MustParseAddr("192.0.2.1"), dst)
	good := f.Connect(t, netip.MustParseAddr("192.0.2.2"), dst)
	must(n.Do("ipset", "add", "t4", "192.0.2.1"))(t)
	if err := bad.Ping(300 * time.Millisecond); err == nil {
		t.Error("the listed address still talks")
	}
	check(t, good.Ping(echoLimit))
	must(n.Do("ipset", "del", "t4", "192.0.2.1"))(t)
	check(t, bad.Ping(echoLimit))
}

func TestContainerBehindNode(t *testing.T) {
	f := New(t, Options{Nodes: 1})
	n, p, src := f.Nodes[0], f.Prober(t), netip.MustParseAddr("192.0.2.9")
	must(n.Shell(dropRules))(t)
	c := must(f.AddContainer(n, map[uint16]uint16{8080: 80, 8081: 81}))(t)
	c.Echo(t, netip.AddrPortFrom(c.Addr, 80))
	conn := f.Connect(t, src, netip.AddrPortFrom(n.Probe, 8080))
	closed := p.Watch(src, n, 8081) // the reset comes from inside
	check(t, closed.Control())
	r := must(n.Do("iptables", "-t", "nat", "-vnL", "DOCKER"))(t)
	if !strings.Contains(r, "to:172.18.0.2:81") {
		t.Errorf("rules:\n%s", r)
	}
	must(n.Do("ipset", "add", "t4", src.String()))(t)
	must(closed.Enforced(controlLimit))(t)
	if err := conn.Ping(300 * time.Millisecond); err == nil {
		t.Error("the connection into the container still talks")
	}
}

// A processor that stands still for a second puts no silence in doubt; a prober that sends nothing does.
func TestWhatTellsASilence(t *testing.T) {
	const every = 10 * time.Millisecond
	for _, c := range []struct {
		name  string
		stops [][2]time.Duration // spans of 4 s without a probe
		want  bool
	}{
		{"ok: probed all the time", nil, true},
		{"ok: the machine stood still for a second", [][2]time.Duration{{time.Second, 2 * time.Second}}, true},
		{"bad: no probe since the call", [][2]time.Duration{{3900 * time.Millisecond, 4 * time.Second}}, false},
		{"bad: more than half is missing", [][2]time.Duration{{0, 1500 * time.Millisecond}, {2 * time.Second, 3 * time.Second}}, false},
		{"bad: one gap too long", [][2]time.Duration{{500 * time.Millisecond, 3600 * time.Millisecond}}, false},
		{"bad: no probe at all", [][2]time.Duration{{0, 4 * time.Second}}, false},
	} {
		start := time.Now().Add(-5 * time.Second)
		p := &Pair{Node: &Node{Host: &Host{}}, prober: &Prober{start: start, every: 1}}
		for at := time.Duration(0); at < 4*time.Second; at += every {
			if !slices.ContainsFunc(c.stops, func(s [2]time.Duration) bool { return at >= s[0] && at < s[1] }) {
				must(p.history.send(at))(t)
			}
		}
		w := p.Count(start, start.Add(4*time.Second))
		if err := p.tells(w, start, start.Add(3950*time.Millisecond)); (err == nil) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
