//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// appDir and the line file in it belong to the hostile program.
	appDir  = "/srv/app"
	appFile = appDir + "/newbans.log"
	// hostileRSS bounds by how much the agent's peak memory may grow, in KiB, whatever is in the file.
	hostileRSS = 32 << 10
	// hostileLimit bounds how soon a good line counts once the file is sane again: the agent checks the file every
	// second, and there may be a gigabyte before the line.
	hostileLimit = 30 * time.Second
)

// lineStatus is what status says about the line file.
type lineStatus struct {
	Lines struct {
		Accepted, Ignored, Echoes uint64
		IgnoredBy                 map[string]uint64 `json:"ignored_by"`
		MisreadBy                 map[string]uint64 `json:"misread_by"`
	}
	Problems []string
}

func (n *node) lineStatus(t testing.TB) lineStatus {
	t.Helper()
	return must(jsonLines[lineStatus](n.run(t, "status", "--json")))(t)[0]
}

// peakRSS returns the agent's peak resident memory, in KiB.
func (n *node) peakRSS(t testing.TB) int {
	t.Helper()
	_, rest, _ := strings.Cut(must(n.ReadFile(fmt.Sprintf("/proc/%d/status", n.agent.PID)))(t), "VmHWM:")
	return must(strconv.Atoi(strings.Fields(rest + " none")[0]))(t)
}

