//go:build linux && netns

package test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// machineLimit bounds each wait for systemd, sshd and fail2ban on a busy machine.
const machineLimit = 2 * time.Minute

// readmeCommands returns the commands that README.md shows below the paragraph that begins with intro.
func readmeCommands(t *testing.T, intro string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(document(t, "README.md"), "\n"+intro)
	_, rest, ok2 := strings.Cut(rest, "\n\n    ")
	block, _, ok3 := strings.Cut(rest, "\n\n")
	if !ok || !ok2 || !ok3 {
		t.Fatalf("README.md shows no commands below %q", intro)
	}
	return strings.Split(block, "\n    ")
}

// types runs lines as if typed at the machine's prompt. Each must succeed.
func (n *node) types(t testing.TB, lines ...string) {
	t.Helper()
	for _, line := range lines {
		r := must(n.Run("bash", "-c", line))(t)
		t.Logf("%s# %s\n%s%s", n.Name, line, r.Stdout, r.Stderr)
		if r.Code != 0 {
			t.Fatalf("%s: %s: exit code %d", n.Name, line, r.Code)
		}
	}
}

// unit returns a property of the service from systemd.
func (n *node) unit(t testing.TB, property string) string {
	t.Helper()
	return strings.TrimSpace(must(n.Do("systemctl", "show", "--value", "-p", property, "meshban"))(t))
}

// unitIs waits until a property of the service has the wanted value.
func (n *node) unitIs(t testing.TB, property, want string) {
	t.Helper()
	eventually(t, machineLimit, func() error {
		if got := n.unit(t, property); got != want {
			return fmt.Errorf("%s: %s is %q, want %q", n.Name, property, got, want)
		}
		return nil
	})
}

