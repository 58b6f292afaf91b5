//go:build linux && netns

package test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

// With nothing set up, the agent runs at once and prints what it does.
func TestAgentFromNothing(t *testing.T) {
	t.Parallel()
	m := newFleet(t, 1)
	n := m.nodes[0]
	n.exit(t, exitNoAgent, "status")
	n.start(t)
	s := n.status(t)
	if s.Mesh.Alive != 1 || s.Mesh.Total != 1 || s.Firewall.Backend != "ipset" {
		t.Errorf("status %+v", s)
	}
	if said := n.agent.Stderr(); !strings.Contains(said, "ipset") || !strings.Contains(said, "invite") {
		t.Errorf("the agent says neither its backend nor how to go on:\n%s", said)
	}
	// The program is built as users build it, from a clone: its version once was too long for the mesh, and the agent
	// did not start. Go takes the commit only from a folder .git, which a work tree does not have.
	if info, err := os.Stat("../.git"); err == nil && info.IsDir() {
		if v := n.run(t, "version"); !strings.HasPrefix(v, "meshban dev-") {
			t.Errorf("built from a commit, it has the version %q", v)
		}
	}
	src := fresh()
	pairs := m.watch(t, src)
	enforced(t, pairs, n.write(t, src, "22"))

	// A second agent on the folder ends with 1 and leaves the first alone.
	r := n.exit(t, exitFailed, "agent")
	if !strings.Contains(r.Stderr, stateDir) {
		t.Errorf("the second agent does not name the folder:\n%s", r.Stderr)
	}
	// So does one on another folder: the sets in the kernel belong to the first. teardown does not remove them either.
	for _, args := range [][]string{{"agent", "--firewall", "nftables"}, {"teardown"}} {
		if r := n.exit(t, exitFailed, append(args, "--dir", "/tmp/other")...); !strings.Contains(r.Stderr, "another agent enforces bans in this kernel") {
			t.Errorf("%q on another folder: %s", args, r.Stderr)
		}
	}
	if st := n.status(t); st.Firewall.Enforced != 1 || st.Firewall.Repairs != 0 {
		t.Errorf("after another agent: %+v", st.Firewall)
	}
	n.stop(t)
	n.exit(t, exitNoAgent, "status")

	// An agent that must drop nothing removes what is left.
	n.args = append(n.args, "--firewall", "none")
	stopped := time.Now()
	n.start(t)
	open(t, pairs, stopped, startLimit)
	n.stop(t)
}

// Without privileges, the agent falls back to the backend "none" and says what it lacks.
func TestAgentWithoutPrivileges(t *testing.T) {
	t.Parallel()
	m := newFleet(t, 1)
	n := m.nodes[0]
	must(n.Shell("install -d -o nobody /tmp/state"))(t)
	argv := []string{"setpriv", "--reuid=nobody", "--clear-groups", "--bounding-set=-all", "meshban", "agent", "--dir", "/tmp/state"}
	p := must(n.StartDaemon(rig.Cmd{Argv: argv}, startLimit, func(*rig.Proc) error {
		r, err := n.Run("meshban", "--dir", "/tmp/state", "status")
		if err == nil && r.Code != exitDone {
			err = fmt.Errorf("status: %s", r.Stderr)
		}
		return err
	}))(t)
	if out := n.run(t, "--dir", "/tmp/state", "status", "--json"); !strings.Contains(out, `"none"`) {
		t.Errorf("status %s", out)
	}
	eventually(t, startLimit, func() error { // it answers before it has printed everything
		if said := p.Stderr(); !strings.Contains(said, "root") {
			return fmt.Errorf("the agent does not say what it lacks:\n%s", said)
		}
		return nil
	})
	must(p.Stop())(t)
}

