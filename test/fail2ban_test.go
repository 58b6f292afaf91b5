//go:build linux && netns

package test

import (
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// fail2banLimit bounds each wait for fail2ban, which polls its files once a
	// second here.
	fail2banLimit = 3 * time.Minute
	// stormWindow is how long the line files are watched for echoes of echoes.
	stormWindow = 5 * time.Second
	// etcSums prints the checksums of fail2ban's files.
	etcSums = "cd /etc/fail2ban; find . -type f | sort | xargs sha256sum"
)

// fail2banOf lists Debian releases, such as bullseye,trixie,sid.
var fail2banOf = flag.String("fail2ban.of", "trixie", "run TestFail2ban with the fail2ban of these Debian releases beside the machine's")

// sshdJail is an administrator's usual setup: Debian's sshd jail on this log file.
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
		check(t, n.WriteFile(rig.AuthLog, "")) // fail2ban needs the file
		check(t, n.WriteFile("/etc/fail2ban/jail.local", jailLocal))
		n.fail2ban = must(n.Fail2ban())(t)
	}
}

// attack fails ssh logins from src at node n until n's fail2ban has banned it.
// It returns the time when the last login that sshd answered was over.
func (m *mesh) attack(t *testing.T, src netip.Addr, n *node) time.Time {
	t.Helper()
	check(t, m.FailLogin(src, n.Probe)) // positive control: it reaches sshd
	last, failed := time.Now(), 1
	eventually(t, fail2banLimit, func() error {
		// The ban may cut off a login. After enough failures, fail2ban gets time to see them.
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

// quietFiles checks that no line file grows any more, and returns how many lines
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

// Two versions of fail2ban ban for one mesh: the machine's on the first node, another Debian's on the second.
func TestFail2ban(t *testing.T) {
	t.Parallel()
	for i, release := range strings.Split(*fail2banOf, ",") {
		t.Run(release, func(t *testing.T) {
			m := newMesh(t, setup{nodes: 2})
			first, second := m.nodes[0], m.nodes[1]
			check(t, second.Fail2banOf(release))
			before := must(first.Shell(etcSums))(t)
			m.services(t, sshdJail)
			for _, n := range m.nodes {
				t.Logf("%s has fail2ban %s", n.Name, strings.TrimSpace(must(n.Do("fail2ban-client", "--version"))(t)))
				if out := n.run(t, "setup", "fail2ban"); !strings.Contains(out, "fail2ban: sshd tells") {
					t.Errorf("%s: setup says\n%s", n.Name, out)
				}
			}
			m.bansForTheMesh(t, first, second)
			m.bansForTheMesh(t, second, first)
			if i > 0 {
				return
			}
			// --remove leaves the administrator's files as they were.
			check(t, first.WriteFile("/etc/fail2ban/action.d/mine.local", "[Definition]\n"))
			first.run(t, "setup", "--remove")
			must(first.Shell("cd /etc/fail2ban; rm action.d/mine.local jail.local"))(t)
			if after := must(first.Shell(etcSums))(t); after != before {
				t.Errorf("setup --remove leaves\n%s\nwhere there was\n%s", after, before)
			}
		})
	}
}

// bansForTheMesh has home's fail2ban ban an attacker of its sshd. It checks that away drops and shows the address, that a
// restart of fail2ban repeats nothing to the mesh, and that an unban on away lifts the ban at home.
func (m *mesh) bansForTheMesh(t *testing.T, home, away *node) {
	t.Helper()
	src, good := fresh(), fresh()
	pairs, other := m.watch(t, src), m.watch(t, good)
	check(t, m.FailLogin(src, away.Probe)) // positive control
	last := m.attack(t, src, home)
	at := rig.Last(must(pairs.Enforced(fail2banLimit))(t))
	t.Logf("%s: from the last failed login to the last kernel: %v", home.Name, at.Sub(last).Round(time.Millisecond))
	answering(t, other)
	for _, n := range m.nodes {
		e, ok := n.entry(t, src.String())
		if !ok || !slices.Equal(e.Origins, []string{home.Name}) || e.State != "enforced" {
			t.Errorf("%s lists %+v, %v", n.Name, e, ok)
		}
		// Debian's bantime is 10 minutes; the line carries it.
		lasts(t, n, e, last.Add(-5*time.Second), at, 10*time.Minute)
	}
	m.shows(t, away, "meshban", src)
	if got := m.quietFiles(t, src); !slices.Equal(got, []int{1, 1}) {
		t.Errorf("lines per node: %v", got)
	}

	// Bans that fail2ban restores, when it or its jails restart, are not sent to the mesh.
	for _, restart := range []func(){
		func() {
			must(home.Do("fail2ban-client", "stop"))(t)
			must(home.fail2ban.Wait(fail2banLimit))(t)
			home.fail2ban = must(home.Fail2ban())(t)
		},
		func() { must(home.Do("fail2ban-client", "reload", "--restart"))(t) },
	} {
		restart()
		m.shows(t, home, "sshd", src)
		later := fresh() // once this has come, all sent before it has come too
		must(home.Do("fail2ban-client", "set", "sshd", "banip", later.String()))(t)
		eventually(t, fail2banLimit, func() error {
			if n := len(away.lines(t, later)); n != 1 {
				return fmt.Errorf("%s has %d lines about %v", away.Name, n, later)
			}
			return nil
		})
		for _, n := range m.nodes {
			if lines := n.lines(t, src); len(lines) != 1 {
				t.Errorf("after a restart %s has %q", n.Name, lines)
			}
		}
	}

	start := time.Now()
	away.run(t, "unban", src.String())
	open(t, pairs, start, fail2banLimit)
	eventually(t, fail2banLimit, func() error {
		if jails := home.jails(t, src.String()); len(jails) > 0 {
			return fmt.Errorf("%s: %v still ban %v", home.Name, jails, src)
		}
		return nil
	})
}

// shows waits until a jail of n's fail2ban bans src.
func (m *mesh) shows(t *testing.T, n *node, jail string, src netip.Addr) {
	t.Helper()
	eventually(t, fail2banLimit, func() error {
		jails, err := n.Fail2banJails()
		if err == nil && !slices.Contains(jails[jail], src.String()) {
			err = fmt.Errorf("%s: the jail %s does not show %v: %v", n.Name, jail, src, jails)
		}
		return err
	})
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
