//go:build linux && netns

package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// runLimit bounds a command that is run to its end.
	runLimit = 5 * time.Minute
	// stopLimit bounds how long a daemon may take to obey SIGTERM.
	stopLimit = time.Minute
	// maxOutput bounds how much of a process's output is read back, in bytes.
	maxOutput = 64 << 20
	// tick is the unit of processor times in /proc: proc_stat(5), on every architecture that Go knows.
	tick = 10 * time.Millisecond
)

// Cmd says what to run in a host.
type Cmd struct {
	Argv  []string
	Env   []string // added to PATH, HOME and LANG
	Dir   string   // default /root
	Stdin string
}

// Proc is a process in a host.
type Proc struct {
	PID int // inside the host

	host   *Host
	name   string
	id     uint64
	stdout *os.File
	stderr *os.File
	done   chan struct{} // closed by finish
	exit   Exit          // set before done is closed
}

// Result is a command that has ended.
type Result struct {
	Stdout, Stderr string
	Exit
}

// memory returns an unnamed file that exists in memory alone.
func memory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Start starts a command. Its output goes to files in memory: see Stdout, Log.
func (h *Host) Start(c Cmd) (*Proc, error) {
	var files []*os.File
	for _, name := range []string{"stdin", "stdout", "stderr"} {
		f, err := memory(name)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	defer files[0].Close()
	if _, err := files[0].WriteString(c.Stdin); err != nil {
		return nil, err
	}
	if _, err := files[0].Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	p := &Proc{
		host: h, name: strings.Join(c.Argv, " "), stdout: files[1], stderr: files[2],
		done: make(chan struct{}),
	}
	env := append([]string{"PATH=" + hostPath, "HOME=/root", "LANG=C.UTF-8"}, c.Env...)
	argv := append(slices.Clone(h.enter), c.Argv...)
	r, err := h.ask(request{Argv: argv, Env: env, Dir: c.Dir}, files, p)
	if err != nil {
		h.mu.Lock()
		delete(h.procs, p.id)
		h.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	p.PID = r.PID
	return p, nil
}

// finish is called once, by the host's reader.
func (p *Proc) finish(e Exit) {
	p.exit = e
	close(p.done)
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended.
func (p *Proc) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait waits at most limit for the process to end.
func (p *Proc) Wait(limit time.Duration) (Exit, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.exit, nil
	case <-timer.C:
		return Exit{}, fmt.Errorf("%s: %q has not ended after %v", p.host.Name, p.name, limit)
	}
}

// Signal sends a signal to the process alone.
func (p *Proc) Signal(s unix.Signal) error {
	_, err := p.host.ask(request{Target: p.id, Signal: int(s)}, nil, nil)
	return err
}

// Stop sends SIGTERM and waits for the process to end.
func (p *Proc) Stop() (Exit, error) {
	if err := p.Signal(unix.SIGTERM); err != nil && p.Running() {
		return Exit{}, err
	}
	return p.Wait(stopLimit)
}

// Kill sends SIGKILL and waits for the process to end. If group is set, what the
// process started ends too.
func (p *Proc) Kill(group bool) error {
	_, err := p.host.ask(request{Target: p.id, Signal: int(unix.SIGKILL), Group: group}, nil, nil)
	if err != nil && p.Running() {
		return err
	}
	_, err = p.Wait(stopLimit)
	return err
}

// Stdout returns what the process has written to standard output so far.
func (p *Proc) Stdout() string { return contents(p.stdout) }

// Stderr returns what the process has written to standard error so far.
func (p *Proc) Stderr() string { return contents(p.stderr) }

// contents reads at offsets: the file position belongs to the writers.
func contents(f *os.File) string {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxOutput))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Run runs a command to its end. An exit code other than 0 is no error; a command
// that cannot start, or runs longer than runLimit, is one.
func (h *Host) Run(argv ...string) (Result, error) { return h.RunCmd(Cmd{Argv: argv}) }

// RunCmd is Run for a Cmd.
func (h *Host) RunCmd(c Cmd) (Result, error) {
	p, err := h.Start(c)
	if err != nil {
		return Result{}, err
	}
	defer p.stdout.Close()
	defer p.stderr.Close()
	exit, err := p.Wait(runLimit)
	if err != nil {
		return Result{}, errors.Join(err, p.Kill(true), errors.New(p.Stderr()))
	}
	return Result{Stdout: p.Stdout(), Stderr: p.Stderr(), Exit: exit}, nil
}

// Do runs a command that must succeed, and returns its standard output.
func (h *Host) Do(argv ...string) (string, error) {
	r, err := h.Run(argv...)
	if err != nil {
		return "", err
	}
	if r.Code != 0 {
		return r.Stdout, fmt.Errorf("%s: %q: exit code %d, signal %d: %s",
			h.Name, argv, r.Code, r.Signal, strings.TrimSpace(r.Stderr+r.Stdout))
	}
	return r.Stdout, nil
}

// Shell runs a script with sh -e; it must succeed.
func (h *Host) Shell(script string) (string, error) { return h.Do("sh", "-e", "-c", script) }

// StartDaemon starts a command whose log is shown when the test fails, and
// waits until ready returns nil. A daemon that ends before that is an error.
func (h *Host) StartDaemon(c Cmd, limit time.Duration, ready func(p *Proc) error) (*Proc, error) {
	p, err := h.Start(c)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.daemons = append(h.daemons, p)
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err = Poll(ctx, func() error {
		if !p.Running() {
			return nil
		}
		return ready(p)
	})
	if err == nil && !p.Running() {
		err = fmt.Errorf("it ended with code %d, signal %d", p.exit.Code, p.exit.Signal)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: start %q: %w\n%s", h.Name, p.name, err, p.Tail(20))
	}
	return p, nil
}

// Tail returns the last lines of what the process wrote, stderr after stdout.
func (p *Proc) Tail(lines int) string {
	all := strings.Split(strings.TrimSpace(p.Stdout()+"\n"+p.Stderr()), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// Usage is what a process uses of processor and memory.
type Usage struct {
	CPU time.Duration // user and system time, in steps of 10 ms
	PSS int64         // bytes; pages shared with other processes count in part
	RSS int64         // bytes
}

// Usage reads the process's usage from the kernel.
func (p *Proc) Usage() (Usage, error) {
	dir := p.host.Path("/proc/" + strconv.Itoa(p.PID))
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Usage{}, err
	}
	// Field 2 is the command in parentheses; it may contain blanks: proc_pid_stat(5).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return Usage{}, fmt.Errorf("short %s/stat", dir)
	}
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Usage{}, err
		}
		ticks += n
	}
	u := Usage{CPU: time.Duration(ticks) * tick}
	rollup, err := os.ReadFile(dir + "/smaps_rollup")
	if err != nil {
		return Usage{}, err
	}
	for line := range strings.Lines(string(rollup)) {
		name, rest, _ := strings.Cut(line, ":")
		kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch name {
		case "Pss":
			u.PSS = kb << 10
		case "Rss":
			u.RSS = kb << 10
		}
	}
	return u, nil
}

// Stolen returns the processor time that this virtual machine wanted while its hypervisor gave the processor to
// others.
func Stolen() (time.Duration, error) {
	const file, column = "/proc/stat", 8 // of the line of all processors: its name, then user, nice, system, idle, iowait, irq, softirq, steal
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) <= column {
		return 0, fmt.Errorf("%s: unexpected first line %q", file, line)
	}
	ticks, err := strconv.ParseUint(fields[column], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return time.Duration(ticks) * tick, nil
}