// bootMachines returns servers booted by systemd, with the program in root's home.
func bootMachines(t *testing.T, count int) *mesh {
	t.Helper()
	m := newFleet(t, count)
	errs := make([]error, count)
	var wg sync.WaitGroup
	for i, n := range m.nodes {
		wg.Go(func() { errs[i] = errors.Join(n.Boot(), copyFile(program, n.Path("/root/meshban"))) })
	}
	wg.Wait()
	check(t, errors.Join(errs...))
	must(m.Attacker.Shell("mknod -m 666 /dev/tty c 5 0"))(t) // ssh asks for a password there
	return m
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Two Debian machines work with only the commands that README.md shows.
func TestRealMachines(t *testing.T) {
	t.Parallel()
	m := bootMachines(t, 2)
	web1, web2 := m.nodes[0], m.nodes[1]
	m.typeREADME(t)
	m.inSync(t, machineLimit)
	for _, n := range m.nodes {
		if got := n.unit(t, "MemoryMax") + " " + n.unit(t, "OOMPolicy"); got != "1073741824 stop" {
			t.Errorf("%s: systemd reads the memory's bound and the OOM policy as %q", n.Name, got)
		}
		if p := n.status(t).Problems; len(p) > 0 {
			t.Errorf("%s has problems: %q", n.Name, p)
		}
		// The doctor finds nothing wrong, and leaves out no check.
		if found := n.run(t, "doctor"); strings.Contains("\n"+found, "\nwarn ") || strings.Contains("\n"+found, "\nbad ") || strings.Contains(found, "no agent") {
			t.Errorf("doctor on %s:\n%s", n.Name, found)
		}
	}

	// In the sandbox of its unit, the agent can send packets to itself.
	if said := web1.run(t, "drill"); !strings.Contains(said, "2 of 2 nodes dropped") {
		t.Errorf("drill: %s", said)
	}

	// The other machine, too, drops a real attacker of the first, without a further command.
	src := fresh()
	pairs := m.watch(t, src)
	eventually(t, machineLimit, func() error {
		var wg sync.WaitGroup
		for range 5 { // Debian's maxretry
			wg.Go(func() { _ = m.FailLogin(src, web1.Probe) })
		}
		wg.Wait()
		_, err := pairs.Enforced(3 * time.Second)
		return err
	})
	if why := web2.run(t, "why", src.String()); !strings.HasPrefix(why, src.String()+": dropped\n") || !strings.Contains(why, "by web1") {
		t.Errorf("why on web2: %s", why)
	}

	// One unban lets the attacker in again on both, although web1's fail2ban had banned it.
	begin := time.Now()
	web2.run(t, "unban", src.String())
	open(t, pairs, begin, machineLimit)
	eventually(t, machineLimit, func() error { return m.FailLogin(src, web1.Probe) })
	if why := web1.run(t, "why", src.String()); !strings.HasPrefix(why, src.String()+": not dropped\n") {
		t.Errorf("why on web1: %s", why)
	}

	m.playSession(t)
	m.keepsDropping(t)
	m.refusesConfig(t)
	m.reloadsReaders(t)
	m.leavesNothing(t)
}

// typeREADME sets both machines up as README.md says: the first makes the mesh, the second joins it.
func (m *mesh) typeREADME(t *testing.T) {
	t.Helper()
	web1, web2 := m.nodes[0], m.nodes[1]
	web1.Name, web2.Name = "web1", "web2"
	lines := readmeCommands(t, "`./meshban demo`, as root, shows")
	web1.types(t, lines...)
	token := strings.TrimSpace(web1.run(t, "invite"))
	for _, line := range lines {
		if _, or, ok := strings.Cut(line, "# or: "); ok {
			line = strings.ReplaceAll(or, "TOKEN", token)
		}
		web2.types(t, line)
	}
}

// sessionLine matches a command in README.md's session on web1 and web2.
var sessionLine = regexp.MustCompile(`(?m)^    (web[12])# (.*)$`)

// playSession types README.md's session, from the ban of an address until it is lifted and allowed.
func (m *mesh) playSession(t *testing.T) {
	t.Helper()
	pairs := m.watch(t, netip.MustParseAddr("192.0.2.66"))
	commands := sessionLine.FindAllStringSubmatch(document(t, "README.md"), -1)
	if len(commands) != 6 {
		t.Fatalf("README.md shows a session of %d commands", len(commands))
	}
	for i, c := range commands {
		m.nodes[strings.Index("12", c[1][3:])].types(t, c[2])
		if i == 0 {
			must(pairs.Enforced(machineLimit))(t)
		}
	}
	open(t, pairs, time.Now(), machineLimit)
}

// keepsDropping ends an agent in every way while a ban is in force. It checks that no packet passes, and that systemd
// restarts the agent after a crash or a kill.
func (m *mesh) keepsDropping(t *testing.T) {
	t.Helper()
	web1 := m.nodes[0]
	src := fresh()
	pairs := m.watch(t, src)
	m.nodes[1].run(t, "ban", src.String())
	dropped := rig.Last(must(pairs.Enforced(banLimit))(t))

	for i, signal := range []string{"ABRT", "KILL"} { // a crash, as Go exits with code 2, and the signal of the OOM killer
		pid := web1.unit(t, "MainPID")
		web1.types(t, "systemctl kill --kill-whom=main --signal="+signal+" meshban")
		web1.unitIs(t, "NRestarts", fmt.Sprint(i+1))
		web1.unitIs(t, "ActiveState", "active")
		if again := web1.unit(t, "MainPID"); again == pid {
			t.Errorf("SIG%s did not end the agent", signal)
		}
	}
	web1.types(t, "systemctl stop meshban", "systemctl start meshban", "systemctl restart meshban")
	m.inSync(t, machineLimit)
	for _, p := range pairs {
		if w := p.Count(dropped, time.Now()); w.Answered > 0 || w.Sent == 0 {
			t.Errorf("%v: %d of %d probes were answered while the agent was away", p, w.Answered, w.Sent)
		}
	}
}

// refusesConfig starts the agent with permanent faults, after which it must stay down, and with a temporary one, after
// which it must be restarted.
func (m *mesh) refusesConfig(t *testing.T) {
	t.Helper()
	n := m.nodes[1]
	good := must(n.ReadFile(configFile))(t)
	for _, c := range []struct{ name, breaks, mends string }{
		{"an unknown key", "echo 'nonsense: 1' >>" + configFile, ""},
		{"a config that others may write", "chmod 666 " + configFile, "chmod 600 " + configFile},
		{"a bad value in the environment", "mkdir -p /etc/systemd/system/meshban.service.d; printf '[Service]\\nEnvironment=MESHBAN_BIND=nowhere\\n' " +
			">/etc/systemd/system/meshban.service.d/x.conf; systemctl daemon-reload", "rm -r /etc/systemd/system/meshban.service.d; systemctl daemon-reload"},
	} {
		n.types(t, c.breaks, "! systemctl restart meshban")
		// A service that will be restarted is "activating", "auto-restart".
		if got := n.unit(t, "ActiveState") + " " + n.unit(t, "ExecMainStatus"); got != "failed 78" {
			t.Errorf("%s: the service is %q, want it to end with 78 and not be restarted", c.name, got)
		}
		check(t, n.WriteFile(configFile, good))
		if c.mends != "" {
			n.types(t, c.mends)
		}
	}
	// A taken port is a temporary fault.
	n.types(t, "systemd-run --quiet --unit=squatter python3 -c 'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "+
		fmt.Sprintf(`s.bind(("", %d)); print("bound", flush=True); time.sleep(600)'`, meshPort))
	eventually(t, machineLimit, func() error {
		_, err := n.Shell("journalctl --unit=squatter | grep -w bound")
		return err
	})
	n.types(t, "! systemctl restart meshban")
	if got := n.unit(t, "ActiveState") + " " + n.unit(t, "ExecMainStatus"); got != "activating 1" {
		t.Errorf("while its port is taken: the service is %q, want exit code 1 and a retry", got)
	}
	n.types(t, "systemctl stop squatter")
	n.unitIs(t, "ActiveState", "active")
	m.inSync(t, machineLimit)
}

// reloadsReaders has systemd reload a program when its list has changed, as `meshban help proxies` says.
func (m *mesh) reloadsReaders(t *testing.T) {
	t.Helper()
	n, src := m.nodes[0], fresh()
	// In place of nginx, which is not there.
	check(t, n.WriteFile("/etc/systemd/system/nginx.service", "[Service]\nExecStart=sleep infinity\nExecReload=cp "+stateDir+"/feeds/nginx.conf /run/read\n"))
	n.types(t, "echo '"+listedFiles[strings.Index(listedFiles, "files:"):]+"' >>"+configFile, "systemctl reload meshban", "meshban setup systemd",
		"systemctl daemon-reload && systemctl enable --now meshban-nginx.path", "systemctl start nginx")
	for _, step := range []struct {
		verb string
		has  bool
	}{{"ban", true}, {"unban", false}} {
		m.nodes[1].run(t, step.verb, src.String())
		eventually(t, machineLimit, func() error {
			if text, err := n.ReadFile("/run/read"); err != nil || strings.Contains(text, src.String()) != step.has {
				return fmt.Errorf("after %s of %v nginx has read %q, %v", step.verb, src, text, err)
			}
			return nil
		})
	}
	n.types(t, "systemctl disable --now meshban-nginx.path; systemctl stop nginx; rm /etc/systemd/system/nginx.service")
}

// leavesNothing removes the program as README.md says, and checks that nothing of it stays behind.
func (m *mesh) leavesNothing(t *testing.T) {
	t.Helper()
	n := m.nodes[0]
	src := fresh()
	pairs := m.watchNode(t, src, n, rig.ClosedPort)
	n.run(t, "ban", src.String())
	enforced(t, pairs, time.Now())
	begin := time.Now()
	n.types(t, "systemctl disable --now meshban", "meshban teardown", "meshban setup --remove")
	open(t, pairs, begin, machineLimit)
	for _, look := range []string{
		"find /etc /run /usr/lib/systemd -name '*meshban*'",
		"nft list ruleset | grep -i meshban || true",
		"iptables-save | grep -i meshban || true",
		"ipset list -n",
		"systemctl --all --plain --no-legend list-units 'meshban*'",
		"systemctl --failed --plain --no-legend",
		"fail2ban-client status | grep meshban || true",
	} {
		if out := must(n.Shell(look))(t); out != "" {
			t.Errorf("%s: %s", look, out)
		}
	}
	n.types(t, "fail2ban-client ping")
}
