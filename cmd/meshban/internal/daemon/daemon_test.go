package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh"
)

// patience bounds every wait of these tests; what they wait for takes milliseconds.
const patience = time.Minute

// node is one daemon of a test, on loopback and with no firewall.
type node struct {
	*Daemon
	home   statedir.Dir
	cfg    config.Config
	reload chan os.Signal
	stop   func()
	log    *logBuffer
}

// logBuffer keeps a log that the daemon writes while the test reads.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// testConfig returns the configuration of a test node.
func testConfig(dir statedir.Dir, name string) config.Config {
	cfg := config.Default(string(dir))
	cfg.Name = name
	cfg.Bind = netip.MustParseAddrPort("127.0.0.1:0")
	cfg.Firewall.Backends = []string{"none"}
	return cfg
}

// first makes a mesh and starts its first node.
func first(t testing.TB, name string) *node {
	t.Helper()
	dir := statedir.Dir(t.TempDir())
	cfg := testConfig(dir, name)
	if _, _, err := dir.Init(cfg); err != nil {
		t.Fatal(err)
	}
	return start(t, dir, cfg)
}

// join enrols another node with a token from n and starts it.
func (n *node) join(t testing.TB, name string) *node {
	t.Helper()
	return n.joinWith(t, name, control.InviteRequest{})
}

func (n *node) joinWith(t testing.TB, name string, req control.InviteRequest) *node {
	t.Helper()
	dir, cfg := n.enrol(t, name, req)
	other := start(t, dir, cfg)
	until(t, name+" and "+n.cfg.Name+" in one mesh", func() bool {
		return other.meshStatus().Alive == n.meshStatus().Alive && other.meshStatus().InSync == n.meshStatus().InSync && n.meshStatus().InSync > 1
	})
	return other
}

// enrol makes the folder of another node with a token from n.
func (n *node) enrol(t testing.TB, name string, req control.InviteRequest) (statedir.Dir, config.Config) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		reply, err := n.Invite(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		dir := statedir.Dir(t.TempDir())
		cfg := testConfig(dir, name)
		_, enrolment, err := dir.Join(t.Context(), reply.Token, cfg, false)
		if err == nil {
			cfg.Join = enrolment.Join
			return dir, cfg
		}
		// On a busy machine the inviter may answer too late.
		if !errors.Is(err, mesh.ErrUnreachable) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// start runs a node until the test ends or stop is called.
func start(t testing.TB, dir statedir.Dir, cfg config.Config) *node {
	t.Helper()
	return startWith(t, dir, cfg, func(*Daemon) {})
}

// startWith calls prepare on a node before it starts it.
func startWith(t testing.TB, dir statedir.Dir, cfg config.Config, prepare func(*Daemon)) *node {
	t.Helper()
	n := &node{home: dir, cfg: cfg, reload: make(chan os.Signal), log: &logBuffer{}}
	level := new(slog.LevelVar)
	var err error
	n.Daemon, err = New(t.Context(), Config{
		Home: dir, Config: cfg, Version: "test", Level: level,
		Logger: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: level})),
		Reload: n.reload, Reread: func() (config.Config, error) { return config.Load(dir.Config(), string(dir)) },
		Host: func() ([]hostinfo.Entry, error) { return nil, nil }, // the machine may own addresses that these tests ban
	})
	if err != nil {
		t.Fatal(err)
	}
	n.enforceWith(t, takesAll{fw.NewNone()})
	prepare(n.Daemon)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("%s: %v", cfg.Name, err)
				}
			case <-time.After(patience):
				t.Errorf("%s does not stop", cfg.Name)
			}
		})
	}
	t.Cleanup(func() {
		n.stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", cfg.Name, n.log)
		}
	})
	select {
	case <-n.mesh.Ready():
	case err := <-done:
		t.Fatalf("%s ended: %v", cfg.Name, err)
	case <-time.After(patience):
		t.Fatalf("%s does not come up", cfg.Name)
	}
	until(t, cfg.Name+" follows its line file", func() bool {
		return n.store.Value(valuePosition) != nil
	})
	return n
}

