//go:build linux && netns

package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	stateDir   = "/var/lib/meshban"
	configFile = stateDir + "/meshban.yaml"
	lineFile   = stateDir + "/newbans.log"
	meshPort   = 7946

	// startLimit bounds the start of an agent.
	startLimit = time.Minute
	// endLimit bounds the stop of an agent: the agent itself takes at most 5 s.
	endLimit = 25 * time.Second
)

// Exit codes of the program.
const (
	exitDone, exitFailed, exitUsage, exitNoAgent, exitPolicy, exitNotFound, exitConfig = 0, 1, 2, 3, 4, 5, 78
)

// node is a server with the program on it.
type node struct {
	*rig.Node
	agent *rig.Proc
	args  []string // of its agent

	fail2ban *rig.Proc                    // nil = none runs
	prefix   func(argv []string) []string // wraps the agent's command line; nil = unchanged
}

// entry is a line of list --json.
type entry struct {
	Prefix  string
	Ports   string
	Until   time.Time
	Origins []string
	Reason  string
	Source  string
	State   string

	OriginIDs []string `json:"origin_ids"`
}

// member is a line of members --json.
type member struct {
	Name   string
	ID     string
	Addr   string
	State  string
	InSync bool `json:"in_sync"`
	UDP    string
}

// status is what status --json prints.
type status struct {
	Name string
	ID   string
	Mesh struct {
		Alive, Total  int
		InSync        int `json:"in_sync"`
		Digest        string
		KeyGeneration int `json:"key_generation"`
	}
	Bans struct {
		Active, Pending, Held, Allowed int
	}
	Firewall struct {
		Backend   string
		Enforced  int
		Repairs   int
		LastError string `json:"last_error"`
	}
	Lines struct {
		Accepted, Ignored, Echoes, Emitted int
	}
	Problems []string
}

// event is a line of watch --json.
type event struct {
	Time      time.Time
	Event     string
	Prefix    string
	Origin    string
	LatencyMS *float64 `json:"latency_ms"`
}

// run runs the program, which must succeed, and returns what it printed.
func (n *node) run(t testing.TB, args ...string) string {
	t.Helper()
	return n.exit(t, exitDone, args...).Stdout
}

// exit runs the program, which must end with code, and returns its result.
func (n *node) exit(t testing.TB, code int, args ...string) rig.Result {
	t.Helper()
	r := must(n.Run(append([]string{"meshban"}, args...)...))(t)
	if r.Code != code {
		t.Fatalf("%s: meshban %q: exit code %d, want %d\n%s%s", n.Name, args, r.Code, code, r.Stdout, r.Stderr)
	}
	return r
}

// jsonLines decodes a stream of JSON objects.
func jsonLines[T any](text string) ([]T, error) {
	var all []T
	for dec := json.NewDecoder(strings.NewReader(text)); ; {
		var v T
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, fmt.Errorf("%w in %q", err, text)
		}
		all = append(all, v)
	}
}

func (n *node) list(t testing.TB) []entry {
	t.Helper()
	return must(jsonLines[entry](n.run(t, "list", "--json")))(t)
}

func (n *node) members(t testing.TB) []member {
	t.Helper()
	return must(jsonLines[member](n.run(t, "members", "--json")))(t)
}

func (n *node) status(t testing.TB) status {
	t.Helper()
	all := must(jsonLines[status](n.run(t, "status", "--json")))(t)
	if len(all) != 1 {
		t.Fatalf("%s: %d objects of status", n.Name, len(all))
	}
	return all[0]
}

// entry returns the entry of an address or prefix in the node's list.
func (n *node) entry(t testing.TB, prefix string) (entry, bool) {
	t.Helper()
	want := canonical(prefix)
	for _, e := range n.list(t) {
		if canonical(e.Prefix) == want {
			return e, true
		}
	}
	return entry{}, false
}

// canonical returns an address as a prefix, and anything else unchanged.
func canonical(s string) string {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()).String()
	}
	return s
}

// lines returns the lines of the node's line file that name an address.
func (n *node) lines(t testing.TB, addr netip.Addr) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(must(n.ReadFile(lineFile))(t)) {
		if slices.Contains(strings.Fields(line), addr.String()) {
			found = append(found, strings.TrimSuffix(line, "\n"))
		}
	}
	return found
}

// write appends a bare line to the node's line file and returns the time right
// after it.
func (n *node) write(t testing.TB, addr netip.Addr, rest string) time.Time {
	t.Helper()
	return must(n.AppendFile(lineFile, fmt.Sprintf("HOST %v PORT %s\n", addr, rest)))(t)
}

// start starts the node's agent and waits until it answers.
func (n *node) start(t testing.TB) {
	t.Helper()
	argv := append([]string{"meshban", "agent"}, n.args...)
	if n.prefix != nil {
		argv = n.prefix(argv)
	}
	p, err := n.StartDaemon(rig.Cmd{Argv: argv}, startLimit, func(*rig.Proc) error {
		r, err := n.Run("meshban", "status", "--json")
		if err == nil && r.Code != exitDone {
			err = fmt.Errorf("status: exit code %d: %s", r.Code, r.Stderr)
		}
		return err
	})
	check(t, err)
	n.agent = p
}

// stop ends the node's agent with SIGTERM, which must take at most endLimit.
func (n *node) stop(t testing.TB) {
	t.Helper()
	begin := time.Now()
	if e := must(n.agent.Stop())(t); e.Code != exitDone || e.Signal != 0 {
		t.Errorf("%s: the agent ended with %+v\n%s", n.Name, e, n.agent.Tail(20))
	}
	if took := time.Since(begin); took > endLimit {
		t.Errorf("%s: the agent took %v to end", n.Name, took)
	}
}

// kill ends the node's agent with SIGKILL.
func (n *node) kill(t testing.TB) {
	t.Helper()
	check(t, n.agent.Kill(false))
}

// configure adds text to the node's config file.
func (n *node) configure(t testing.TB, text string) {
	t.Helper()
	must(n.AppendFile(configFile, "\n"+text+"\n"))(t)
}
