package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

// scriptTime bounds each wait of a script.
const scriptTime = 20 * time.Second

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		WorkdirRoot:   t.TempDir(), // testscript does not remove the one it makes
		Setup: func(env *testscript.Env) error {
			dir := filepath.Join(env.WorkDir, "d")
			env.Setenv("MESHBAN_DIR", dir)
			env.Values[agentKey{}] = new(fakeAgent)
			return os.Mkdir(dir, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":       scriptCode,
			"fakeagent":  scriptAgent,
			"stopagent":  func(ts *testscript.TestScript, _ bool, _ []string) { agentOf(ts).stop(ts) },
			"watchers":   scriptWatchers,
			"tell":       scriptTell,
			"hold":       scriptHold,
			"banned":     scriptBanned,
			"signal":     scriptSignal,
			"waitfile":   scriptWaitFile,
			"deadsocket": scriptDeadSocket,
		},
	})
}

var update = flag.Bool("update", false, "write what is seen into testdata")

type agentKey struct{}

// fakeAgent serves one script.
type fakeAgent struct {
	agent *controltest.Agent
	end   func() error
}

func agentOf(ts *testscript.TestScript) *fakeAgent { return ts.Value(agentKey{}).(*fakeAgent) }

func (a *fakeAgent) stop(ts *testscript.TestScript) {
	if a.end != nil {
		end := a.end
		a.end = nil
		ts.Check(end())
	}
}

// code N COMMAND... runs COMMAND and expects exit code N.
func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// fakeagent [-bans N] [-fail N] [-well] [-leaky] serves MESHBAN_DIR until the script ends. It holds N bans; its list fails after N.
func scriptAgent(ts *testscript.TestScript, _ bool, args []string) {
	flags := flag.NewFlagSet("fakeagent", flag.ContinueOnError)
	bans := flags.Int("bans", 0, "")
	fail := flags.Int("fail", -1, "")
	well := flags.Bool("well", false, "")
	leaky := flags.Bool("leaky", false, "")
	ts.Check(flags.Parse(args))
	entries := make([]control.ListEntry, *bans)
	for i := range entries {
		entries[i] = control.ListEntry{
			Prefix: control.PrefixOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)),
			Until:  control.TimeOf(time.Now().Add(time.Hour)), Origins: []string{"web1"}, Source: "line:sshd", State: control.StateEnforced,
		}
	}
	agent := controltest.New(entries...)
	agent.Audited, agent.Well, agent.Leaky = audited(), *well, *leaky
	if *fail >= 0 {
		agent.ListFail, agent.ListErr = *fail, &control.Error{Code: control.CodeFailed, Message: "the store broke"}
	}
	s, err := control.NewServer(control.ServerConfig{
		Agent: agent, Path: filepath.Join(ts.Getenv("MESHBAN_DIR"), control.SocketName),
	})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	a := agentOf(ts)
	a.agent = agent
	a.end = func() error { cancel(); return <-ended }
	ts.Defer(func() { a.stop(ts) })
	select {
	case <-s.Ready():
	case err := <-ended:
		a.end = nil
		ts.Fatalf("fake agent: %v", err)
	}
}

func wait(ts *testscript.TestScript, what string, cond func() bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.After(scriptTime); !cond(); {
		select {
		case <-tick.C:
		case <-limit:
			ts.Fatalf("not within %v: %s", scriptTime, what)
		}
	}
}

// watchers N waits until N clients watch.
func scriptWatchers(ts *testscript.TestScript, _ bool, args []string) {
	wait(ts, "watchers", func() bool { return strconv.Itoa(agentOf(ts).agent.Watchers()) == args[0] })
}

// tell EVENT ORIGIN [ADDR] sends an event to all watchers.
func scriptTell(ts *testscript.TestScript, _ bool, args []string) {
	e := control.Event{Time: time.Date(2026, 11, 22, 11, 2, 11, 687e6, time.UTC), Name: args[0], Origin: args[1]}
	if len(args) > 2 {
		p, err := netip.ParsePrefix(args[2])
		ts.Check(err)
		e.Prefix, e.Until, e.LatencyMS = control.PrefixOf(p), control.TimeOf(e.Time.Add(30*time.Minute)), new(3.7)
	}
	agentOf(ts).agent.Tell(e)
}

// hold ADDR ORIGIN makes a ban of a peer wait for a decision.
func scriptHold(ts *testscript.TestScript, _ bool, args []string) {
	p, err := netip.ParseAddr(args[0])
	ts.Check(err)
	agentOf(ts).agent.Hold(control.HeldEntry{
		Prefix: control.PrefixOf(netip.PrefixFrom(p, p.BitLen())), Origin: args[1], ID: strings.Repeat("a1", 16), Issued: control.TimeOf(time.Now()),
		Until: control.TimeOf(time.Now().Add(time.Hour)), Reason: "scan", Source: "line:sshd", By: "breaker",
	})
}

// banned prints the requests that Ban received, one a line: the number of addresses, then the other fields.
func scriptBanned(ts *testscript.TestScript, _ bool, _ []string) {
	for _, r := range agentOf(ts).agent.BanRequests() {
		fmt.Fprintf(ts.Stdout(), "%d for=%v ports=%q reason=%q source=%s\n", len(r.Addrs), r.For, r.Ports, r.Reason, r.Source)
	}
}

// signal HUP|TERM sends that signal to the last program in the background.
func scriptSignal(ts *testscript.TestScript, _ bool, args []string) {
	all := ts.BackgroundCmds()
	sig := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}[args[0]]
	ts.Check(all[len(all)-1].Process.Signal(sig))
}

// waitfile NAME [TEXT] waits until the file exists and has the text.
func scriptWaitFile(ts *testscript.TestScript, _ bool, args []string) {
	wait(ts, strings.Join(args, " "), func() bool {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && (len(args) < 2 || bytes.Contains(data, []byte(args[1])))
	})
}

// deadsocket leaves a socket that nobody serves, as a killed agent does.
func scriptDeadSocket(ts *testscript.TestScript, _ bool, _ []string) {
	path := filepath.Join(ts.Getenv("MESHBAN_DIR"), control.SocketName)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	ts.Check(err)
	ts.Check(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	ts.Check(syscall.Close(fd))
}

// audited returns the audit log of the fake agent.
func audited() []control.AuditEntry {
	at := time.Date(2026, 11, 22, 11, 2, 11, 0, time.UTC)
	prefix := netip.MustParsePrefix
	return []control.AuditEntry{
		{
			Time: at, What: "ban", Prefixes: []netip.Prefix{prefix("203.0.113.7/32"), prefix("2001:db8::/64")}, Until: at.Add(time.Hour),
			Via: control.ViaSocket, User: "alice", UID: new(uint32(4200)), PID: 17, Node: "web1", NodeID: "00112233", Reason: "scan", Source: "cli",
		},
		{
			Time: at.Add(time.Second), What: "ban", Prefixes: []netip.Prefix{prefix("203.0.113.8/32")},
			Via: control.ViaLines, Node: "web1", NodeID: "00112233", Source: "line:sshd",
		},
		{
			Time: at.Add(2 * time.Second), What: "ban", Prefixes: []netip.Prefix{prefix("203.0.113.9/32")},
			Via: control.ViaMesh, Node: "web2", NodeID: "ffeeddcc", Lost: 5,
		},
	}
}
