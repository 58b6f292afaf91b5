//go:build linux && netns

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// wallFile contains the offset of a node's wall clock in seconds; see testdata/wall.
const wallFile = "/root/wall"

// clockedProgram builds the program with an adjustable wall clock: Go's package time with the additions in testdata/wall.
func clockedProgram(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(program), "wall")
	built := filepath.Join(dir, "meshban")
	check(t, os.MkdirAll(dir, 0o755))
	root := strings.TrimSpace(string(must(exec.Command("go", "env", "GOROOT").Output())(t)))
	source := filepath.Join(root, "src/time/time.go")
	const now = "sec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	text := string(must(os.ReadFile(source))(t))
	if strings.Count(text, now) != 1 {
		t.Fatalf("%s: time.Now is written in another way than this test knows", source)
	}
	changed := filepath.Join(dir, "time.go")
	check(t, os.WriteFile(changed, []byte(strings.Replace(text, now, "sec, nsec, mono := runtimeNow()\n\tsec += wallOffset(mono)\n\tif mono == 0 {", 1)), 0o644))
	overlay := must(json.Marshal(map[string]any{"Replace": map[string]string{
		source: changed, filepath.Join(root, "src/time/offset.go"): must(filepath.Abs("testdata/wall/offset.go"))(t),
	}}))(t)
	check(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644))
	cmd := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-buildvcs=false", "-trimpath",
		"-tags", "urfave_cli_no_docs", "-o", built, "../cmd/meshban")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the program with a clock of its own: %v\n%s", err, out)
	}
	return built
}

// setWall sets the offset of the node's wall clock, in whole seconds.
func (n *node) setWall(t testing.TB, off time.Duration) {
	t.Helper()
	check(t, n.WriteFile(wallFile, fmt.Sprintf("%d\n", off/time.Second)))
}

// problem returns the problems of one kind in the node's status.
func (n *node) problem(t testing.TB, kind string) (all []string) {
	t.Helper()
	for _, p := range n.status(t).Problems {
		if text, ok := strings.CutPrefix(p, kind+": "); ok {
			all = append(all, text)
		}
	}
	return all
}

// A fleet of machines without a real-time clock starts in 1970. Once the clocks are set, it has the same bans as before,
// and lifted ones stay lifted, without a restart. A node whose clock is still wrong is named by itself and by the others.
func TestClocks(t *testing.T) {
	m := newFleetOf(t, 3, clockedProgram(t))
	m.join(t, setup{nodes: 3})
	lifted, stays := fresh().String(), fresh().String()
	m.nodes[1].run(t, "ban", lifted, "--for", "1h")
	m.nodes[2].run(t, "ban", stays, "--for", "1h")
	m.settled(t, "before", stays, lifted)
	m.nodes[2].run(t, "unban", lifted)
	m.settled(t, "lifted", stays)
	for _, n := range m.nodes {
		n.stop(t)
		n.setWall(t, -time.Since(time.Unix(60, 0)))
		n.start(t)
	}
	first, last := m.nodes[0], m.nodes[2]
	if _, ok := first.entry(t, stays); ok {
		t.Error("in 1970 a ban of this year counts")
	}
	for _, n := range m.nodes[:2] {
		n.setWall(t, 0)
	}
	last.setWall(t, 7*time.Minute)
	m.settled(t, "the clocks were set", stays)
	m.inSync(t, syncLimit)
	eventually(t, banLimit, func() error {
		own, named := last.problem(t, "clock"), first.problem(t, "clock")
		if !slices.ContainsFunc(own, func(p string) bool {
			return strings.HasPrefix(p, "this machine's clock is 7m ahead of that of 2 of 2 members: they take no ban from it")
		}) || !slices.ContainsFunc(named, func(p string) bool {
			return strings.HasPrefix(p, "the clock of "+last.Name+" ") && strings.Contains(p, " is 7m ahead of this machine's: this node takes no ban from it")
		}) {
			return fmt.Errorf("the node whose clock is ahead says %q, another one %q", own, named)
		}
		return nil
	})
	early := fresh().String()
	if r := last.exit(t, exitPolicy, "ban", early, "--for", "1h"); !contains(r.Stderr, "on this node, but not on ") || !contains(r.Stderr, "5 minutes ahead") {
		t.Errorf("a ban that no other node takes: %s", r.Stderr)
	}
	eventually(t, banLimit, func() error {
		if out := first.run(t, "why", early); !strings.Contains(out, "refused (from the future)") || !strings.Contains(out, "the clock of "+last.Name) {
			return fmt.Errorf("why says of the ban of the node whose clock is ahead:\n%s", out)
		}
		return nil
	})
	last.setWall(t, 0)
	eventually(t, banLimit, func() error {
		for _, n := range m.nodes {
			if p := append(n.problem(t, "clock"), n.problem(t, "certificate")...); len(p) > 0 {
				return fmt.Errorf("all clocks are right, and %s has these problems: %q", n.Name, p)
			}
		}
		return nil
	})
}

// settled waits until every node enforces exactly these addresses.
func (m *mesh) settled(t testing.TB, when string, want ...string) {
	t.Helper()
	check(t, rig.Within(banLimit, func() error {
		for _, n := range m.nodes {
			var got []string
			for _, e := range n.list(t) {
				got = append(got, strings.TrimSuffix(e.Prefix, "/32")+" "+e.State)
			}
			for _, addr := range want {
				if !slices.Contains(got, addr+" enforced") || len(got) != len(want) {
					return fmt.Errorf("%s: %s has %q, want %q enforced", when, n.Name, got, want)
				}
			}
		}
		return nil
	}))
}
