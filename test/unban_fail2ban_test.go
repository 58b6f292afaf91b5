//go:build linux && netns

package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

// ownJail sets its own action, so that setup cannot connect it.
const ownJail = `
[own]
enabled = true
filter = sshd
backend = polling
logpath = ` + rig.AuthLog + `
maxretry = 1000
action = iptables-allports[name=own]
`

// sandboxed restarts the node's agent as the shipped unit runs it.
func (n *node) sandboxed(t *testing.T) {
	t.Helper()
	n.stop(t)
	n.prefix = func(argv []string) []string {
		return must(rig.Sandbox(n.run(t, "setup", "systemd", "--print"), argv...))(t)
	}
	n.start(t)
}

// jails returns which jails of the node's fail2ban drop an address or prefix, without jail meshban, which only shows the
// mesh's bans.
func (n *node) jails(t *testing.T, prefix string) (found []string) {
	t.Helper()
	for jail, banned := range must(n.Fail2banJails())(t) {
		if jail != "meshban" && slices.Contains(banned, prefix) {
			found = append(found, jail)
		}
	}
	slices.Sort(found)
	return found
}

// Setup alone connects a running fail2ban, and reports which jails it could not connect.
func TestSetupConnectsARunningFail2ban(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	first := m.nodes[0]
	m.services(t, "[sshd]\nenabled = false\n"+ownJail) // Debian enables it
	if r := first.exit(t, exitFailed, "setup", "fail2ban"); !strings.Contains(r.Stderr, "no jail of the running fail2ban tells the mesh") {
		t.Errorf("setup without a jail that reports its bans says %q", r.Stderr)
	}
	check(t, first.WriteFile("/etc/fail2ban/jail.local", sshdJail+ownJail))
	must(first.Do("fail2ban-client", "reload"))(t)
	out := first.run(t, "setup", "fail2ban")
	if !strings.Contains(out, "fail2ban: sshd tells, own does not tell the mesh") {
		t.Errorf("setup says\n%s", out)
	}
	src := fresh()
	pairs := m.watch(t, src)
	check(t, m.FailLogin(src, m.nodes[1].Probe))
	m.attack(t, src, first)
	must(pairs.Enforced(fail2banLimit))(t)

	var s struct {
		Fail2ban struct{ Tells, Silent []string }
	}
	eventually(t, fail2banLimit, func() error {
		s = must(jsonLines[struct {
			Fail2ban struct{ Tells, Silent []string }
		}](first.run(t, "status", "--json")))(t)[0]
		if !slices.Equal(s.Fail2ban.Tells, []string{"sshd"}) || !slices.Equal(s.Fail2ban.Silent, []string{"own"}) {
			return fmt.Errorf("status says %+v", s)
		}
		return nil
	})
	if text := first.run(t, "status"); !strings.Contains(text, "sshd tells, own does not tell the mesh") {
		t.Errorf("status says\n%s", text)
	}
	// The agent checks again, so it notices a jail that goes silent.
	check(t, first.WriteFile("/etc/fail2ban/jail.local", sshdJail+"action = iptables-allports[name=sshd]\n"+ownJail))
	must(first.Do("fail2ban-client", "reload", "--restart"))(t)
	eventually(t, fail2banLimit, func() error {
		if text := first.run(t, "status"); !strings.Contains(text, "own, sshd do not tell the mesh") {
			return fmt.Errorf("status says\n%s", text)
		}
		return nil
	})
}

