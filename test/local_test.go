//go:build linux && netns

package test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

const (
	// nobody is the unprivileged user of these tests, and its group.
	nobody = 65534
	// Groups that the tests make.
	lookers, changers = 4101, 4102
	// floodTime bounds a flood of connections, which the test ends earlier.
	floodTime = 5 * time.Minute
)

// as runs a command on the node as user nobody with these supplementary groups
// and no capability.
func (n *node) as(t testing.TB, groups []int, args ...string) rig.Result {
	t.Helper()
	return must(n.Run(slices.Concat(unprivileged(groups), args)...))(t)
}

func unprivileged(groups []int) []string {
	argv := []string{"setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--inh-caps=-all"}
	if len(groups) == 0 {
		return append(argv, "--clear-groups")
	}
	var list []string
	for _, g := range groups {
		list = append(list, fmt.Sprint(g))
	}
	return append(argv, "--groups="+strings.Join(list, ","))
}

// mayOrNot runs the program as nobody with groups and checks its exit code, and
// that a refusal names the rule and a remedy.
func (n *node) mayOrNot(t *testing.T, code int, groups []int, args ...string) {
	t.Helper()
	r := n.as(t, groups, slices.Concat([]string{"meshban"}, args, []string{"--dir", stateDir})...)
	if r.Code != code {
		t.Errorf("nobody with groups %v: meshban %q: exit code %d, want %d\n%s%s", groups, args, r.Code, code, r.Stdout, r.Stderr)
	}
	if code == exitPolicy && (!strings.Contains(r.Stderr, "no permission") || !strings.Contains(r.Stderr, "hint: ") ||
		!strings.Contains(r.Stderr, "sudo") || !strings.Contains(r.Stderr, "_group")) {
		t.Errorf("nobody with groups %v: meshban %q: the refusal names no rule or no remedy: %s", groups, args, r.Stderr)
	}
}

// passable lets every user traverse the state folder, as the systemd unit does.
func (n *node) passable(t testing.TB) {
	t.Helper()
	check(t, n.WriteFile("/root/list", "203.0.113.66\n"))
	must(n.Shell(fmt.Sprintf("chmod 711 %s; chmod 711 /root; chmod 644 /root/list; "+
		"printf 'lookers:x:%d:\\nchangers:x:%d:\\n' >>/etc/group", stateDir, lookers, changers)))(t)
}

var (
	looking  = [][]string{{"list"}, {"why", "192.0.2.1"}, {"members"}, {"status"}, {"export"}, {"audit"}, {"allow", "--list"}}
	changing = [][]string{
		{"ban", "203.0.113.65"}, {"unban", "203.0.113.65"}, {"allow", "203.0.113.65"}, {"allow", "--remove", "203.0.113.65"},
		{"import", "/root/list"}, {"invite"},
	}
)

