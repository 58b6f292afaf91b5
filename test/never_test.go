//go:build linux && netns

package test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// echoPort serves the connections that must survive a ban.
	echoPort = 7
	// noticeLimit bounds how long a new ssh session may be unprotected: ten times the intended time.
	noticeLimit = 30 * time.Second
)

// banElsewhere has node by ban addrs and an unprotected control address in one command, and waits until the first node
// drops the control address: by then it has processed the other bans too.
func (m *mesh) banElsewhere(t *testing.T, by *node, addrs ...string) {
	t.Helper()
	control := fresh()
	pair := m.watchNode(t, control, m.nodes[0], rig.ClosedPort)
	defer pair.Stop()
	start := time.Now()
	eventually(t, banLimit, func() error { // by may not know yet that it no longer needs an address
		r, err := by.Run(append([]string{"meshban", "ban", "--for", "10m", control.String()}, addrs...)...)
		if err == nil && r.Code != exitDone {
			err = fmt.Errorf("%s: ban %v: exit code %d: %s", by.Name, addrs, r.Code, r.Stderr)
		}
		return err
	})
	enforced(t, pair, start)
}

// spared checks that the first node has a peer's ban of prefix but does not drop addr, for the given reason.
func (m *mesh) spared(t *testing.T, prefix string, addr netip.Addr, reason string) {
	t.Helper()
	n := m.nodes[0]
	why := n.run(t, "why", addr.String())
	if !strings.Contains(why, addr.String()+": not dropped") || !strings.Contains(why, reason) || !strings.Contains(why, "ban "+prefix+" by "+m.nodes[1].Name) {
		t.Errorf("why %v does not speak of a ban of %s that %q overrules:\n%s", addr, prefix, reason, why)
	}
}

// A peer's ban of an address that a node needs has no effect there, in whatever form.
func TestPeersCannotBanWhatANodeNeeds(t *testing.T) {
	t.Parallel()
	resolver := netip.MustParseAddr("203.0.113.53")
	m := newMesh(t, setup{nodes: 3, before: func(n *node) {
		if n.Index == 1 {
			check(t, n.WriteFile("/etc/resolv.conf", "nameserver "+resolver.String()+"\n"))
		}
	}})
	a, b, c := m.nodes[0], m.nodes[1], m.nodes[2]
	gateway := netip.MustParseAddr("10.78.0.254")
	echo := netip.AddrPortFrom(a.Mesh, echoPort)
	a.Echo(t, echo)
	a.Echo(t, netip.AddrPortFrom(a.Probe, echoPort))
	// Remove the peer's routes through that gateway, or it would refuse to ban it.
	must(b.Shell("ip route show via 10.78.0.254 | while read -r net rest; do ip route del $net; done"))(t)

	t.Run("bad: resolver", func(t *testing.T) {
		pairs := m.watchNode(t, resolver, a, rig.ClosedPort)
		conn := m.Connect(t, resolver, netip.AddrPortFrom(a.Probe, echoPort))
		m.banElsewhere(t, b, resolver.String())
		m.spared(t, resolver.String(), resolver, "resolver")
		answering(t, pairs)
		check(t, conn.Ping(banLimit))
	})
	t.Run("bad: CIDR that covers the resolver", func(t *testing.T) {
		pairs, near := m.watchNode(t, resolver, a, rig.ClosedPort), m.watchNode(t, resolver.Next(), a, rig.ClosedPort)
		start := time.Now()
		m.banElsewhere(t, b, "203.0.113.48/28")
		m.spared(t, "203.0.113.48/28", resolver, "resolver")
		enforced(t, near, start) // the rest of the prefix is dropped
		answering(t, pairs)
	})
	t.Run("bad: IPv4 in IPv6", func(t *testing.T) {
		pairs := m.watchNode(t, resolver, a, rig.ClosedPort)
		b.run(t, "unban", "203.0.113.0/24")
		m.banElsewhere(t, b, "::ffff:"+resolver.String())
		m.spared(t, resolver.String(), resolver, "resolver")
		answering(t, pairs)
	})
	t.Run("bad: gateway", func(t *testing.T) {
		pairs := m.watchNode(t, gateway, a, rig.ClosedPort)
		conn := m.Connect(t, gateway, netip.AddrPortFrom(a.Probe, echoPort))
		m.banElsewhere(t, b, gateway.String())
		m.spared(t, gateway.String(), gateway, "gateway")
		answering(t, pairs)
		check(t, conn.Ping(banLimit))
	})
	t.Run("bad: own address", func(t *testing.T) {
		m.banElsewhere(t, b, a.Probe.String())
		m.spared(t, a.Probe.String(), a.Probe, "own address")
		conn := must(a.Dial(a.Probe, netip.AddrPortFrom(a.Probe, echoPort)))(t)
		defer conn.Close()
		answers(t, conn)
	})
	t.Run("bad: CIDR that covers own address, gateway and members", func(t *testing.T) {
		pairs := m.watchNode(t, gateway, a, rig.ClosedPort)
		conn := must(c.Dial(c.Mesh, echo))(t)
		defer conn.Close()
		answers(t, conn)
		m.banElsewhere(t, b, "10.78.0.0/24", "10.77.0.0/24")
		m.spared(t, "10.77.0.0/24", c.Mesh, "mesh member")
		m.spared(t, "10.77.0.0/24", a.Mesh, "own address")
		m.spared(t, "10.78.0.0/24", gateway, "gateway")
		answering(t, pairs)
		answers(t, conn)
		m.inSync(t, syncLimit)
		b.run(t, "unban", "10.78.0.0/24", "10.77.0.0/24")
	})
	t.Run("bad: member that has left", func(t *testing.T) {
		c.stop(t)
		conn := must(c.Dial(c.Mesh, echo))(t)
		defer conn.Close()
		answers(t, conn)
		m.banElsewhere(t, b, "10.77.0.0/24")
		m.spared(t, "10.77.0.0/24", c.Mesh, "mesh member")
		answers(t, conn)
		c.start(t)
		m.inSync(t, syncLimit)
		b.run(t, "unban", "10.77.0.0/24")
	})
	t.Run("bad: banned before it became a gateway", func(t *testing.T) {
		later := netip.MustParseAddr("10.78.0.253")
		must(m.Attacker.Do("ip", "addr", "add", later.String()+"/24", "dev", "probe0"))(t)
		pairs := m.watchNode(t, later, a, rig.ClosedPort)
		start := time.Now()
		m.banElsewhere(t, b, later.String())
		enforced(t, pairs, start) // positive control: the ban works until then
		start = time.Now()
		must(a.Do("ip", "route", "add", "100.64.0.0/10", "via", later.String()))(t)
		open(t, pairs, start, banLimit)
		m.spared(t, later.String(), later, "gateway")
	})
	t.Run("bad: banned before it became an own address", func(t *testing.T) {
		own := netip.MustParseAddr("203.0.113.90")
		m.banElsewhere(t, b, own.String())
		if e, ok := a.entry(t, own.String()); !ok || e.State != "enforced" {
			t.Fatalf("listed as %+v, %v", e, ok)
		}
		must(a.Do("ip", "addr", "add", own.String()+"/32", "dev", "probe0"))(t)
		eventually(t, banLimit, func() error {
			if why := a.run(t, "why", own.String()); !strings.Contains(why, own.String()+": not dropped") {
				return fmt.Errorf("own address: %s", why)
			}
			return nil
		})
		m.spared(t, own.String(), own, "own address")
	})
}