// A config file with errors is refused as a whole, and every error names its
// place. On SIGHUP the agent then keeps its previous config.
func TestReload(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	a, b := m.nodes[0], m.nodes[1]
	src := fresh()
	pairs := m.watch(t, src)
	start := time.Now()
	b.run(t, "ban", src.String())
	enforced(t, pairs, start)
	good := must(a.ReadFile(configFile))(t)

	a.configure(t, "alow: [192.0.2.1]")
	check(t, a.agent.Signal(unix.SIGHUP))
	eventually(t, banLimit, func() error {
		if said := a.agent.Stderr(); !strings.Contains(said, "alow") {
			return fmt.Errorf("the agent says nothing of the unknown key:\n%s", said)
		}
		return nil
	})
	a.status(t)

	check(t, a.WriteFile(configFile, good+fmt.Sprintf("\nallow: [%q]\n", src.String())))
	start = time.Now()
	check(t, a.agent.Signal(unix.SIGHUP))
	open(t, pairs[:1], start, banLimit)
	check(t, pairs[1:].Silent(start)) // the list is a's own

	a.stop(t)
	check(t, a.WriteFile(configFile, good+"\nnonsense: 1\n"))
	r := a.exit(t, exitConfig, "agent")
	if !strings.Contains(r.Stderr, configFile+":") || !strings.Contains(r.Stderr, "nonsense") {
		t.Errorf("no file, line and key:\n%s", r.Stderr)
	}
}

// A state folder is copied to another machine, so two agents use one key.
func TestCloneIsNamed(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	a, b, clone := m.nodes[0], m.nodes[1], m.nodes[2]
	clone.stop(t)
	b.stop(t)
	must(clone.Shell("rm -rf " + stateDir + "/*"))(t)
	for _, name := range must(os.ReadDir(b.Path(stateDir)))(t) {
		if !name.Type().IsRegular() {
			continue
		}
		data := must(b.ReadFile(stateDir + "/" + name.Name()))(t)
		if name.Name() == "meshban.yaml" {
			data = strings.ReplaceAll(data, m.bind(b), m.bind(clone))
		}
		check(t, os.WriteFile(clone.Path(stateDir+"/"+name.Name()), []byte(data), 0o600))
	}
	b.start(t)
	clone.start(t)
	eventually(t, syncLimit, func() error {
		for _, n := range m.nodes {
			said := strings.ToLower(fmt.Sprint(n.status(t).Problems) + n.agent.Stderr())
			if strings.Contains(said, "key") && strings.Contains(said, clone.Mesh.String()) {
				return nil
			}
		}
		return fmt.Errorf("no node names the clone at %v: %v", clone.Mesh, a.status(t).Problems)
	})
	src := fresh() // the rest of the mesh goes on
	pairs := m.watch(t, src)
	start := time.Now()
	a.run(t, "ban", src.String())
	enforced(t, pairs[:1], start)
}

// Machines often share a host name; a mesh tells them apart.
func TestEqualNames(t *testing.T) {
	t.Parallel()
	m := newFleet(t, 3)
	first := m.nodes[0]
	first.run(t, "init", "--name", "web", "--bind", m.bind(first))
	first.start(t)
	token := strings.TrimSpace(first.run(t, "invite", "--uses", "2"))
	for _, n := range m.nodes[1:] {
		n.run(t, "join", token, "--name", "web", "--bind", m.bind(n))
		n.start(t)
	}
	for _, n := range m.nodes {
		eventually(t, syncLimit, func() error {
			ids := map[string]bool{}
			for _, other := range n.members(t) {
				if other.State == "alive" && other.InSync {
					ids[other.ID] = true
				}
			}
			if len(ids) != 3 {
				return fmt.Errorf("%s sees %d members in sync", n.Name, len(ids))
			}
			return nil
		})
	}
	src := fresh()
	pairs := m.watch(t, src)
	enforced(t, pairs, m.nodes[2].write(t, src, "22"))
	// The token's uses are used up.
	m.nodes[1].exit(t, exitPolicy, "join", token, "--dir", "/tmp/other")
}
