//go:build linux && netns

package rig

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestLogDaemons(t *testing.T) {
	f := New(t, Options{Nodes: 2})
	must(f.Nodes[0].Rsyslog())(t)
	must(f.Nodes[1].BusyboxSyslog())(t)
	for _, n := range f.Nodes {
		must(n.Do("logger", "-p", "auth.info", "-t", "who", "what"))(t)
		check(t, Within(startLimit, func() error {
			log, err := n.ReadFile(AuthLog)
			if err == nil && !strings.Contains(log, "who: what") {
				err = fmt.Errorf("%s of %s: %q", AuthLog, n.Name, log)
			}
			return err
		}))
	}
	// If there is a log socket, logger -s also writes to stderr, as the recipe needs.
	must(f.Nodes[0].Shell(`logger -s -i "HOST 192.0.2.1 PORT 22" 2>>/tmp/newbans.log`))(t)
	if line := must(f.Nodes[0].ReadFile("/tmp/newbans.log"))(t); !strings.HasSuffix(line, "HOST 192.0.2.1 PORT 22\n") {
		t.Errorf("logger wrote %q", line)
	}
}

func TestFail2banBansFromSSHD(t *testing.T) {
	f := New(t, Options{Nodes: 1})
	n, p, src := f.Nodes[0], f.Prober(t), netip.MustParseAddr("198.51.100.23")
	must(n.Rsyslog())(t)
	must(n.SSHD())(t)
	check(t, n.WriteFile("/etc/fail2ban/jail.d/rig.local", `[sshd]
enabled = true
backend = polling
logpath = /var/log/auth.log
maxretry = 3
banaction = iptables-allports
`))
	check(t, n.WriteFile(AuthLog, ""))
	must(n.Fail2ban())(t)
	pair := p.Watch(src, n, ClosedPort)
	check(t, pair.Control())
	check(t, f.FailLogin(src, n.Probe)) // positive control: it reaches sshd
	check(t, Within(startLimit, func() error {
		_ = f.LoginBlocked(src, n.Probe) // the ban may cut off any of them
		jails, err := n.Fail2banJails()
		if err == nil && !slices.Contains(jails["sshd"], src.String()) {
			err = fmt.Errorf("jails: %v", jails)
		}
		return err
	}))
	must(pair.Enforced(controlLimit))(t)
	check(t, f.LoginBlocked(src, n.Probe))
	check(t, f.FailLogin(src.Next(), n.Probe))
}