// takesAll is a kernel that takes whatever it is given.
type takesAll struct{ fw.Backend }

func (takesAll) Name() string { return "all" }

// enforceWith replaces the kernel of a node that does not run yet.
func (d *Daemon) enforceWith(t testing.TB, kernel fw.Backend) {
	t.Helper()
	_, _, paused := d.pauses.at(time.Now())
	var err error
	if d.fw, err = fw.NewSyncer(fw.SyncerConfig{Backend: kernel, Snapshot: d.state.Snapshot, Exceptions: d.exceptions, Paused: paused}); err == nil {
		d.state.Drive(d.fw)
		err = d.fw.Replace(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// counts returns the counts of the node's table.
func (d *Daemon) counts() ban.Counts { return d.state.Counts() }

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// entry returns what `meshban list` shows for a prefix, if anything.
func (n *node) entry(t testing.TB, prefix string) (control.ListEntry, bool) {
	t.Helper()
	var found control.ListEntry
	ok := false
	err := n.List(t.Context(), false, func(e control.ListEntry) error {
		if e.Prefix.Prefix.String() == prefix {
			found, ok = e, true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, ok
}

// enforces reports whether the prefix is banned and enforced on n.
func (n *node) enforces(t testing.TB, prefix string) bool {
	e, ok := n.entry(t, prefix)
	return ok && e.State == control.StateEnforced
}

// takes reports whether the prefix becomes enforced on n; the kernel has it a moment after the table.
func (n *node) takes(t testing.TB, prefix string) bool {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for !n.enforces(t, prefix) {
		select {
		case <-tick.C:
		case <-end.C:
			return false
		}
	}
	return true
}

// write appends text to the line file.
func (n *node) write(t testing.TB, text string) {
	t.Helper()
	f, err := os.OpenFile(n.cfg.Lines.File, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// lineFile returns the text of the line file.
func (n *node) lineFile(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(n.cfg.Lines.File)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// ban bans addresses by request.
func (n *node) ban(t testing.TB, length time.Duration, addrs ...string) control.BanReply {
	t.Helper()
	req := control.BanRequest{For: control.Duration(length), Source: "cli", Reason: "test"}
	for _, a := range addrs {
		req.Addrs = append(req.Addrs, netip.MustParsePrefix(a))
	}
	reply, err := n.Ban(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func TestALineOnOneNodeBansOnAll(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.write(t, "<13>Nov 22 11:02:11 root[7]: HOST 192.0.2.1 PORT 22\n")
	for _, n := range []*node{a, b} {
		until(t, n.cfg.Name+" enforces", func() bool { return n.enforces(t, "192.0.2.1/32") })
		e, _ := n.entry(t, "192.0.2.1/32")
		if len(e.Origins) != 1 || e.Origins[0] != "a" || e.Source != "line" || e.Ports != "" {
			t.Errorf("%s lists %+v, want origin a, source line, all ports", n.cfg.Name, e)
		}
		if left := time.Until(e.Until.Time); left < 29*time.Minute || left > 30*time.Minute {
			t.Errorf("%s: the ban ends in %v, want the default of 30 minutes", n.cfg.Name, left)
		}
	}
	until(t, "the line emitted on b", func() bool { return strings.Contains(b.lineFile(t), "a newbans[") })
	if got := strings.Count(b.lineFile(t), "\n"); got != 1 {
		t.Errorf("b's line file has %d lines, want the one emitted:\n%s", got, b.lineFile(t))
	}
	if got := strings.Count(a.lineFile(t), "\n"); got != 1 {
		t.Errorf("a's line file has %d lines, want the one written:\n%s", got, a.lineFile(t))
	}
}

// A node's fail2ban that reads an emitted line writes its own line about the address. If that counted as a sighting, it
// would circulate in the mesh and keep the ban alive forever.
func TestAnEchoNeitherTravelsNorExtendsNorCounts(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.write(t, "HOST 192.0.2.1 PORT 22 bantime=60 jail=sshd failures=5\n")
	until(t, "b enforces", func() bool { return b.enforces(t, "192.0.2.1/32") })
	before, _ := b.entry(t, "192.0.2.1/32")
	if before.Source != "line:sshd" || !strings.Contains(before.Reason, "5 failures") {
		t.Errorf("b lists %+v, want the jail as source and the failures as reason", before)
	}
	published := b.mesh.Stats().Published
	b.write(t, "<13>Nov 22 11:02:12 root[8]: HOST 192.0.2.1 PORT 0:65535\n")
	until(t, "the echo counted", func() bool { return b.lines.echoes.Load() == 1 })
	if after, _ := b.entry(t, "192.0.2.1/32"); !after.Until.Equal(before.Until.Time) || len(after.Origins) != 1 {
		t.Errorf("after the echo b lists %+v, want %+v", after, before)
	}
	if got := b.mesh.Stats().Published; got != published {
		t.Errorf("b published %d frames for an echo", got-published)
	}
	if s, err := b.Status(t.Context()); err != nil || s.Lines.Echoes != 1 || s.Lines.Accepted != 0 {
		t.Errorf("status counts %+v (%v), want 1 echo and nothing accepted", s.Lines, err)
	}

	// The late echo: fail2ban answers just after the operator lifted the ban.
	if _, err := a.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}}); err != nil {
		t.Fatal(err)
	}
	until(t, "b lets go", func() bool { return !b.enforces(t, "192.0.2.1/32") })
	b.write(t, "HOST 192.0.2.1 PORT 0:65535\n")
	until(t, "the late echo counted", func() bool { return b.lines.echoes.Load() == 2 })
	if b.enforces(t, "192.0.2.1/32") {
		t.Error("a late echo brought the lifted ban back")
	}
}

// If this machine's syslog daemon writes what `logger -t newbans` says, its lines look exactly like those that the
// agent emits. They used to be taken for emissions of an earlier run, and all their bans were lost.
func TestALineOfThisMachinesSyslogIsASighting(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.write(t, "Nov 22 11:02:11 "+a.hostName+" newbans[7]: HOST 192.0.2.1 PORT 22\n"+
		"Nov 22 11:02:11 elsewhere newbans[7]: HOST 192.0.2.2 PORT 22\n")
	until(t, "the own line banned", func() bool { return a.enforces(t, "192.0.2.1/32") })
	until(t, "the other an echo", func() bool { return a.lines.echoes.Load() == 1 })
	if a.enforces(t, "192.0.2.2/32") {
		t.Error("a line that a former run emitted was taken for a sighting")
	}
}

func TestUnbanLiftsEverywhereWhoeverBanned(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.ban(t, time.Hour, "192.0.2.1/32", "2001:db8::/64")
	b.ban(t, time.Hour, "192.0.2.1/32")
	until(t, "both origins known on a", func() bool { e, _ := a.entry(t, "192.0.2.1/32"); return len(e.Origins) == 2 })
	until(t, "the v6 prefix on b", func() bool { return b.enforces(t, "2001:db8::/64") })
	reply, err := b.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("203.0.113.9/32")}})
	if err != nil {
		t.Fatal(err)
	}
	if reply.Results[0].Err != nil || reply.Results[1].Err == nil || reply.Results[1].Err.Code != control.CodeNotFound {
		t.Errorf("unban = %+v, want done and not found", reply.Results)
	}
	for _, n := range []*node{a, b} {
		until(t, n.cfg.Name+" lets go", func() bool { return !n.enforces(t, "192.0.2.1/32") })
	}
	a.ban(t, time.Hour, "192.0.2.1/32")
	until(t, "a later ban counts again on b", func() bool { return b.enforces(t, "192.0.2.1/32") })
}

func TestABanEndsAtTheOriginsTimeEverywhere(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.ban(t, time.Second, "192.0.2.1/32")
	until(t, "b enforces", func() bool { return b.enforces(t, "192.0.2.1/32") })
	e, _ := a.entry(t, "192.0.2.1/32")
	for _, n := range []*node{a, b} {
		until(t, n.cfg.Name+" lets go", func() bool { return !n.enforces(t, "192.0.2.1/32") })
		if time.Now().Before(e.Until.Time) {
			t.Errorf("%s let go before %v", n.cfg.Name, e.Until)
		}
	}
}

func TestTheNeverBanListWins(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	reply := a.ban(t, time.Hour, "127.0.0.1/32")
	if err := reply.Results[0].Err; err == nil || err.Code != control.CodePolicy || err.Rule == "" {
		t.Errorf("ban of loopback = %+v, want a refusal by policy", reply.Results[0])
	}
	a.ban(t, time.Hour, "192.0.2.7/32")
	until(t, "b enforces", func() bool { return b.enforces(t, "192.0.2.7/32") })
	allow, err := b.Allow(t.Context(), control.AllowRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Reason: "office"})
	if err != nil || allow.Results[0].Err != nil {
		t.Fatalf("allow: %v %+v", err, allow)
	}
	for _, n := range []*node{a, b} {
		until(t, n.cfg.Name+" lets go", func() bool { return !n.enforces(t, "192.0.2.7/32") })
	}
	if reply := a.ban(t, time.Hour, "192.0.2.8/32"); reply.Results[0].Err == nil {
		t.Error("a banned what b allowed")
	}
	if _, err := a.Unallow(t.Context(), control.UnallowRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}); err != nil {
		t.Fatal(err)
	}
	until(t, "the ban back on b", func() bool { return b.enforces(t, "192.0.2.7/32") })
}

func TestARestartGivesEverythingBack(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	a.ban(t, time.Hour, "192.0.2.1/32", "198.51.100.0/24")
	published := a.mesh.Stats().Published
	a.write(t, "HOST 192.0.2.2 PORT 22\n")
	// The frame is signed before the ban counts.
	until(t, "the line published", func() bool { return a.mesh.Stats().Published == published+1 })
	if !a.takes(t, "192.0.2.2/32") {
		t.Error("the line was published, not taken")
	}
	digest := a.mesh.Digest()
	a.stop()
	a.write(t, "HOST 192.0.2.3 PORT 22\n")

	again := start(t, a.home, a.cfg)
	for _, prefix := range []string{"192.0.2.1/32", "198.51.100.0/24", "192.0.2.2/32"} {
		if !again.takes(t, prefix) {
			t.Errorf("%s is not banned after the restart", prefix)
		}
	}
	until(t, "the line of the time between", func() bool { return again.mesh.Stats().Published >= 1 })
	if !again.takes(t, "192.0.2.3/32") {
		t.Error("the line of the time between was published, not taken")
	}
	if again.mesh.Digest() == digest {
		t.Error("the digest did not change with the line of the time between")
	}
	if got := again.mesh.Stats().Published; got != 1 {
		t.Errorf("published %d frames after the restart, want 1: old lines were read again", got)
	}
}

func TestReloadTakesOverAndKeepsTheOldOnError(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(string(a.home), config.FileName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		a.reload <- syscall.SIGHUP
	}
	a.ban(t, time.Hour, "192.0.2.7/32")
	write("name: a\nbind: 127.0.0.1:0\nallow: [192.0.2.0/24]\n")
	until(t, "the allow list in force", func() bool { return !a.enforces(t, "192.0.2.7/32") })
	write("allow: [192.0.2.300]\n")
	until(t, "the error told", func() bool { return strings.Contains(fmt.Sprint(a.problems.list(time.Now())), "192.0.2.300") })
	if a.enforces(t, "192.0.2.7/32") {
		t.Error("a config with an error took the allow list away")
	}
	write("name: a\nbind: 127.0.0.1:0\n")
	until(t, "the allow list gone", func() bool { return a.enforces(t, "192.0.2.7/32") })
}
