//go:build linux && netns

package setup

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// box is a simulated machine for fail2ban: Debian's /etc/fail2ban, an empty /var, /run and network. The folders are
// below root, where the test reads and writes them; fail2ban sees them in their usual places.
type box struct {
	t    *testing.T
	root string
	opts Options
	f2b  *exec.Cmd // nil while fail2ban is not running
	done chan struct{}
}

// enter is the script that each process in a box starts with. $1 is the root.
const enter = `set -e
root=$1; shift
for d in etc/fail2ban run var; do mount --bind "$root/$d" "/$d"; done
exec "$@"`

// patience bounds each wait for another program.
const patience = 30 * time.Second

func newBox(t *testing.T, jails string) *box {
	t.Helper()
	b := &box{t: t, root: t.TempDir()}
	if strings.HasPrefix(b.root, "/var/") || strings.HasPrefix(b.root, "/run/") {
		t.Fatalf("the temporary folder %s would be hidden in the box", b.root)
	}
	for _, d := range []string{"run/fail2ban", "var/lib/fail2ban", "var/log", "etc/systemd"} {
		mkdir(t, filepath.Join(b.root, d))
	}
	if err := os.Symlink("/run", b.root+"/var/run"); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(b.root+fail2banDir, os.DirFS(fail2banDir)); err != nil {
		t.Fatal(err)
	}
	put(t, b.root+fail2banDir+"/jail.local", jails)
	put(t, b.root+fail2banDir+"/filter.d/app.conf", "[Definition]\nfailregex = ^\\s*app: login failed from <ADDR>$\n")
	put(t, b.root+"/var/log/auth.log", "") // Debian's only enabled jail needs it to start
	put(t, b.root+"/var/log/app.log", "")
	b.opts = node
	b.opts.Root = b.root
	b.opts.Run = func(ctx context.Context, name string, args ...string) ([]byte, error) {
		cmd := b.command(ctx, append([]string{name}, args...)...)
		return run(ctx, cmd.Args[0], cmd.Args[1:]...)
	}
	t.Cleanup(func() { b.stop() })
	return b
}

// command returns a command that runs in the box, in its own namespaces.
func (b *box) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--net", "sh", "-c", enter, "sh", b.root}, args...)...)
}

// out runs a command in the box and returns its output; it must succeed.
func (b *box) out(args ...string) string {
	b.t.Helper()
	out, err := b.command(b.t.Context(), args...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

// start starts fail2ban, which runs until stop.
func (b *box) start() {
	b.t.Helper()
	b.f2b = b.command(context.Background(), "fail2ban-server", "-xf", "start")
	b.f2b.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var talk bytes.Buffer
	b.f2b.Stdout, b.f2b.Stderr = &talk, &talk
	if err := b.f2b.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { // ends with the process; stop waits for it
		_ = cmd.Wait()
		close(done)
	}(b.f2b, b.done)
	b.eventually("fail2ban answers", func() bool {
		select {
		case <-b.done:
			b.t.Fatalf("fail2ban did not start: %s\n%s", talk.String(), b.log())
		default:
		}
		out, err := b.client("status")
		return err == nil && strings.Contains(out, "Jail list")
	})
}

// stop stops fail2ban as systemd would.
func (b *box) stop() {
	if b.f2b == nil {
		return
	}
	if err := b.f2b.Process.Signal(syscall.SIGTERM); err != nil && b.f2b.ProcessState == nil {
		b.t.Error(err)
	}
	select {
	case <-b.done:
	case <-time.After(patience):
		b.t.Error("fail2ban does not end")
		_ = b.f2b.Process.Kill()
		<-b.done
	}
	b.f2b = nil
}

func (b *box) client(args ...string) (string, error) {
	out, err := exec.Command("fail2ban-client", append([]string{"-s", b.root + "/run/fail2ban/fail2ban.sock"}, args...)...).CombinedOutput()
	return string(out), err
}

// banned returns the addresses that fail2ban shows for jail.
func (b *box) banned(jail string) []string {
	out, err := b.client("status", jail)
	if err != nil {
		b.t.Fatalf("status of %s: %v\n%s", jail, err, out)
	}
	_, list, _ := strings.Cut(out, "Banned IP list:")
	return strings.Fields(list)
}

// rules returns the kernel's rules where fail2ban runs.
func (b *box) rules(program string) string {
	b.t.Helper()
	out, err := exec.Command("nsenter", "--net", "--target", fmt.Sprint(b.f2b.Process.Pid), program, "-S").CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s -S: %v\n%s", program, err, out)
	}
	return string(out)
}

// lines returns the lines of the line file.
func (b *box) lines() []string {
	b.t.Helper()
	data, err := os.ReadFile(b.root + "/var/lib/meshban/newbans.log")
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

func (b *box) log() string {
	data, err := os.ReadFile(b.root + "/var/log/fail2ban.log")
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// stamp returns the time at the start of a log line, in syslog's format (Go's time.Stamp).
func stamp() string { return time.Now().Format(time.Stamp) }

// fail logs two failed logins from addr, just enough for a ban: with more, the count would vary.
func (b *box) fail(addr string) {
	b.t.Helper()
	b.append("/var/log/app.log", strings.Repeat(stamp()+" app: login failed from "+addr+"\n", 2))
}

func (b *box) append(path, text string) {
	b.t.Helper()
	f, err := os.OpenFile(b.root+path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		b.t.Fatal(err)
	}
}

// eventually fails unless ok becomes true.
func (b *box) eventually(what string, ok func() bool) {
	b.t.Helper()
	end := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			b.t.Fatalf("not within %s: %s\n%s", patience, what, b.log())
		}
	}
}

// line waits for want to appear in the line file.
func (b *box) line(want string) {
	b.t.Helper()
	defer func() {
		if b.t.Failed() {
			b.t.Logf("the line file has\n%s", strings.Join(b.lines(), "\n"))
		}
	}()
	b.eventually("the line "+want, func() bool { return slices.Contains(b.lines(), want) })
}

// install installs our files in the box.
func (b *box) install() Report {
	b.t.Helper()
	r, err := Install(b.t.Context(), files(b.t, Fail2ban, b.opts), b.opts)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}