// answers checks that an echo server answers on conn.
func answers(t *testing.T, conn net.Conn) {
	t.Helper()
	check(t, (&rig.Conn{Conn: conn}).Ping(banLimit))
}

// covered returns the line of the node's never-ban list about addr, or "" if it has none.
func (n *node) covered(t testing.TB, addr netip.Addr) string {
	t.Helper()
	for line := range strings.Lines(n.run(t, "allow", "--list")) {
		if strings.HasPrefix(line, addr.String()+" ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// No peer's ban locks out an administrator who is logged in by ssh.
func TestPeersCannotBanAnSSHSession(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	a, b := m.nodes[0], m.nodes[1]
	must(a.SSHD())(t)
	check(t, m.Authorize(a.Host, "alice"))
	a.Echo(t, netip.MustParseAddrPort("127.0.0.1:7"))
	for i, c := range []struct {
		name, user string
		args       []string
		at         bool // the ban comes at once, before the session can have been noticed
	}{
		{"ok: root, forwarding alone", "root", []string{"-N", "HOST"}, false},
		{"ok: root, with a command", "root", []string{"HOST", "sleep 600"}, false},
		{"ok: user, with a terminal", "alice", []string{"-tt", "HOST", "sleep 600"}, false},
		{"ok: user, without a terminal", "alice", []string{"HOST", "sleep 600"}, false},
		{"ok: user, forwarding alone", "alice", []string{"-N", "HOST"}, false},
		{"ok: banned in the moment of the login", "alice", []string{"HOST", "sleep 600"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := fresh()
			pairs := m.watchNode(t, src, a, rig.ClosedPort)
			local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(9020+i))
			ssh := must(m.Login(src, c.user, a.Probe, append([]string{"-L", local.String() + ":127.0.0.1:7"}, c.args...)...))(t)
			eventually(t, startLimit, func() error {
				conn, err := m.Attacker.Dial(local.Addr(), local)
				if err != nil {
					return fmt.Errorf("%w: %s", err, ssh.Stderr())
				}
				return conn.Close()
			})
			conn := m.Connect(t, local.Addr(), local)
			noticed := func() {
				eventually(t, noticeLimit, func() error {
					if got := a.covered(t, src); !strings.Contains(got, "ssh session of "+c.user) {
						return fmt.Errorf("the never-ban list says %q of %v", got, src)
					}
					return nil
				})
			}
			if !c.at {
				noticed()
			}
			start := time.Now()
			m.banElsewhere(t, b, src.String())
			if c.at {
				noticed()
				open(t, pairs, time.Now(), banLimit)
			}
			m.spared(t, src.String(), src, "ssh session of "+c.user)
			check(t, conn.Ping(noticeLimit))
			if !c.at { // not dropped even for a moment
				if w := pairs[0].Count(start, time.Now().Add(-rig.Settle)); w.Answered < w.Sent*9/10 {
					t.Errorf("%d of %d probes were answered", w.Answered, w.Sent)
				}
			}
			a.exit(t, exitPolicy, "ban", src.String()) // the node's own ban is refused
			check(t, ssh.Kill(true))
		})
	}
}

// session logs a user in and returns once the session is established, so that later limits exclude the time that sshd takes.
func (m *mesh) session(t testing.TB, src netip.Addr, user string, n *node) {
	t.Helper()
	ssh := must(m.Login(src, user, n.Probe, "HOST", "echo here; exec sleep 600"))(t)
	eventually(t, startLimit, func() error {
		if !strings.HasPrefix(ssh.Stdout(), "here") {
			return fmt.Errorf("%s is not logged in: %s", user, ssh.Stderr())
		}
		return nil
	})
}

// In a sandbox like that of the systemd unit, the agent cannot see sshd's connections if logind reports no session. Then
// status says so.
func TestSSHSessionThatCannotBeSeen(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 1})
	n := m.nodes[0]
	must(n.SSHD())(t)
	check(t, m.Authorize(n.Host, "alice"))
	n.stop(t)
	const caps = "-all,+net_admin,+net_raw"
	must(n.StartDaemon(rig.Cmd{Argv: []string{"setpriv", "--bounding-set=" + caps, "--inh-caps=-all", "meshban", "agent"}}, startLimit,
		func(*rig.Proc) error { _, err := n.Do("meshban", "status"); return err }))(t)
	problems := func() string { return strings.Join(n.status(t).Problems, "\n") }
	if got := problems(); strings.Contains(got, "ssh session") {
		t.Errorf("a problem before anybody logged in: %s", got)
	}
	src := fresh()
	m.session(t, src, "alice", n)
	eventually(t, 2*noticeLimit, func() error {
		if got := problems(); !strings.Contains(got, "the ssh session of alice is not protected") {
			return fmt.Errorf("no problem with the ssh session of alice: %q, %q", got, n.covered(t, src))
		}
		return nil
	})
}

