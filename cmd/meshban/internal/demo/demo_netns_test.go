//go:build linux && netns

package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDemo(t *testing.T) {
	tool := filepath.Join(t.TempDir(), "meshban")
	if out, err := exec.Command("go", "build", "-tags", "urfave_cli_no_docs", "-o", tool, "../..").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Run("packets", func(t *testing.T) { t.Parallel(); withPackets(t, tool) })
	t.Run("no rights", func(t *testing.T) { t.Parallel(); withoutRights(t, tool) })
}

// look lists a machine's interfaces, rules and sets.
const look = "ip -o link | cut -d: -f2; nft list tables; ipset list -n; iptables-save -t raw | grep -v '^#'; ip netns"

// The demo drops real packets on three nodes, lets them pass again, and leaves nothing.
func withPackets(t *testing.T, tool string) {
	dir := t.TempDir()
	// In a namespace of its own, where no other test changes the network meanwhile.
	cmd := exec.Command("unshare", "--net", "sh", "-c", "{ "+look+"; } >before; "+tool+" demo && { "+look+"; } >after")
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "TMPDIR="+dir)
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("%v\n%s", time.Since(begin), out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`web1# echo "HOST 203.0.113.66 PORT 22" >> `, "203.0.113.66: dropped\n", "203.0.113.66 lifted\n", "web3 answers again, "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	for _, seen := range regexp.MustCompile(`([0-9.]+) ms after`).FindAllStringSubmatch(string(out), -1) {
		if ms, err := strconv.ParseFloat(seen[1], 64); err != nil || ms > 1000*banLimit.Seconds() {
			t.Errorf("%q: %v", seen[0], err)
		}
	}
	if n := strings.Count(string(out), " ms after"); n != 2*nodes {
		t.Errorf("%d times seen, want %d", n, 2*nodes)
	}
	before, err := os.ReadFile(filepath.Join(cmd.Dir, "before"))
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(filepath.Join(cmd.Dir, "after"))
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("the machine has now\n%s, and had\n%s", after, before)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Whoever may make no namespace sees the same without drops, and is told so.
func withoutRights(t *testing.T, tool string) {
	// Another user reaches neither the test's folder nor its program there.
	dir, err := os.MkdirTemp("/var/tmp", "meshban-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	text, err := os.ReadFile(tool)
	if err != nil {
		t.Fatal(err)
	}
	tool = filepath.Join(dir, "meshban")
	if err := os.WriteFile(tool, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "demo")
	cmd.Dir, cmd.Env = dir, []string{"TMPDIR=" + dir, "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%v\n%s", time.Since(begin), out)
	for _, want := range []string{"NOTHING IS DROPPED", "web2 has the ban, ", "web3 has lifted the ban, "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
