package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

// A command that takes much away asks if there is somebody to answer, and does nothing unless the answer is yes.
func TestRevokeAsks(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		args         []string
		asks, done   bool
	}{
		{"ok: yes", "y\n", nil, true, true},
		{"ok: the whole word", "YES\n", nil, true, true},
		{"bad: no", "n\n", nil, true, false},
		{"bad: nothing", "\n", nil, true, false},
		{"bad: the end of the input", "", nil, true, false},
		{"bad: something else", "web3\n", nil, true, false},
		{"ok: --yes", "n\n", []string{"--yes"}, true, true},
		{"ok: no terminal", "", nil, false, true},
		{"ok: a dry run does not ask", "y\n", []string{"--dry-run"}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			agent, dir := controltest.New(), t.TempDir()
			serveFake(t, dir, agent)
			var out, errs bytes.Buffer
			cmd := newCommand(fakeActions(), strings.NewReader(c.answer), &out, &errs)
			cmd.asks = c.asks
			code := cmd.run(t.Context(), append([]string{"--dir", dir, "revoke", "web3"}, c.args...))
			dry := len(c.args) > 0 && c.args[0] == "--dry-run"
			if done := !agent.Revoked().IsZero(); done != c.done || (code == exitDone) != (c.done || dry) {
				t.Errorf("revoked %v, exit code %d\n%s%s", done, code, &out, &errs)
			}
			if asked := strings.Contains(errs.String(), "[y/N]"); asked != (c.asks && len(c.args) == 0) {
				t.Errorf("asked: %v\n%s", asked, &errs)
			}
		})
	}
}

func TestUnbanAllAsks(t *testing.T) {
	agent, dir := controltest.New(), t.TempDir()
	serveFake(t, dir, agent)
	run := func(answer string, args ...string) (code int, errs string) {
		var out, talk bytes.Buffer
		cmd := newCommand(fakeActions(), strings.NewReader(answer), &out, &talk)
		cmd.asks = true
		code = cmd.run(t.Context(), append([]string{"--dir", dir}, args...))
		return code, talk.String()
	}
	run("", "ban", "203.0.113.7")
	if code, errs := run("n\n", "unban", "--all"); code != exitFailed || !strings.Contains(errs, "lift 1 ban on every node? [y/N]") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	if code, errs := run("y\n", "unban", "--all"); code != exitDone {
		t.Errorf("exit code %d: %s", code, errs)
	}
	if code, errs := run("", "unban", "--all", "--yes"); code != exitNotFound {
		t.Errorf("it was not lifted: exit code %d: %s", code, errs)
	}
}

// setup --remove used to ask about fail2ban even if that had never been set up.
func TestSetupAsksAboutFail2ban(t *testing.T) {
	for _, c := range []struct {
		name, args string
		empty      bool // setup has not connected fail2ban
		asks       bool
	}{
		{"ok: connect", "fail2ban", true, true},
		{"ok: take all away", "--remove", false, true},
		{"ok: take fail2ban's away", "fail2ban --remove", false, true},
		{"ok: nothing of fail2ban's is there", "--remove", true, false},
		{"ok: nor by name", "fail2ban --remove", true, false},
		{"ok: systemd alone", "systemd --remove", false, false},
	} {
		if t.Setenv("FAKE_EMPTY", ""); c.empty {
			t.Setenv("FAKE_EMPTY", "1")
		}
		var out, errs bytes.Buffer
		cmd := newCommand(fakeActions(), strings.NewReader("n\n"), &out, &errs)
		cmd.asks = true
		code := cmd.run(t.Context(), append([]string{"setup"}, strings.Fields(c.args)...))
		if asked := strings.Contains(errs.String(), "[y/N]"); asked != c.asks || (code == exitDone) == c.asks {
			t.Errorf("%s: asked %v, exit code %d\n%s", c.name, asked, code, &errs)
		}
	}
}

// A unit that hides the package's is removed only if that is what the user wants.
func TestSetupAsksAboutAHiddenUnit(t *testing.T) {
	t.Setenv("FAKE_HIDING", "/etc/systemd/system/meshban.service")
	for _, c := range []struct {
		args string
		asks bool
	}{
		{"systemd", true}, {"systemd --yes", false}, {"systemd --print", false}, {"systemd --remove", false}, {"prometheus", false},
	} {
		var out, errs bytes.Buffer
		cmd := newCommand(fakeActions(), strings.NewReader("n\n"), &out, &errs)
		cmd.asks = true
		code := cmd.run(t.Context(), append([]string{"setup"}, strings.Fields(c.args)...))
		if asked := strings.Contains(errs.String(), "remove /etc/systemd/system/meshban.service, "); asked != c.asks || (code == exitDone) == c.asks {
			t.Errorf("setup %s: asked %v, exit code %d\n%s", c.args, asked, code, &errs)
		}
	}
}

// serveFake serves an agent in a folder until the test ends.
func serveFake(t *testing.T, dir string, agent control.Agent) {
	t.Helper()
	s, err := control.NewServer(control.ServerConfig{Agent: agent, Path: filepath.Join(dir, control.SocketName)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
}

func TestIsKeyboard(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, f := range []*os.File{null, file} {
		if isKeyboard(f) {
			t.Errorf("%s counts as a terminal", f.Name())
		}
	}
	if isKeyboard(strings.NewReader("y\n")) {
		t.Error("something other than a file counts as a terminal")
	}
}