// One unban lifts a ban everywhere, including fail2ban, with agents that run as the shipped unit runs them.
func TestUnbanReachesFail2ban(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	for _, n := range m.nodes {
		n.sandboxed(t)
	}
	a, b, c := m.nodes[0], m.nodes[1], m.nodes[2]
	m.services(t, sshdJail+ownJail)
	for _, n := range m.nodes {
		n.run(t, "setup", "fail2ban")
	}
	src := fresh()
	pairs := m.watch(t, src)
	m.attack(t, src, a)
	must(pairs.Enforced(fail2banLimit))(t)
	must(b.Do("fail2ban-client", "set", "own", "banip", src.String()))(t) // this jail writes no line
	must(b.Do("fail2ban-client", "set", "sshd", "banip", src.String()))(t)
	eventually(t, fail2banLimit, func() error { // the line for a's ban, and its own
		if got := b.lines(t, src); len(got) != 2 {
			return fmt.Errorf("%s has the lines %q", b.Name, got)
		}
		return nil
	})
	lines := m.quietFiles(t, src)

	// Two nodes unban at once.
	done := make(chan string, 1)
	go func() { // sends once, and the test receives
		r, _ := c.Run("meshban", "unban", src.String())
		done <- r.Stdout + r.Stderr
	}()
	r, _ := a.Run("meshban", "unban", src.String())
	t.Logf("unban says %q and %q", r.Stdout+r.Stderr, <-done)
	for _, n := range m.nodes {
		eventually(t, fail2banLimit, func() error {
			if jails := n.jails(t, src.String()); len(jails) > 0 {
				return fmt.Errorf("%s: %v still ban %v", n.Name, jails, src)
			}
			return nil
		})
	}
	answering(t, pairs)
	check(t, m.FailLogin(src, b.Probe)) // it reaches sshd; one more failure on a would ban again
	if after := []int{len(a.lines(t, src)), len(b.lines(t, src)), len(c.lines(t, src))}; !slices.Equal(after, lines) {
		t.Errorf("an unban wrote lines: %v, then %v", lines, after)
	}
	for _, n := range m.nodes {
		if e, ok := n.entry(t, src.String()); ok {
			t.Errorf("%s lists %+v", n.Name, e)
		}
	}

	// fail2ban's wider ban around an address is reported, and a ban by fail2ban alone is lifted.
	network := freshNet()
	wide, inner := network.String(), network.Addr().Next().String()
	must(c.Do("fail2ban-client", "set", "own", "banip", wide))(t)
	c.run(t, "ban", inner)
	r = must(c.Run("meshban", "unban", inner))(t)
	if want := fmt.Sprintf("%s's fail2ban (jail own) still bans %s: `fail2ban-client set own unbanip %[2]s` ends that", c.Name, wide); !strings.Contains(r.Stdout+r.Stderr, want) {
		t.Errorf("unban says %q, not %q", r.Stdout+r.Stderr, want)
	}
	eventually(t, fail2banLimit, func() error { // an answer in time needs a processor that is not too busy
		if out := c.run(t, "why", inner); !strings.Contains(out, c.Name+"'s fail2ban (jail own) still bans "+wide) {
			return fmt.Errorf("why says %q", out)
		}
		return nil
	})
	must(c.Do("fail2ban-client", "set", "own", "unbanip", wide))(t)
	alone := fresh()
	must(c.Do("fail2ban-client", "set", "own", "banip", alone.String()))(t)
	if r := c.exit(t, exitDone, "unban", alone.String()); !strings.Contains(r.Stderr, "fail2ban alone banned it") {
		t.Errorf("unban says %q", r.Stdout+r.Stderr)
	}
	if jails := c.jails(t, alone.String()); len(jails) > 0 {
		t.Errorf("%v still ban %v", jails, alone)
	}
	c.exit(t, exitNotFound, "unban", alone.String())

	// With fail2ban.unban off, unban reports what is left and how to end it.
	c.configure(t, "fail2ban:\n  unban: false\n")
	c.stop(t)
	c.start(t)
	must(c.Do("fail2ban-client", "set", "sshd", "banip", alone.String()))(t)
	eventually(t, fail2banLimit, func() error {
		if _, ok := c.entry(t, alone.String()); !ok {
			return fmt.Errorf("%v is not banned yet", alone)
		}
		return nil
	})
	r = must(c.Run("meshban", "unban", alone.String()))(t)
	if want := fmt.Sprintf("`fail2ban-client set sshd unbanip %v`", alone); !strings.Contains(r.Stdout+r.Stderr, want) {
		t.Errorf("unban says %q, not %q; status says\n%s", r.Stdout+r.Stderr, want, c.run(t, "status"))
	}
	if jails := c.jails(t, alone.String()); !slices.Equal(jails, []string{"sshd"}) {
		t.Errorf("%v ban %v", jails, alone)
	}
}

// An operator bans a network in fail2ban, and every node drops it.
func TestFail2banBansANetwork(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	n := m.nodes[0]
	m.services(t, sshdJail)
	n.run(t, "setup", "fail2ban")
	network := freshNet()
	wide, src := network.String(), network.Addr().Next()
	pairs := m.watch(t, src)
	must(n.Do("fail2ban-client", "set", "sshd", "banip", wide))(t)
	must(pairs.Enforced(fail2banLimit))(t)
	e, ok := m.nodes[1].entry(t, wide)
	if !ok || e.Source != "line:sshd" {
		t.Errorf("%s lists %+v, %v", m.nodes[1].Name, e, ok)
	}
	must(n.Do("fail2ban-client", "set", "sshd", "banip", "2001:db8:7::/64"))(t)
	eventually(t, fail2banLimit, func() error {
		if _, ok := m.nodes[1].entry(t, "2001:db8:7::/64"); !ok {
			return fmt.Errorf("the IPv6 network is not banned")
		}
		return nil
	})
	// An unban of the network also lifts fail2ban's ban.
	start := time.Now()
	n.run(t, "unban", wide)
	open(t, pairs, start, fail2banLimit)
	if jails := n.jails(t, wide); len(jails) > 0 {
		t.Errorf("%v still ban %s", jails, wide)
	}
}

// A fail2ban that hangs makes nobody believe that its node does not answer, or that it bans nothing.
func TestFail2banHangs(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	home, away := m.nodes[0], m.nodes[1]
	m.services(t, sshdJail)
	home.run(t, "setup", "fail2ban")
	src := fresh().String()
	home.run(t, "ban", src)
	check(t, home.fail2ban.Signal(unix.SIGSTOP))
	unknown := "whether " + home.Name + "'s fail2ban still bans it is not known: fail2ban does not answer"
	eventually(t, fail2banLimit, func() error { // an answer in time needs a processor that is not too busy
		if why := away.run(t, "why", src); !strings.Contains(why, home.Name+": dropped") || !strings.Contains(why, unknown) {
			return fmt.Errorf("why on %s says\n%s", away.Name, why)
		}
		return nil
	})
	home.run(t, "unban", src)
	if why := home.run(t, "why", src); !strings.Contains(why, unknown) {
		t.Errorf("why on %s says\n%s", home.Name, why)
	}
	if r := home.exit(t, exitNotFound, "unban", fresh().String()); !strings.Contains(r.Stderr, "whether this node's fail2ban still bans it is not known") {
		t.Errorf("unban of what only fail2ban may ban says\n%s", r.Stderr)
	}
	eventually(t, fail2banLimit, func() error {
		const want = "could not lift bans in fail2ban: fail2ban does not answer"
		if text := home.run(t, "status"); !strings.Contains(text, want) {
			return fmt.Errorf("status does not say %q:\n%s", want, text)
		}
		return nil
	})
	check(t, home.fail2ban.Signal(unix.SIGCONT))
	eventually(t, fail2banLimit, func() error {
		if text := home.run(t, "status"); !strings.Contains(text, "sshd tells") || strings.Contains(text, "problem") {
			return fmt.Errorf("status says\n%s", text)
		}
		return nil
	})
}
