//go:build linux && netns

package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshban/meshban/test/rig"
)

// The recipe with one file for all servers, in its own form: each jail also logs to the file, and a jail on each reads it.
const (
	sharedDir    = "/mnt" // a folder that is there; the help has one of the recipe's own
	sharedFile   = sharedDir + "/newbans.log"
	sharedAction = `[Definition]
actionban = logger -s -i "HOST <ip> PORT <port>" 2>> ` + sharedFile + `
`
	sharedJails = `[DEFAULT]
banaction = shown
action = %(action_)s
         logdistro[port="%(port)s"]

[LogDistro]
enabled = true
backend = polling
filter = logdistro
action = %(action_)s
logpath = ` + sharedFile + `
port = 0:65535
maxretry = 1
`
	// ownJails is what is left of it.
	ownJails = `[DEFAULT]
banaction = shown

`
)

// bannedBy waits until a node's jail has banned an address.
func (n *node) bannedBy(t *testing.T, jail, addr string) {
	t.Helper()
	eventually(t, fail2banLimit, func() error {
		jails, err := n.Fail2banJails()
		if err == nil && !slices.Contains(jails[jail], addr) {
			err = fmt.Errorf("%s: the jail %s has not banned %s: %v", n.Name, jail, addr, jails)
		}
		return err
	})
}

// follows types a command that `meshban help migrate` shows.
func (n *node) follows(t *testing.T, command string) {
	t.Helper()
	if !strings.Contains(document(t, "cmd/meshban/internal/cli/help/migrate.txt"), "\n  "+command) {
		t.Errorf("help migrate does not say %q", command)
	}
	n.types(t, strings.ReplaceAll(command, "/opt/logdistro/logs", sharedDir))
}

// Two servers come from the recipe as `meshban help migrate` says.
func TestMigrate(t *testing.T) {
	t.Parallel()
	fleet := rig.New(t, rig.Options{Nodes: 2, Binds: map[string]string{"/usr/local/bin/meshban": program, sharedDir: t.TempDir()}})
	m := &mesh{Fleet: fleet, prober: fleet.Prober(t)}
	for _, n := range fleet.Nodes {
		m.nodes = append(m.nodes, &node{Node: n})
	}
	first, second := m.nodes[0], m.nodes[1]
	for _, n := range m.nodes {
		check(t, n.WriteFile("/etc/fail2ban/action.d/logdistro.conf", sharedAction))
		check(t, n.WriteFile("/etc/fail2ban/action.d/shown.conf", shownAction))
		check(t, n.WriteFile("/etc/fail2ban/filter.d/logdistro.conf", recipeFilter))
		must(n.AppendFile(sharedFile, ""))(t)
	}
	m.services(t, sharedJails+"\n"+sshdJail)
	src := fresh()
	m.attack(t, src, first)
	second.bannedBy(t, "LogDistro", src.String()) // so the recipe works

	for _, n := range m.nodes {
		n.follows(t, "fail2ban-client stop LogDistro")
		if n == first {
			n.follows(t, "cp /opt/logdistro/logs/newbans.log /root/")
		}
		n.follows(t, "umount /opt/logdistro/logs")
		must(n.Do("rm", "/etc/fail2ban/filter.d/logdistro.conf", "/etc/fail2ban/action.d/logdistro.conf"))(t)
		check(t, n.WriteFile("/etc/fail2ban/jail.local", ownJails+sshdJail))
	}
	m.join(t, setup{nodes: 2})
	for _, n := range m.nodes {
		n.follows(t, "meshban setup fail2ban")
		if jails := must(n.Fail2banJails())(t); len(jails["LogDistro"]) > 0 {
			t.Errorf("%s: LogDistro is still there", n.Name)
		}
	}
	first.follows(t, "grep -o 'HOST [^ ]*' /root/newbans.log | cut -d ' ' -f 2 | meshban import - --for 1d")
	eventually(t, syncLimit, func() error {
		if _, ok := second.entry(t, src.String()); !ok {
			return fmt.Errorf("%s lacks a ban of the old file", second.Name)
		}
		return nil
	})
	src = fresh()
	pairs := m.watch(t, src)
	m.attack(t, src, first)
	if _, err := pairs.Enforced(fail2banLimit); err != nil {
		t.Error(err)
	}
	second.bannedBy(t, "meshban", src.String())
	first.follows(t, "meshban drill")
	for _, n := range m.nodes {
		if p := n.status(t).Problems; len(p) > 0 {
			t.Errorf("%s has problems: %q", n.Name, p)
		}
	}
}