// A client that only tries passwords is not protected, however many connections it keeps open.
func TestBruteForceGainsNoCover(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	a, b := m.nodes[0], m.nodes[1]
	must(a.SSHD())(t)
	check(t, m.Authorize(a.Host, "alice"))
	src, admin := fresh(), fresh()
	pairs := m.watchNode(t, src, a, rig.ClosedPort)
	m.session(t, admin, "root", a)
	eventually(t, noticeLimit, func() error { // positive control: the agent finds sessions
		if a.covered(t, admin) == "" {
			return fmt.Errorf("the session from %v is not covered", admin)
		}
		return nil
	})
	// Connections in every state before authentication: nothing sent, at the password prompt, just refused.
	for range 3 {
		conn := must(m.Attacker.Dial(src, netip.AddrPortFrom(a.Probe, 22)))(t)
		defer conn.Close()
	}
	check(t, m.Attacker.WriteFile("/root/wait", "#!/bin/sh\nexec sleep 600\n"))
	must(m.Attacker.Do("chmod", "755", "/root/wait"))(t)
	for _, user := range []string{"root", "alice", "nosuchuser"} {
		// An askpass program that never answers keeps sshd waiting for a password.
		must(m.Attacker.Start(rig.Cmd{Argv: []string{"sh", "-c", fmt.Sprintf("SSH_ASKPASS=/root/wait SSH_ASKPASS_REQUIRE=force "+
			"ssh -b %v -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o PubkeyAuthentication=no %s@%v true", src, user, a.Probe)}}))(t)
	}
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
		check(t, m.FailLogin(src, a.Probe))
		if got := a.covered(t, src); got != "" {
			t.Fatalf("a failed login is on the never-ban list: %s", got)
		}
	}
	waiting := must(a.Shell(fmt.Sprintf("ss -Htn state established dst %v | wc -l; ps -eo args | grep '^sshd' || true", src)))(t)
	t.Logf("open connections and processes of sshd:\n%s", waiting)
	if strings.HasPrefix(waiting, "0") {
		t.Error("no connection was open any more")
	}
	start := time.Now()
	b.run(t, "ban", src.String(), "--for", "10m")
	silent := start.Add(enforced(t, pairs, start))
	during(2 * time.Second) // nothing lifts the ban
	check(t, pairs.Silent(silent))
	check(t, m.LoginBlocked(src, a.Probe))
}
