//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// allow --me takes the address from the kernel, whatever the environment says, and in a user's shell only what the agent
// knows too.
func TestAllowMe(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 1})
	n := m.nodes[0]
	must(n.SSHD())(t)
	check(t, m.Authorize(n.Host, "root"))
	typed := func(src netip.Addr, command, want string) {
		t.Helper()
		ssh := must(m.Login(src, "root", n.Probe, "HOST", command+" 2>&1; exec sleep 600"))(t)
		eventually(t, startLimit, func() error {
			if out := ssh.Stdout(); !strings.Contains(out, want) {
				return fmt.Errorf("%s from %v: %q, %s", command, src, out, ssh.Stderr())
			}
			return nil
		})
	}
	src := fresh()
	typed(src, "SSH_CONNECTION='203.0.113.250 1 10.0.0.1 22' meshban allow --me", src.String()+" allowed until ")
	if list := n.run(t, "allow", "--list"); !strings.Contains(list, src.String()) || strings.Contains(list, "203.0.113.250") {
		t.Errorf("%s", list)
	}
	const away = "setsid -f sh -c 'while grep -q setsid /proc/$PPID/comm; do sleep 0.05; done; meshban allow --me"
	// tmux and the like leave the session: what is left is the variable, which may be of a session that has ended.
	typed(fresh(), "SSH_CONNECTION='203.0.113.250 1 10.0.0.1 22' "+away+"'", "SSH_CONNECTION says 203.0.113.250, but the agent knows no ssh session from there")
	other := fresh()
	typed(other, fmt.Sprintf("until meshban allow --list | grep -qF %v; do sleep 0.1; done; ", other)+away+"'", other.String()+" allowed until ")
}
