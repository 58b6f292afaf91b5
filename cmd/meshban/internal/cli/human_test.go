package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
)

func TestSpan(t *testing.T) {
	for in, want := range map[time.Duration]string{
		0: "0s", -time.Hour: "0s", 400 * time.Millisecond: "0s", 45 * time.Second: "45s", 90 * time.Second: "1m30s",
		time.Hour: "1h", 90*time.Minute + 5*time.Second: "1h30m", 7*24*time.Hour - time.Hour: "6d23h", 24 * time.Hour: "1d",
		24*time.Hour + 5*time.Minute: "1d", 59*time.Minute + 59999*time.Millisecond: "59m59s",
	} {
		if got := span(in); got != want {
			t.Errorf("%v: %q, want %q", in, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for in, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := control.Count(in); got != want {
			t.Errorf("%d: %q, want %q", in, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[uint64]string{0: "0 bytes", 1023: "1023 bytes", 1024: "1 KiB", 5<<20 - 1: "4 MiB", 3 << 40: "3 TiB", 2 << 50: "2,048 TiB"} {
		if got := size(in); got != want {
			t.Errorf("%d: %q, want %q", in, got, want)
		}
	}
}

// A reason made up by a peer must not control the operator's terminal.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"scan of ü 日本": "scan of ü 日本", "a\x1b[2Jb": "a\ufffd[2Jb", "a\nb\tc\r": "a\ufffdb\ufffdc\ufffd",
		"\u009b31m": "\ufffd31m", "\u202eevil": "\ufffdevil", "\xff": "\ufffd",
	} {
		if got := control.Printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	out := bufio.NewWriter(&b)
	tab := (&command{out: out}).newTable("A", "B", "C")
	for i := range learned + 2 {
		cell := "x"
		if i == learned+1 {
			cell = strings.Repeat("y", 100) // wider than the learned width
		}
		if err := tab.row("12345", cell, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tab.close(), out.Flush()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if lines[0] != "A      B  C" || lines[1] != "12345  x" || lines[learned+2] != "12345  "+strings.Repeat("y", 100) || len(lines) != learned+4 {
		t.Errorf("%d lines:\n%s", len(lines), b.String())
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"ok: nothing", nil, exitDone},
		{"bad: any", errors.New("x"), exitFailed},
		{"bad: interrupted", context.Canceled, exitFailed},
		{"bad: in use", fmt.Errorf("x: %w", control.ErrInUse), exitFailed},
		{"bad: failed", &control.Error{Code: control.CodeFailed}, exitFailed},
		{"bad: unknown code of a newer agent", &control.Error{Code: "novel"}, exitFailed},
		{"bad: usage", usagef("", "x"), exitUsage},
		{"bad: config", errors.Join(&config.Error{}, &config.Error{}), exitUsage},
		{"bad: the agent's config", fmt.Errorf("x: %w", node.WrongConfig(errors.Join(&config.Error{}, &config.Error{}))), exitConfig},
		{"bad: no agent", fmt.Errorf("%w on x", control.ErrNoAgent), exitNoAgent},
		{"bad: policy", &control.Error{Code: control.CodePolicy}, exitPolicy},
		{"bad: not found", &control.Error{Code: control.CodeNotFound}, exitNotFound},
		{"bad: told already", reported{control.CodePolicy}, exitPolicy},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestWorse(t *testing.T) {
	order := []control.Code{"", control.CodeNotFound, control.CodePolicy, control.CodeUsage, control.CodeFailed, "novel"}
	for i, a := range order {
		for j, b := range order {
			if got := worse(a, b); got != order[max(i, j)] {
				t.Errorf("%q and %q: %q", a, b, got)
			}
		}
	}
}

func TestTell(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"ok: told already", reported{control.CodePolicy}, ""},
		{"ok: with rule and hint", &control.Error{Code: control.CodePolicy, Message: "no", Rule: "r", Hint: "h"},
			"meshban: error: no (rule: r)\nmeshban: hint: h\n"},
		{"ok: wrapped", fmt.Errorf("join: %w", usagef("h", "no")), "meshban: error: join: no\nmeshban: hint: h\n"},
		{"ok: several", errors.Join(errors.New("a"), errors.New("b")), "meshban: error: a\nmeshban: error: b\n"},
		{"ok: interrupted", fmt.Errorf("x: %w", context.Canceled), "meshban: error: interrupted\n"},
		{"ok: on a read-only file system", fmt.Errorf("lock: %w", &fs.PathError{Op: "open", Path: "/s/lock", Err: syscall.EROFS}),
			"meshban: error: lock: open /s/lock: read-only file system\n" +
				"meshban: hint: the file system is mounted read-only: `findmnt -T /s` names it; Linux does that after an error, see `dmesg`\n"},
		{"ok: on a full disk", &fs.PathError{Op: "write", Path: "/s/x", Err: syscall.ENOSPC},
			"meshban: error: write /s/x: no space left on device\nmeshban: hint: make room on the file system: `df -h /s`\n"},
		{"bad: escape codes", errors.New("a\x1b[1m"), "meshban: error: a\ufffd[1m\n"},
	} {
		var b strings.Builder
		if tell(&b, c.err, ""); b.String() != c.want {
			t.Errorf("%s: %q, want %q", c.name, b.String(), c.want)
		}
	}
}

func TestProgress(t *testing.T) {
	var b strings.Builder
	now := exportTime
	p := newProgress(&command{err: &b, isTerm: true, now: func() time.Time { return now }}, 1000)
	p.at(1234, 500)
	p.at(1235, 501) // too soon
	now = now.Add(progressEvery)
	p.at(2000, 2000) // the file has grown meanwhile
	p.clear()
	p.clear()
	const want = "\r\x1b[K1,234 addresses banned, 50 %\r\x1b[K2,000 addresses banned, 100 %\r\x1b[K"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	silent := newProgress(&command{err: &b, now: time.Now}, 0)
	silent.at(1, 1)
	silent.clear()
	if b.String() != want {
		t.Error("progress where no terminal is")
	}
}

func TestStateDir(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/xdg")
	t.Setenv("HOME", "/home/u")
	want := systemDir
	if os.Geteuid() != 0 {
		want = "/xdg/meshban"
	}
	if got, err := stateDir(""); got != want || err != nil {
		t.Errorf("default: %q, %v, want %q", got, err, want)
	}
	t.Chdir("/")
	if got, err := stateDir("x"); got != "/x" || err != nil {
		t.Errorf("relative: %q, %v", got, err)
	}
}

// audit.jsonl names a revoked node by its whole id, which audit shortens.
func TestAuditShortensIDs(t *testing.T) {
	id := strings.Repeat("0a", 16)
	if got := auditWhy(control.AuditEntry{Reason: "web3 (" + id + ") stolen", Lost: 2}); got != "web3 (0a0a0a0a) stolen (2 changes before this one were not recorded)" {
		t.Errorf("%q", got)
	}
}
