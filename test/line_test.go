//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// emitted matches the classic form of a line for a ban that came from the mesh.
var emitted = regexp.MustCompile(`^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ newbans\[\d+\]: HOST (\S+) PORT 0$`)

func TestLineBansEverywhere(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{3, 10} {
		t.Run(fmt.Sprintf("ok: %d nodes", nodes), func(t *testing.T) {
			m := newMesh(t, setup{nodes: nodes})
			first, src := m.nodes[0], fresh()
			must(first.Rsyslog())(t) // without /dev/log, logger -s writes no line
			pairs := m.watch(t, src)
			other := m.watch(t, fresh())

			start := time.Now()
			must(first.Shell(fmt.Sprintf(`logger -s -i "HOST %v PORT 22" 2>>%s`, src, lineFile)))(t)
			enforced(t, pairs, start)
			answering(t, other)
			for _, n := range m.nodes {
				e, ok := n.entry(t, src.String())
				if !ok || e.State != "enforced" || !slices.Equal(e.Origins, []string{first.Name}) || e.Ports != "" {
					t.Errorf("%s lists %+v, %v", n.Name, e, ok)
				}
				oneLineEach(t, n, first, src)
			}
			if s := first.status(t); s.Lines.Accepted != 1 || s.Lines.Emitted != 0 || s.Lines.Echoes != 0 {
				t.Errorf("%s: lines %+v", first.Name, s.Lines)
			}

			start = time.Now()
			m.nodes[nodes-1].run(t, "unban", src.String())
			open(t, pairs, start, banLimit)
			for _, n := range m.nodes {
				if e, ok := n.entry(t, src.String()); ok {
					t.Errorf("%s still lists %+v", n.Name, e)
				}
			}

			// The same by command; the ban ends on every node at its time.
			const length = 6 * time.Second
			start = time.Now()
			m.nodes[1].run(t, "ban", src.String(), "--for", length.String())
			ended := time.Now()
			silent := start.Add(enforced(t, pairs, start))
			letGo(t, pairs, silent, start, ended, length)
		})
	}
}

// oneLineEach checks that a ban that began with one line on first has exactly one
// line on n, in the classic form unless n is first.
func oneLineEach(t *testing.T, n, first *node, src netip.Addr) {
	t.Helper()
	var lines []string
	eventually(t, banLimit, func() error {
		if lines = n.lines(t, src); len(lines) == 0 {
			return fmt.Errorf("%s: no line about %v", n.Name, src)
		}
		return nil
	})
	if len(lines) != 1 {
		t.Errorf("%s has %d lines: %q", n.Name, len(lines), lines)
	}
	if n == first {
		return
	}
	got := emitted.FindStringSubmatch(lines[0])
	if got == nil || got[1] != src.String() {
		t.Errorf("%s emitted %q", n.Name, lines[0])
	}
	if s := n.status(t); s.Lines.Emitted != 1 || s.Lines.Accepted != 0 || s.Lines.Echoes != 0 {
		t.Errorf("%s: lines %+v", n.Name, s.Lines)
	}
}

func TestBurstLosesNothing(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	const burst = 50
	var watched []rig.Pairs
	text := ""
	for i := range burst {
		src := fresh()
		text += fmt.Sprintf("HOST %v PORT 22\n", src)
		if i%10 == 9 {
			watched = append(watched, m.watch(t, src))
		}
	}
	start := must(m.nodes[0].AppendFile(lineFile, text))(t)
	for _, pairs := range watched {
		enforced(t, pairs, start)
	}
	for _, n := range m.nodes {
		eventually(t, banLimit, func() error {
			if got := n.status(t).Firewall.Enforced; got != burst {
				return fmt.Errorf("%s enforces %d of %d", n.Name, got, burst)
			}
			return nil
		})
	}
}