// The line file is in a folder of an unprivileged program that does its worst.
func TestHostileLineFile(t *testing.T) {
	m := newMesh(t, setup{nodes: 2, before: func(n *node) {
		if n.Index != 1 {
			return
		}
		must(n.Shell(fmt.Sprintf("mkdir -p %s; touch %s; chown -R %d:%d %[1]s; mkdir -m 755 /srv/safe; echo root >/srv/safe/file; mkfifo /srv/fifo",
			appDir, appFile, nobody, nobody)))(t)
		n.configure(t, "lines: {file: "+appFile+"}")
	}})
	n, peer := m.nodes[0], m.nodes[1]
	hostile := func(t *testing.T, script string) {
		t.Helper()
		if r := n.as(t, nil, "sh", "-e", "-c", "cd "+appDir+"; "+script); r.Code != 0 {
			t.Fatalf("%s: exit code %d: %s", script, r.Code, r.Stderr)
		}
	}
	sums := func() string {
		return must(n.Shell("sha256sum /etc/shadow /etc/passwd /srv/safe/file; ls /etc /srv/safe"))(t)
	}
	before, peak := sums(), n.peakRSS(t)
	sane := func(t *testing.T) {
		t.Helper()
		src := fresh()
		pair := m.watchNode(t, src, peer, rig.ClosedPort)
		defer pair.Stop()
		start := time.Now()
		hostile(t, fmt.Sprintf("if test -L newbans.log || test ! -f newbans.log || test ! -w newbans.log; then rm -rf newbans.log; fi; printf '\\nHOST %v PORT 22\\n' >>newbans.log", src))
		took := rig.Last(must(pair.Enforced(hostileLimit))(t)).Sub(start)
		t.Logf("a good line afterwards: %v until the other node drops", took.Round(time.Millisecond))
		if e, ok := peer.entry(t, src.String()); !ok || !slices.Equal(e.Origins, []string{n.Name}) {
			t.Errorf("listed as %+v, %v", e, ok)
		}
		if now := n.peakRSS(t); now > peak+hostileRSS {
			t.Errorf("the agent took %d KiB at most before and %d now", peak, now)
		}
		eventually(t, hostileLimit, func() error {
			for _, p := range n.lineStatus(t).Problems {
				if strings.HasPrefix(p, "line file:") {
					return fmt.Errorf("the problem stays: %s", p)
				}
			}
			return nil
		})
	}
	sane(t)

	counted := func(reason string, least uint64) func(*testing.T) {
		had := n.lineStatus(t).Lines.IgnoredBy[reason]
		return func(t *testing.T) {
			t.Helper()
			eventually(t, hostileLimit, func() error {
				if got := n.lineStatus(t).Lines.IgnoredBy[reason] - had; got < least {
					return fmt.Errorf("%d lines more are counted as %q, want %d", got, reason, least)
				}
				return nil
			})
		}
	}
	t.Run("bad: 1 GB without a newline", func(t *testing.T) {
		check := counted("too long", 1)
		hostile(t, "head -c 1G /dev/zero | tr '\\0' a >>newbans.log")
		check(t)
		sane(t)
	})
	t.Run("bad: 1 GB of NUL bytes", func(t *testing.T) {
		hostile(t, "truncate -s +1G newbans.log")
		sane(t)
		hostile(t, ": >newbans.log") // frees the disk
	})
	t.Run("bad: giant words and control characters", func(t *testing.T) {
		addrs := []netip.Addr{fresh(), fresh(), fresh(), fresh()}
		long, trailing, misread := counted("too long", 1), counted("trailing text", 1), n.lineStatus(t).Lines.MisreadBy["bad option"]
		hostile(t, fmt.Sprintf(`{ head -c 3000 /dev/zero | tr '\0' A; printf ' HOST %v PORT 22 jail='; head -c 900 /dev/zero | tr '\0' J; printf '\n'
printf '\033[2J\033]0;owned\a\r HOST %v PORT 22 jail=\033[31mred failures=1\n'
printf 'HOST %v PORT 22 reason='; head -c 5000 /dev/zero | tr '\0' R; printf '\n'
printf 'HOST %[4]v PORT 22 bantime=9e99\n'
printf 'HOST %[3]v PORT 22 so there\n'
printf 'HOST %[3]v\0 PORT 22\nHOST \0%[3]v PORT 22\n'
} >>newbans.log`, addrs[0], addrs[1], addrs[2], addrs[3]))
		eventually(t, hostileLimit, func() error { // the line names an attacker, whatever else is in it
			if _, ok := n.entry(t, addrs[3].String()); !ok || n.lineStatus(t).Lines.MisreadBy["bad option"] == misread {
				return fmt.Errorf("a bad bantime: banned %v, counted as misread %v", ok, n.lineStatus(t).Lines.MisreadBy)
			}
			return nil
		})
		long(t)
		trailing(t)
		for _, args := range [][]string{{"list"}, {"list", "--json"}, {"status"}, {"why", addrs[0].String()}, {"why", addrs[1].String()}} {
			for _, node := range m.nodes {
				out := node.run(t, args...)
				if strings.ContainsFunc(out, func(r rune) bool { return r < ' ' && r != '\n' }) || strings.Contains(out, strings.Repeat("J", 60)) {
					t.Errorf("%s: %v shows what the line smuggled in: %q", node.Name, args, out)
				}
			}
		}
		if strings.ContainsRune(n.agent.Tail(50), '\033') {
			t.Error("the agent's log holds an escape of the line")
		}
		if e, ok := n.entry(t, addrs[2].String()); ok {
			t.Errorf("a bad line banned: %+v", e)
		}
		sane(t)
	})
	t.Run("bad: fake origin", func(t *testing.T) {
		src, had := fresh(), n.lineStatus(t).Lines.Echoes
		hostile(t, fmt.Sprintf("printf 'Nov 22 11:02:11 %s newbans[1]: HOST %v PORT 0\\n' >>newbans.log", peer.Name, src))
		eventually(t, hostileLimit, func() error {
			if got := n.lineStatus(t).Lines.Echoes; got != had+1 {
				return fmt.Errorf("%d echoes, want %d", got, had+1)
			}
			return nil
		})
		if e, ok := n.entry(t, src.String()); ok {
			t.Errorf("banned in another node's name: %+v", e)
		}
		sane(t)
	})
	t.Run("bad: more lines in one address", func(t *testing.T) {
		// One line gives one ban, in this node's name, of the address after the last HOST.
		src, other := fresh(), fresh()
		hostile(t, fmt.Sprintf("printf 'HOST %v PORT 22 HOST %v PORT 22\\n' >>newbans.log", other, src))
		eventually(t, hostileLimit, func() error {
			if _, ok := n.entry(t, src.String()); !ok {
				return fmt.Errorf("%v is not banned", src)
			}
			return nil
		})
		if e, ok := n.entry(t, other.String()); ok {
			t.Errorf("one line banned twice: %+v", e)
		}
		sane(t)
	})
	for _, c := range []struct{ name, script, problem string }{
		{"bad: FIFO in its place", "rm newbans.log; mkfifo newbans.log", "not a regular file"},
		{"bad: folder in its place", "rm newbans.log; mkdir newbans.log", "not a regular file"},
		{"bad: socket in its place", "rm newbans.log; perl -e 'use IO::Socket::UNIX; IO::Socket::UNIX->new(Local => \"newbans.log\", Listen => 1)'", "not a regular file"},
		{"bad: link to a device", "ln -sf /dev/zero newbans.log", "not a regular file"},
		{"bad: link to a FIFO", "ln -sf /srv/fifo newbans.log", "not a regular file"},
		{"bad: link to the passwords", "ln -sf /etc/shadow newbans.log", "symbolic link"},
		{"bad: link to another file", "ln -sf /srv/safe/file newbans.log", "symbolic link"},
		{"bad: link to nothing, in a folder of root", "ln -sf /etc/nologin newbans.log", ""},
		{"bad: link to a link", "ln -sf /srv/safe/file a; ln -sf a newbans.log", "symbolic link"},
		{"bad: link in a circle", "rm newbans.log; ln -s newbans.log newbans.log", "symbolic link"},
		{"bad: removed", "rm newbans.log", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			hostile(t, c.script)
			eventually(t, hostileLimit, func() error {
				if p := strings.Join(n.lineStatus(t).Problems, "\n"); c.problem != "" && !strings.Contains(p, c.problem) {
					return fmt.Errorf("status says %q, want %q", p, c.problem)
				}
				return nil
			})
			// A ban by the peer, which the agent would write into the file, still counts.
			src := fresh()
			pair := m.watchNode(t, src, n, rig.ClosedPort)
			start := time.Now()
			peer.run(t, "ban", src.String(), "--for", "10m")
			enforced(t, pair, start)
			during(200 * time.Millisecond) // the line is written after the kernel is updated
			if after := sums(); after != before {
				t.Errorf("files of root changed:\n%s\nwhere there was\n%s", after, before)
			}
			sane(t)
		})
	}
	t.Logf("the agent took %d KiB at most before and %d after", peak, n.peakRSS(t))
	if !n.agent.Running() {
		t.Error("the agent has ended")
	}
}
