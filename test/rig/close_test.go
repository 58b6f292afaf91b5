//go:build linux && netns

package rig

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// leftOf lists the holders and folders that remain from the run of process owner.
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
	dirs, err := filepath.Glob(filepath.Join(scratchRoot, scratchPrefix+strconv.Itoa(owner)+"-*", "fleet-*"))
	return append(out, dirs...), err
}

// inside returns the processes that share a namespace of a kind with process
// pid, each with its start time, because other work on this machine reuses
// process and namespace numbers.
func inside(pid int, kind string) (map[string]string, error) {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return nil, err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	found := map[string]string{}
	for _, dir := range all {
		if target, err := os.Readlink(dir + "/ns/" + kind); err == nil && target == ns {
			found[dir] = started(dir)
		}
	}
	return found, err
}

// started returns the start time of a process, or "" if it is gone.
func started(dir string) string {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return fields[19] // field 22 in proc_pid_stat(5)
}

// openFiles lists this process's open files, except those that Go itself opens.
func openFiles() ([]string, error) {
	all, err := filepath.Glob("/proc/self/fd/*")
	var out []string
	for _, fd := range all {
		target, err := os.Readlink(fd)
		if err != nil || strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/proc/") {
			continue
		}
		out = append(out, fd+" "+target)
	}
	return out, err
}

func TestCloseLeavesNothing(t *testing.T) {
	before := must(openFiles())(t)
	f := must(Build(Options{Nodes: 3}))(t)
	p := f.Prober(t)
	must(p.WatchAll(AttackNets[0].Addr().Next()))(t)
	f.Nodes[0].Echo(t, netip.AddrPortFrom(f.Nodes[0].Probe, 7))
	f.Connect(t, AttackNets[0].Addr().Next(), netip.AddrPortFrom(f.Nodes[0].Probe, 7))
	ours := map[string]string{}
	for _, h := range f.hosts {
		must(h.Start(Cmd{Argv: []string{"sh", "-c", "sleep 1000 & exec sleep 1001"}}))(t)
		must(h.Do("sh", "-c", "setsid sleep 1002 </dev/null >/dev/null 2>&1 &"))(t)
		for _, kind := range []string{"net", "mnt", "pid", "uts", "ipc"} {
			found := must(inside(h.holder.Process.Pid, kind))(t)
			if len(found) < 2 {
				t.Errorf("%s: %d processes share its %s namespace", h.Name, len(found), kind)
			}
			maps.Copy(ours, found)
		}
	}
	check(t, f.Close())
	if left := must(leftOf(os.Getpid()))(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for dir, start := range ours {
		if start != "" && started(dir) == start {
			t.Errorf("%s is still there", dir)
		}
	}
	// Without a process, a namespace exists only as long as a mount or an open file refers to it.
	mounts := must(os.ReadFile("/proc/self/mountinfo"))(t)
	if strings.Contains(string(mounts), scratchPrefix) {
		t.Errorf("mounts of ours on the machine:\n%s", mounts)
	}
	check(t, Within(startLimit, func() error {
		after, err := openFiles()
		if err == nil && len(after) > len(before) {
			runtime.GC() // closes memory files that nothing refers to
			err = fmt.Errorf("open before: %q\nafter: %q", before, after)
		}
		return err
	}))
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

// A run ended by SIGKILL once left its holders and its folder behind.
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
	check(t, Within(startLimit, func() error {
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