// The agent follows the line file through everything that programs do to log files.
func TestLineFileSurvives(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, before: func(n *node) {
		// The lines that exist at the first start are history.
		check(t, n.WriteFile(lineFile, "HOST 198.51.100.200 PORT 22\n"))
	}})
	n := m.nodes[0]
	old := m.watch(t, netip.MustParseAddr("198.51.100.200"))
	for _, c := range []struct {
		name string
		do   func(t *testing.T, line string)
	}{
		{"ok: appended", func(t *testing.T, line string) {
			must(n.AppendFile(lineFile, line))(t)
		}},
		{"ok: renamed and made anew", func(t *testing.T, line string) {
			must(n.Do("mv", lineFile, lineFile+".1"))(t)
			must(n.AppendFile(lineFile, line))(t)
		}},
		{"ok: copied and truncated", func(t *testing.T, line string) {
			must(n.Shell(fmt.Sprintf("cp %[1]s %[1]s.2; : >%[1]s", lineFile)))(t)
			must(n.AppendFile(lineFile, line))(t)
		}},
		{"ok: removed for a while", func(t *testing.T, line string) {
			must(n.Do("rm", lineFile))(t)
			during(200 * time.Millisecond)
			must(n.AppendFile(lineFile, line))(t)
		}},
		{"ok: in two pieces", func(t *testing.T, line string) {
			must(n.AppendFile(lineFile, line[:7]))(t)
			during(100 * time.Millisecond)
			must(n.AppendFile(lineFile, line[7:]))(t)
		}},
		{"ok: while the agent is down", func(t *testing.T, line string) {
			n.stop(t)
			must(n.AppendFile(lineFile, line))(t)
			n.start(t)
		}},
		{"ok: after kill -9", func(t *testing.T, line string) {
			n.kill(t)
			must(n.AppendFile(lineFile, line))(t)
			n.start(t)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := fresh()
			pairs := m.watch(t, src)
			defer pairs.Stop()
			start := time.Now()
			c.do(t, fmt.Sprintf("HOST %v PORT 22\n", src))
			enforced(t, pairs, start)
		})
	}
	answering(t, old)
}

// People edit the line file. What was lifted stays open on every node, whatever they do to the file.
func TestEditedLineFile(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	n := m.nodes[0]
	src := fresh()
	pairs := m.watch(t, src)
	rest := ""
	for range 5 {
		rest += fmt.Sprintf("Nov 22 11:02:11 web1 root[7]: HOST %v PORT 22\n", fresh())
	}
	start := must(n.AppendFile(lineFile, rest[:len(rest)/5]+fmt.Sprintf("HOST %v PORT 22\n", src)+rest[len(rest)/5:]))(t)
	enforced(t, pairs, start)
	start = time.Now()
	m.nodes[1].run(t, "unban", src.String())
	open(t, pairs, start, banLimit)
	for _, c := range []struct {
		name, command string
		down          bool
	}{
		{"ok: sed -i deletes the first line", "sed -i 1d FILE", false},
		{"ok: sed -i changes every line", "sed -i 's/PORT 22/PORT 80/' FILE", false},
		{"ok: an editor writes in place", "sed '$d' FILE >/tmp/x && cat /tmp/x >FILE", false},
		{"ok: a copy is put back", "cp FILE /tmp/x && : >FILE && cp /tmp/x FILE", false},
		{"ok: rotation keeps a tail", "cp FILE FILE.1 && tail -n 3 FILE.1 >FILE", false},
		{"ok: sed -i while the agent is down", "sed -i '$d' FILE", true},
		{"ok: a blank behind every line while the agent is down", "sed -i 's/$/ /' FILE", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.down {
				n.stop(t)
			}
			must(n.Shell(strings.ReplaceAll(c.command, "FILE", lineFile)))(t)
			if c.down {
				n.start(t)
			}
			next := fresh()
			watched := m.watch(t, next)
			defer watched.Stop()
			enforced(t, watched, must(n.AppendFile(lineFile, fmt.Sprintf("HOST %v PORT 22\n", next)))(t))
			answering(t, pairs)
		})
	}
}

// A line can set the length of its ban and name a port.
func TestLineWords(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, config: "lines:\n  ports: as-written"})
	n := m.nodes[0]
	src, all := fresh(), fresh()
	p22, p9 := m.watchNode(t, src, m.nodes[1], 22), m.watchNode(t, src, m.nodes[1], rig.ClosedPort)
	zero := m.watch(t, all)
	start := n.write(t, src, "ssh bantime=600 jail=sshd failures=5")
	enforced(t, p22, start)
	answering(t, p9)
	enforced(t, zero, n.write(t, all, "0:65535"))
	e, ok := m.nodes[1].entry(t, src.String())
	if !ok || e.Ports != "22" && e.Ports != "22/tcp" {
		t.Errorf("listed as %+v, %v", e, ok)
	}
	lasts(t, m.nodes[1], e, start, time.Now(), 10*time.Minute)
}

// A peer's ban of one port does not make a sighting on another port an echo.
func TestAnotherPortIsNoEcho(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, config: "lines:\n  ports: as-written"})
	a, b := m.nodes[0], m.nodes[1]
	src := fresh()
	p22, p80 := m.watchNode(t, src, a, 22), m.watchNode(t, src, a, 80)
	enforced(t, p22, a.write(t, src, "22 bantime=600"))
	eventually(t, banLimit, func() error {
		if got := b.lines(t, src); len(got) != 1 {
			return fmt.Errorf("%s emitted %q", b.Name, got)
		}
		return nil
	})
	enforced(t, p80, b.write(t, src, "80 bantime=600"))
}
