package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
	"github.com/meshban/meshban/cmd/meshban/internal/setup"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/fw"
)

var setupFiles = map[string]func(setup.Options) ([]setup.File, error){
	"fail2ban": setup.Fail2ban, "systemd": setup.Systemd, "prometheus": setup.Prometheus, "grafana": setup.Grafana,
}

// SetUp installs, prints or removes the files that this machine needs besides the binary.
func SetUp(ctx context.Context, opts SetupOptions) (SetupResult, error) {
	binary, err := os.Executable()
	if err != nil {
		return SetupResult{}, fmt.Errorf("find this program: %w", err)
	}
	o := setup.Options{Binary: binary, Dir: opts.Dir}
	if opts.Remove {
		o.Only = opts.What
		out, err := setupResult(setup.Remove(ctx, o))
		if err != nil {
			return out, err
		}
		return disconnectFail2ban(ctx, out)
	}
	// The line file is where this folder's agent has it.
	cfg, err := AgentOptions{Dir: opts.Dir}.config()
	if err != nil {
		return SetupResult{}, err
	}
	o.LineFile, o.Shown = cfg.Lines.File, cfg.Bans.For
	for _, f := range cfg.Files {
		o.Lists = append(o.Lists, setup.List{Name: f.Name, Format: string(f.Format)})
	}
	list, err := setupFiles[opts.What](o)
	if err != nil {
		return SetupResult{}, err
	}
	if opts.Print {
		_, err := io.WriteString(opts.Out, setup.Print(list))
		return SetupResult{}, err
	}
	r, err := setup.Install(ctx, list, o)
	out, err := setupResult(r, err)
	if err != nil || opts.What != "fail2ban" {
		return out, err
	}
	return connectFail2ban(ctx, out, len(r.Written) > 0, cfg.Lines.File)
}

// jailsWait is how long a jail may take to start again, and jailsEvery how often to look for it.
const jailsWait, jailsEvery = 10 * time.Second, 500 * time.Millisecond

// connectFail2ban has the running fail2ban load new files, and fails unless some jail then tells the mesh of its bans.
func connectFail2ban(ctx context.Context, out SetupResult, written bool, lineFile string) (SetupResult, error) {
	var client fail2ban.Client
	jails, err := client.Jails(ctx, lineFile)
	if fail2ban.Absent(err) {
		out.Done = append(out.Done, "note: "+err.Error()+"; it reads the files when it starts")
		out.Next = without(out.Next, reloadHint)
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("ask fail2ban for its jails: %w", err)
	}
	tells, silent := fail2ban.Split(jails)
	if written || len(tells) == 0 || len(silent) > 0 {
		if err := client.Reload(ctx); err != nil {
			return out, fmt.Errorf("the files are in place, but fail2ban did not accept them: %w", err)
		}
		out.Done = append(out.Done, "ran fail2ban-client reload --restart")
		out.Next = without(out.Next, reloadHint)
		for end := time.Now().Add(jailsWait); ; {
			if jails, err = client.Jails(ctx, lineFile); err != nil {
				return out, fmt.Errorf("ask fail2ban for its jails: %w", err)
			}
			tells, silent = fail2ban.Split(jails)
			if len(tells) > 0 || time.Now().After(end) {
				break
			}
			select {
			case <-ctx.Done():
				return out, ctx.Err()
			case <-time.After(jailsEvery):
			}
		}
	}
	text := strings.Join((&control.Fail2banStatus{Tells: tells, Silent: silent}).Text(), "")
	if len(tells) == 0 {
		hint := "`fail2ban-client status` lists its jails; enable one in /etc/fail2ban/jail.local and try again"
		if len(silent) > 0 {
			hint = "then `meshban status` says which jails tell"
		}
		return out, &control.Error{Code: control.CodeFailed, Message: "no jail of the running fail2ban tells the mesh of its bans: " + text, Hint: hint}
	}
	out.Done = append(out.Done, "fail2ban: "+text)
	return out, nil
}

// reloadHint is the step setup advises unless it reloads fail2ban itself.
const reloadHint = "run: fail2ban-client reload --restart"

func without(all []string, one string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return s == one })
}

// disconnectFail2ban has the running fail2ban drop removed files.
func disconnectFail2ban(ctx context.Context, out SetupResult) (SetupResult, error) {
	if !slices.Contains(out.Next, reloadHint) {
		return out, nil
	}
	var client fail2ban.Client
	err := client.Running(ctx)
	if err == nil {
		if err = client.Reload(ctx); err == nil {
			out.Done = append(out.Done, "ran fail2ban-client reload --restart")
		}
	}
	if err == nil || fail2ban.Absent(err) {
		out.Next = without(out.Next, reloadHint)
		return out, nil
	}
	return out, fmt.Errorf("the files are gone, but fail2ban did not notice: %w", err)
}

// setupResult converts a report to lines.
func setupResult(r setup.Report, err error) (SetupResult, error) {
	if err != nil {
		return SetupResult{}, err
	}
	var out SetupResult
	for _, part := range []struct {
		word  string
		paths []string
	}{{"wrote", r.Written}, {"unchanged", r.Unchanged}, {"removed", r.Removed}, {"kept", r.Kept}, {"note:", r.Notes}} {
		for _, path := range part.paths {
			out.Done = append(out.Done, part.word+" "+path)
		}
	}
	for _, command := range r.Next {
		out.Next = append(out.Next, "run: "+command)
	}
	return out, nil
}

// Teardown removes everything of ours from the kernel, such as "table inet meshban", and returns what that was. It
// refuses while an agent runs, on this folder or another one: the agent would put everything back within one check.
func Teardown(ctx context.Context, path string) (removed []string, err error) {
	dir := statedir.Dir(path)
	if _, err := os.Stat(path); err == nil {
		release, err := dir.Lock()
		if err != nil {
			return nil, lockHint(dir, err)
		}
		defer func() { _ = release() }()
	}
	if os.Geteuid() != 0 {
		return nil, &control.Error{Code: control.CodePolicy, Rule: "no permission", Message: "only root may change the firewall", Hint: "run it as root"}
	}
	release, _, err := fw.Claim()
	if errors.Is(err, fw.ErrClaimed) {
		return nil, &control.Error{Code: control.CodeFailed, Message: err.Error(), Hint: "stop that agent first; while it runs it would put everything back"}
	} else if err != nil {
		return nil, err
	}
	defer func() { _ = release() }()
	return fw.Teardown(ctx, fw.Options{})
}
