package control_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

// serve serves agent until the test ends or stop is called.
func serve(t *testing.T, agent control.Agent) (path string, stop func() error) {
	t.Helper()
	// A socket's path must be short: it cannot be below t.TempDir, whose name grows with the test's.
	dir, err := os.MkdirTemp("", "mb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, control.SocketName)
	s, err := control.NewServer(control.ServerConfig{Agent: agent, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		cancel()
		t.Fatalf("Run ended at once: %v", err)
	}
	var result error
	stopped := false
	stop = func() error {
		cancel()
		if !stopped {
			stopped = true
			result = <-ended
		}
		return result
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return path, stop
}

// eventually waits for cond.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.After(30 * time.Second); !cond(); {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within 30s: %s", what)
		}
	}
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestSocketFile(t *testing.T) {
	path, stop := serve(t, controltest.New())
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket still exists after Run: %v", err)
	}
}

func TestSecondServer(t *testing.T) {
	path, _ := serve(t, controltest.New())
	s, err := control.NewServer(control.ServerConfig{Agent: controltest.New(), Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, control.ErrInUse) {
		t.Fatalf("second Run: %v, want ErrInUse", err)
	}
	if _, err := control.NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("the first server no longer answers: %v", err)
	}
}

// A killed agent leaves its socket behind; the next one must start anyway.
func TestDeadSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	s, err := control.NewServer(control.ServerConfig{Agent: controltest.New(), Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatalf("dead socket: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestBadPath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := control.NewServer(control.ServerConfig{Agent: controltest.New(), Path: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("a regular file was taken for a socket")
	}
	if data, _ := os.ReadFile(file); string(data) != "precious" {
		t.Error("the file is gone")
	}
	for name, cfg := range map[string]control.ServerConfig{
		"bad: no agent": {Path: file},
		"bad: no path":  {Agent: controltest.New()},
		"bad: too long": {Agent: controltest.New(), Path: "/" + strings.Repeat("x", 104)},
	} {
		if _, err := control.NewServer(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// When the agent stops, a running request is still answered; a stream ends.
func TestStop(t *testing.T) {
	agent := controltest.New()
	path, stop := serve(t, agent)
	watched := make(chan error, 1)
	go func() {
		watched <- control.NewClient(path).Watch(context.Background(), func(control.Event) error { return nil })
	}()
	eventually(t, "a watcher", func() bool { return agent.Watchers() == 1 })
	begin := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("stopping took %v", d)
	}
	if err := <-watched; !errors.Is(err, control.ErrNoAgent) {
		t.Errorf("Watch after the agent's end: %v, want ErrNoAgent", err)
	}
	if n := agent.Watchers(); n != 0 {
		t.Errorf("%d handlers outlived Run", n)
	}
}

func TestStopWithHangingRequest(t *testing.T) {
	agent := controltest.New()
	agent.Hang = true
	path, stop := serve(t, agent)
	asked := make(chan error, 1)
	go func() {
		_, err := control.NewClient(path).Status(context.Background())
		asked <- err
	}()
	// The request has arrived once a watcher that came later is served.
	go func() {
		_ = control.NewClient(path).Watch(t.Context(), func(control.Event) error { return nil })
	}()
	eventually(t, "a watcher", func() bool { return agent.Watchers() == 1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-asked; err == nil {
		t.Error("a hanging request succeeded")
	}
}

func post(t *testing.T, path, url, body string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}
	resp, err := c.Post("http://meshban"+url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestRequests(t *testing.T) {
	many := `{"addrs":["192.0.2.1"` + strings.Repeat(`,"192.0.2.1"`, control.MaxAddrs) + `]}`
	path, _ := serve(t, controltest.New())
	for _, c := range []struct {
		name, url, body string
		status          int
		want            string
	}{
		{"ok: ban", "/v1/ban", `{"addrs":["192.0.2.1","2001:db8::/64"],"for":"7d12h"}`, 200, `"prefix":"2001:db8::/64"`},
		{"ok: 4-in-6 is unmapped", "/v1/ban", `{"addrs":["::ffff:192.0.2.9"]}`, 200, `"prefix":"192.0.2.9"`},
		{"ok: refused by policy within the reply", "/v1/ban", `{"addrs":["127.0.0.1"]}`, 200, `"rule":"never-ban list"`},
		{"ok: not found within the reply", "/v1/unban", `{"prefixes":["192.0.2.200"]}`, 200, `"code":"not_found"`},
		{"bad: no body", "/v1/ban", ``, 400, `"code":"usage"`},
		{"bad: no address", "/v1/ban", `{"addrs":[]}`, 400, `has no address`},
		{"bad: null address", "/v1/ban", `{"addrs":[null]}`, 400, `empty address`},
		{"bad: host bits", "/v1/ban", `{"addrs":["192.0.2.1/24"]}`, 400, `192.0.2.0/24`},
		{"bad: host name", "/v1/ban", `{"addrs":["example.org"]}`, 400, `is not an address`},
		{"bad: unknown key", "/v1/ban", `{"addrs":["192.0.2.1"],"fro":"1h"}`, 400, `fro`},
		{"bad: two objects", "/v1/ban", `{"addrs":["192.0.2.1"]}{}`, 400, `more than one`},
		{"bad: negative length", "/v1/ban", `{"addrs":["192.0.2.1"],"for":"-1h"}`, 400, `"code":"usage"`},
		{"bad: too many", "/v1/ban", many, 400, `the limit is 5000`},
		{"bad: too big", "/v1/ban", strings.Repeat(" ", control.MaxBody+1), 400, `more than 1048576 bytes`},
		{"bad: long reason", "/v1/ban", `{"addrs":["192.0.2.1"],"reason":"` + strings.Repeat("x", 201) + `"}`, 400, `reason has 201`},
		{"bad: ports", "/v1/ban", `{"addrs":["192.0.2.1"],"ports":"x"}`, 400, `is not a port list`},
		{"bad: unban has no length", "/v1/unban", `{"prefixes":["192.0.2.1"],"for":"1h"}`, 400, `unknown field \"for\"`},
		{"bad: too many uses", "/v1/invite", `{"uses":100000}`, 400, `1 to 1000`},
		{"bad: token for too long", "/v1/invite", `{"for":"31d"}`, 400, `at most 30d`},
		{"bad: no such request", "/v1/nothing", `{}`, 404, `not found`},
		{"bad: wrong method", "/v1/status", `{}`, 405, `Not Allowed`},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := post(t, path, c.url, c.body)
			if status != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%d %s, want %d with %q", status, body, c.status, c.want)
			}
		})
	}
}

func TestTooManyWatchers(t *testing.T) {
	agent := controltest.New()
	path, _ := serve(t, agent)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, control.MaxWatchers)
	for range control.MaxWatchers {
		go func() {
			ended <- control.NewClient(path).Watch(ctx, func(control.Event) error { return nil })
		}()
	}
	eventually(t, "all watchers", func() bool { return agent.Watchers() == control.MaxWatchers })
	err := control.NewClient(path).Watch(ctx, func(control.Event) error { return nil })
	if e := control.AsError(err); e == nil || !strings.Contains(e.Message, "already watching") {
		t.Errorf("one watcher too many: %v", err)
	}
	if _, err := control.NewClient(path).Status(ctx); err != nil {
		t.Errorf("the watchers block other commands: %v", err)
	}
	cancel()
	for range control.MaxWatchers {
		if err := <-ended; err != nil {
			t.Errorf("Watch after cancel: %v", err)
		}
	}
	eventually(t, "no watcher left", func() bool { return agent.Watchers() == 0 })
}