func TestControlGroups(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, config, mode   string
		looker, looker2, any int // exit codes: the read group looks, the write group looks and changes, others look
	}{
		{"ok: nobody but root", "", "600 root", exitPolicy, exitPolicy, exitPolicy},
		{"ok: a group that may look", "control: {read_group: lookers}", "660 root", exitDone, exitPolicy, exitPolicy},
		{"ok: a group that may change", "control: {write_group: 4102}", "660 root", exitPolicy, exitDone, exitPolicy},
		{"ok: both", "control:\n  read_group: lookers\n  write_group: changers", "660 root", exitDone, exitDone, exitPolicy},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh(t, setup{nodes: 1, config: c.config, before: func(n *node) { n.passable(t) }})
			n, src := m.nodes[0], fresh()
			if got := strings.TrimSpace(must(n.Do("stat", "-c", "%a %G", stateDir+"/control.sock"))(t)); got != c.mode {
				t.Errorf("the socket is %q, want %q", got, c.mode)
			}
			for _, args := range looking {
				n.mayOrNot(t, c.looker, []int{lookers}, args...)
				n.mayOrNot(t, c.looker2, []int{4000, changers}, args...)
				n.mayOrNot(t, c.any, nil, args...)
			}
			for _, args := range changing {
				n.mayOrNot(t, exitPolicy, []int{lookers}, args...)
				n.mayOrNot(t, exitPolicy, []int{4000}, args...)
			}
			if got := n.list(t); len(got) != 0 {
				t.Fatalf("a refused command changed something: %+v", got)
			}
			watch := must(n.Start(rig.Cmd{Argv: append(unprivileged([]int{lookers}), "meshban", "watch", "--dir", stateDir)}))(t)
			if c.looker == exitDone {
				eventually(t, banLimit, func() error { // what happens before it is connected, it does not tell
					n.run(t, "ban", "203.0.113.67")
					n.run(t, "unban", "203.0.113.67")
					if watch.Stdout() == "" && watch.Running() {
						return errors.New("watch has told nothing")
					}
					return nil
				})
				_ = watch.Signal(unix.SIGINT) // an error: it has ended
			}
			if e := must(watch.Wait(banLimit))(t); e.Code != c.looker {
				t.Errorf("watch: exit code %d, want %d: %s", e.Code, c.looker, watch.Stderr())
			}
			pairs := m.watch(t, src)
			start := time.Now()
			n.mayOrNot(t, c.looker2, []int{4000, changers}, "ban", src.String())
			if c.looker2 == exitDone { // positive control: permitted users can
				enforced(t, pairs, start)
				for _, args := range changing[:2] {
					n.mayOrNot(t, exitDone, []int{changers}, args...)
				}
			}
			answering(t, m.watch(t, fresh()))
		})
	}
	t.Run("bad: a group that is not there", func(t *testing.T) {
		m := newFleet(t, 1)
		n := m.nodes[0]
		n.run(t, "init", "--dir", stateDir, "--name", n.Name, "--bind", m.bind(n))
		n.configure(t, "control: {read_group: no-such-group}")
		r := n.exit(t, exitConfig, "agent")
		if !strings.Contains(r.Stderr, "control.read_group") || !strings.Contains(r.Stderr, "groupadd") {
			t.Errorf("the error names no key or no remedy: %s", r.Stderr)
		}
	})
}

// Neither strangers nor users who may only look can keep root out by filling the socket.
func TestFloodOfTheSocket(t *testing.T) {
	m := newMesh(t, setup{nodes: 1, config: "control: {read_group: lookers, write_group: changers}", before: func(n *node) { n.passable(t) }})
	n, src := m.nodes[0], fresh()
	pairs := m.watch(t, src)
	for _, groups := range [][]int{nil, {lookers}} {
		script := fmt.Sprintf(`use IO::Socket::UNIX; my $end = time + %d; $SIG{TERM} = sub { $end = 0 }; my @open; my $made = 0;
while (time < $end) {
	my $s = IO::Socket::UNIX->new(Peer => "%s/control.sock") or next;
	push @open, $s; $made++; shift @open if @open > 500;
}
print "$made\n";`, int(floodTime/time.Second), stateDir)
		flood := must(n.Start(rig.Cmd{Argv: slices.Concat(unprivileged(groups), []string{"perl", "-e", script})}))(t)
		during(time.Second)
		start := time.Now()
		n.status(t)
		n.run(t, "ban", src.String(), "--for", "10m")
		if !flood.Running() {
			t.Errorf("groups %v: the flood was over before the command", groups)
		}
		t.Logf("groups %v: a status and a ban took %v", groups, time.Since(start).Round(time.Millisecond))
		enforced(t, pairs, start)
		check(t, flood.Signal(unix.SIGTERM))
		must(flood.Wait(banLimit))(t)
		// A stranger gets no connection at all; a user who may look gets many.
		if made := strings.TrimSpace(flood.Stdout()); made == "" || (made == "0") != (groups == nil) {
			t.Errorf("groups %v: %q connections were made", groups, made)
		}
		n.run(t, "unban", src.String())
		open(t, pairs, start, banLimit)
	}
}

