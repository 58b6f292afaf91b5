//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// fail2banLimit bounds what waits for fail2ban, which looks at its files once
	// a second here.
	fail2banLimit = 3 * time.Minute
	// stormWindow is how long the line files are watched for echoes of echoes.
	stormWindow = 5 * time.Second
)

// sshdJail is what an administrator has: Debian's sshd jail on this log file.
const sshdJail = `[sshd]
enabled = true
backend = polling
logpath = ` + rig.AuthLog + `
maxretry = 3
`

// sshdTries is the maxretry of sshdJail.
const sshdTries = 3

// services starts the log daemon and sshd on every node, and fail2ban with the
// given jail.local on top of Debian's files.
func (m *mesh) services(t *testing.T, jailLocal string) {
	t.Helper()
	for _, n := range m.nodes {
		must(n.Rsyslog())(t)
		must(n.SSHD())(t)
		check(t, n.WriteFile(rig.AuthLog, "")) // fail2ban wants it to be there
		check(t, n.WriteFile("/etc/fail2ban/jail.local", jailLocal))
		must(n.Fail2ban())(t)
	}
}

// attack fails ssh logins from src at node n until n's fail2ban has banned it,
// and returns when the last login that sshd answered was over.
func (m *mesh) attack(t *testing.T, src netip.Addr, n *node) time.Time {
	t.Helper()
	check(t, m.FailLogin(src, n.Probe)) // positive control: it reaches sshd
	last, failed := time.Now(), 1
	eventually(t, fail2banLimit, func() error {
		// The ban may cut a login in its middle; when there were enough, fail2ban has time to see them.
		if failed < sshdTries || time.Since(last) > stormWindow {
			if m.FailLogin(src, n.Probe) == nil {
				last, failed = time.Now(), failed+1
			}
		}
		jails, err := n.Fail2banJails()
		if err == nil && !slices.Contains(jails["sshd"], src.String()) {
			err = fmt.Errorf("%s: fail2ban has not banned %v: %v", n.Name, src, jails)
		}
		return err
	})
	return last
}

// quietFiles says that no line file grows any more, and returns how many lines
// each node has about src.
func (m *mesh) quietFiles(t *testing.T, src netip.Addr) []int {
	t.Helper()
	count := func() []int {
		var c []int
		for _, n := range m.nodes {
			c = append(c, len(n.lines(t, src)))
		}
		return c
	}
	before := count()
	during(stormWindow)
	after := count()
	if !slices.Equal(before, after) {
		t.Errorf("the line files grow: %v, then %v lines", before, after)
	}
	return after
}

func TestFail2ban(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	first := m.nodes[0]
	before := must(first.Shell("cd /etc/fail2ban; find . -type f | sort | xargs sha256sum"))(t)
	for _, n := range m.nodes {
		n.run(t, "setup", "fail2ban")
	}
	m.services(t, sshdJail)
	src, good := fresh(), fresh()
	pairs, other := m.watch(t, src), m.watch(t, good)
	// Positive control: the attacker reaches every sshd.
	for _, n := range m.nodes[1:] {
		check(t, m.FailLogin(src, n.Probe))
	}
	last := m.attack(t, src, first)
	at := rig.Last(must(pairs.Enforced(fail2banLimit))(t))
	t.Logf("from the last failed login to the last kernel: %v", at.Sub(last).Round(time.Millisecond))
	answering(t, other)
	for _, n := range m.nodes {
		if err := m.LoginBlocked(src, n.Probe); err != nil {
			t.Error(err)
		}
		e, ok := n.entry(t, src.String())
		if !ok || !slices.Equal(e.Origins, []string{first.Name}) || e.State != "enforced" {
			t.Errorf("%s lists %+v, %v", n.Name, e, ok)
		}
		// Debian's bantime is 10 minutes; the line carries it.
		lasts(t, n, e, last.Add(-5*time.Second), at, 10*time.Minute)
	}
	// The other nodes' fail2ban shows it, by the emitted line.
	for _, n := range m.nodes[1:] {
		eventually(t, fail2banLimit, func() error {
			jails, err := n.Fail2banJails()
			if err == nil && !slices.Contains(jails["meshban"], src.String()) {
				err = fmt.Errorf("%s: fail2ban does not show %v: %v", n.Name, src, jails)
			}
			return err
		})
	}
	if got := m.quietFiles(t, src); !slices.Equal(got, []int{1, 1, 1}) {
		t.Errorf("lines per node: %v", got)
	}

	// Unbanned everywhere, fail2ban at home must not bring it back by itself.
	start := time.Now()
	m.nodes[2].run(t, "unban", src.String())
	open(t, pairs, start, banLimit)

	// A restart of fail2ban bans again what it had: that is no new ban.
	accepted := first.status(t).Lines.Accepted
	must(first.Do("fail2ban-client", "reload", "--restart"))(t)
	during(2 * time.Second)
	if got := first.status(t).Lines.Accepted; got != accepted {
		t.Errorf("a restart of fail2ban wrote %d lines", got-accepted)
	}

	// --remove leaves the administrator's files as they were.
	check(t, first.WriteFile("/etc/fail2ban/action.d/mine.local", "[Definition]\n"))
	first.run(t, "setup", "--remove")
	must(first.Shell("cd /etc/fail2ban; rm action.d/mine.local jail.local"))(t)
	if after := must(first.Shell("cd /etc/fail2ban; find . -type f | sort | xargs sha256sum"))(t); after != before {
		t.Errorf("setup --remove leaves\n%s\nwhere there was\n%s", after, before)
	}
}

func TestSetupPrints(t *testing.T) {
	t.Parallel()
	m := newFleet(t, 1)
	n := m.nodes[0]
	for what, want := range map[string]string{"fail2ban": "actionban", "systemd": "Type=notify"} {
		before := must(n.Shell("find /etc -newer /etc/hostname -type f | sort"))(t)
		if out := n.run(t, "setup", what, "--print"); !contains(out, want) {
			t.Errorf("setup %s --print has no %q:\n%s", what, want, out)
		}
		if after := must(n.Shell("find /etc -newer /etc/hostname -type f | sort"))(t); after != before {
			t.Errorf("setup %s --print changed files:\n%s", what, after)
		}
	}
}
