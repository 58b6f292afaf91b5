//go:build linux && netns

package rig

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// holderPrefix starts argv[0] of every holder: prefix, owner's pid, name.
	holderPrefix = "meshban-test-host:"
	// scratchRoot holds the folders of all runs. /tmp is memory on many machines.
	scratchRoot = "/var/tmp"
	// scratchPrefix starts the name of every folder that a run makes there; the
	// owner's pid follows.
	scratchPrefix = "meshban-test-"
	// idleProcs exceeds the number of threads that run Go code at a time. With many more, threads that look for work
	// would compete with the agents.
	idleProcs = 8
	// memoryLimit is the memory, in bytes, from which on garbage is collected after all.
	memoryLimit = 2 << 30
)

// Main runs a test package that uses the rig: it becomes a holder if it was
// started as one, refuses to run without root, removes what killed runs left,
// runs setup (unless nil) and then the tests, and removes the scratch folder.
// The caller passes the result to os.Exit.
func Main(m *testing.M, setup func(scratch string) error) int {
	if strings.HasPrefix(os.Args[0], holderPrefix) {
		return holderMain()
	}
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "rig: tests in network namespaces need root")
		return 1
	}
	if err := Sweep(); err != nil {
		fmt.Fprintln(os.Stderr, "rig: sweep:", err)
		return 1
	}
	dir, err := os.MkdirTemp(scratchRoot, scratchPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	// The prober's thread runs Go code, so it needs a P to return from each system call, and it stops with the world.
	// Stopping the world may take long, because the agents keep other threads off the processors. So leave some Ps
	// idle, and collect no garbage.
	runtime.GOMAXPROCS(max(idleProcs, runtime.NumCPU()))
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	if setup != nil {
		if err := setup(dir); err != nil {
			fmt.Fprintln(os.Stderr, "rig:", err)
			return 1
		}
	}
	return m.Run()
}

// scratch is the folder of this run; Main sets it before any test runs.
var scratch string

// Leftovers lists holder processes and scratch folders whose owner is dead.
func Leftovers() ([]string, error) {
	pids, err := orphans()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, pid := range pids {
		out = append(out, fmt.Sprintf("process %d", pid))
	}
	dirs, err := deadScratch()
	return append(out, dirs...), err
}

// Sweep ends holders whose owner is dead, each by its pid, and removes the
// scratch folders of dead owners. Ending a holder ends everything in its host,
// because it is process 1 there.
func Sweep() error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		pids, err := orphans()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("holders %v do not end", pids)
		}
		for _, pid := range pids {
			// ESRCH: it has ended by itself, as it should.
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
				return fmt.Errorf("end holder %d: %w", pid, err)
			}
		}
		<-time.After(20 * time.Millisecond)
	}
	dirs, err := deadScratch()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// orphans lists live holders whose owner is dead.
func orphans() ([]int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, name := range all {
		line, err := os.ReadFile(name)
		if err != nil { // it ended meanwhile
			continue
		}
		rest, ok := strings.CutPrefix(string(line), holderPrefix)
		if !ok {
			continue
		}
		owner, _, _ := strings.Cut(rest, ":")
		if dead(owner) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err != nil {
				return nil, err
			}
			out = append(out, pid)
		}
	}
	return out, nil
}

func deadScratch() ([]string, error) {
	all, err := filepath.Glob(filepath.Join(scratchRoot, scratchPrefix+"[0-9]*-*"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, dir := range all {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), scratchPrefix), "-")
		if dead(owner) {
			out = append(out, dir)
		}
	}
	return out, nil
}

// dead reports whether the process with this pid, a decimal number, is gone.
func dead(pid string) bool {
	n, err := strconv.Atoi(pid)
	return err != nil || syscall.Kill(n, 0) == syscall.ESRCH
}