// A local user without privileges but with a shell on the server gets nowhere.
func TestUnprivilegedUser(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, before: func(n *node) {
		// As permissive as it gets: the folder as `meshban init` makes it.
		must(n.Do("chmod", "755", stateDir))(t)
	}})
	n := m.nodes[0]
	banned, good := fresh(), fresh()
	pairs, other := m.watch(t, banned), m.watch(t, good)
	start := time.Now()
	n.run(t, "ban", banned.String(), "--for", "10m")
	enforced(t, pairs, start)
	quiet := time.Now()

	for _, args := range slices.Concat(looking, changing[:4], changing[5:]) {
		n.mayOrNot(t, exitPolicy, nil, args...)
	}
	n.mayOrNot(t, exitPolicy, nil, "ban", good.String())
	n.mayOrNot(t, exitPolicy, nil, "unban", banned.String())

	agent := n.agent.PID
	words := strings.NewReplacer("DIR", stateDir, "PID", fmt.Sprint(agent), "GOOD", good.String(), "BANNED", banned.String())
	for _, c := range []struct{ name, command string }{
		{"bad: reads the node's key", "cat DIR/node.key"},
		{"bad: reads the mesh's key", "cat DIR/mesh.key"},
		{"bad: reads the store", "cat DIR/store.db"},
		{"bad: reads the audit log", "cat DIR/audit.jsonl"},
		{"bad: blots the audit log", "echo {} >>DIR/audit.jsonl"},
		{"bad: removes the audit log", "rm -f DIR/audit.jsonl"},
		{"bad: reads the config", "cat DIR/meshban.yaml"},
		{"bad: reads the keys past the folder's mode", "cat /proc/PID/rootDIR/mesh.key"},
		{"bad: reads the agent's memory", "head -c 1 /proc/PID/mem"},
		{"bad: reads the agent's files", "ls /proc/PID/fd/"},
		{"bad: reads the agent's environment", "cat /proc/PID/environ"},
		{"bad: writes the line file", "echo HOST GOOD PORT 22 >>DIR/newbans.log"},
		{"bad: replaces the line file", "echo HOST GOOD PORT 22 >/tmp/x; mv /tmp/x DIR/newbans.log"},
		{"bad: removes the line file", "rm -f DIR/newbans.log"},
		{"bad: changes the config", "echo 'allow: [BANNED]' >>DIR/meshban.yaml"},
		{"bad: removes the socket", "rm -f DIR/control.sock"},
		{"bad: takes the socket's place", "mv -f DIR/control.sock /tmp/; test ! -e DIR/control.sock"},
		{"bad: puts a file of his own beside", "touch DIR/mine"},
		{"bad: ends the agent", "kill -TERM PID"},
		{"bad: kills the agent", "kill -KILL PID"},
		{"bad: stops the agent for a while", "kill -STOP PID"},
		{"bad: makes the agent read another config", "kill -HUP PID"},
		{"bad: holds the folder's lock", "flock -n DIR/lock true"},
		{"bad: runs an agent on the folder", "timeout 10 meshban agent --dir DIR"},
		{"bad: makes a mesh in the folder", "meshban init --dir DIR"},
		{"bad: empties the kernel", "meshban teardown --dir DIR"},
		{"bad: empties the kernel's sets", "ipset flush"},
		{"bad: takes the rules away", "nft flush ruleset"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := n.as(t, nil, "sh", "-c", words.Replace(c.command)); r.Code == 0 {
				t.Errorf("%s succeeded: %s", c.command, r.Stdout)
			}
		})
	}
	// Positive controls: root can, so the commands themselves are right.
	for _, command := range []string{"cat %s/node.key", "cat %s/mesh.key", "cat %s/store.db", "cat %s/meshban.yaml", "cat %s/audit.jsonl", "touch %s/mine; rm %[1]s/mine"} {
		must(n.Shell(fmt.Sprintf(command, stateDir)))(t)
	}
	must(n.Shell(fmt.Sprintf("ls /proc/%d/fd/; kill -0 %[1]d", agent)))(t)

	if !n.agent.Running() {
		t.Fatal("the agent has ended")
	}
	m.inSync(t, syncLimit)
	answering(t, other)
	check(t, pairs.Silent(quiet))
	for _, other := range m.nodes {
		if got := other.list(t); len(got) != 1 {
			t.Errorf("%s lists %+v", other.Name, got)
		}
	}
}
