//go:build linux && netns

package rig

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// leftOf lists what is still there of a process's run: holders, and folders.
func leftOf(owner int) ([]string, error) {
	var out []string
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, name := range all {
		line, err := os.ReadFile(name)
		if err == nil && strings.HasPrefix(string(line), holderPrefix+strconv.Itoa(owner)+":") {
			out = append(out, name)
		}
	}
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), scratchPrefix+strconv.Itoa(owner)+"-*", "fleet-*"))
	return append(out, dirs...), err
}

// namespaces returns the namespaces of every process of the machine.
func namespaces() (map[string]bool, error) {
	all, err := filepath.Glob("/proc/[0-9]*/ns/*")
	seen := map[string]bool{}
	for _, link := range all {
		if target, err := os.Readlink(link); err == nil { // it may have ended
			seen[target] = true
		}
	}
	return seen, err
}

func TestCloseLeavesNothing(t *testing.T) {
	f := must(Build(Options{Nodes: 3}))(t)
	p := f.Prober(t)
	must(p.WatchAll(AttackNets[0].Addr().Next()))(t)
	var ours []string
	for _, h := range f.hosts {
		must(h.Start(Cmd{Argv: []string{"sh", "-c", "sleep 1000 & exec sleep 1001"}}))(t)
		must(h.Do("sh", "-c", "setsid sleep 1002 </dev/null >/dev/null 2>&1 &"))(t)
		links := must(filepath.Glob(fmt.Sprintf("/proc/%d/ns/*", h.holder.Process.Pid)))(t)
		for _, link := range links {
			switch filepath.Base(link) {
			case "net", "mnt", "pid", "uts", "ipc":
				ours = append(ours, must(os.Readlink(link))(t))
			}
		}
	}
	if len(ours) != 5*len(f.hosts) {
		t.Fatalf("namespaces: %v", ours)
	}
	check(t, f.Close())
	if left := must(leftOf(os.Getpid()))(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	seen := must(namespaces())(t)
	for _, ns := range ours {
		if seen[ns] {
			t.Errorf("a process is still in %s", ns)
		}
	}
	mounts := must(os.ReadFile("/proc/self/mountinfo"))(t)
	if strings.Contains(string(mounts), scratchPrefix) {
		t.Errorf("mounts of ours on the machine:\n%s", mounts)
	}
	links := must(exec.Command("ip", "-o", "link").Output())(t)
	for _, name := range []string{"mesh", "probe", "p1", "m1"} {
		if strings.Contains(string(links), " "+name+":") || strings.Contains(string(links), " "+name+"@") {
			t.Errorf("interfaces of ours on the machine:\n%s", links)
		}
	}
}

// builderEnv makes TestBuildAndHang build a fleet and wait to be killed.
const builderEnv = "MESHBAN_TEST_BUILD_AND_HANG"

// TestBuildAndHang is the other process of TestKilledOwner.
func TestBuildAndHang(t *testing.T) {
	if os.Getenv(builderEnv) == "" {
		return
	}
	f := New(t, Options{Nodes: 2})
	must(f.Nodes[0].Start(Cmd{Argv: []string{"sleep", "1000"}}))(t)
	fmt.Println("built")
	select {}
}

// A run that was ended with SIGKILL left its holders and its folder behind.
func TestKilledOwner(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestBuildAndHang$")
	cmd.Env = append(os.Environ(), builderEnv+"=1")
	out := must(cmd.StdoutPipe())(t)
	check(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "built" {
	}
	if left := must(leftOf(cmd.Process.Pid))(t); len(left) != 4 { // attacker, n1, n2, a folder
		t.Errorf("while it runs: %v", left)
	}
	check(t, cmd.Process.Signal(syscall.SIGKILL))
	_ = cmd.Wait() // it was killed
	check(t, Sweep())
	check(t, Within(5*time.Second, func() error {
		left, err := leftOf(cmd.Process.Pid)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %v", left)
		}
		return err
	}))
	if left := must(Leftovers())(t); len(left) > 0 {
		t.Errorf("leftovers: %v", left)
	}
}
