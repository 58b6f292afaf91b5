//go:build linux && netns

package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startLimit bounds the creation of a host and every answer of its holder.
const startLimit = time.Minute

// Host is one machine of a Fleet. Its methods may be called from several
// goroutines.
type Host struct {
	Name string

	fleet  *Fleet
	holder *exec.Cmd
	socket *os.File
	ended  chan struct{} // closed by the reader when the holder is gone

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan reply // one answer each; buffered, so the reader never waits
	procs   map[uint64]*Proc      // running
	daemons []*Proc               // all that StartDaemon started, kept for their logs

	enter []string // of a machine (see Boot): the start of every command line
	top   string   // of a machine: its root
}

// newHost makes the namespaces and the holder in them.
func newHost(f *Fleet, name string, setup hostSetup) (*Host, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "holder"), os.NewFile(uintptr(fds[1]), "rig")
	defer theirs.Close()
	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{holderPrefix + strconv.Itoa(os.Getpid()) + ":" + name},
		Env:        []string{"PATH=" + hostPath, "GOMAXPROCS=2"},
		ExtraFiles: []*os.File{theirs},
		Stderr:     os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{
			Setsid: true,
			Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
				unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		},
	}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start holder of %s: %w", name, err)
	}
	h := &Host{
		Name: name, fleet: f, holder: cmd, socket: ours, ended: make(chan struct{}),
		waiting: map[uint64]chan reply{}, procs: map[uint64]*Proc{},
	}
	go h.read()
	if _, err := h.ask(request{Setup: &setup}, nil, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("set up %s: %w", name, err), h.close())
	}
	return h, nil
}

// close ends the holder and everything in the host with it. It returns once the
// process is collected, so its namespaces are gone.
func (h *Host) close() error {
	if err := unix.Shutdown(int(h.socket.Fd()), unix.SHUT_RDWR); err != nil {
		return err
	}
	<-h.ended
	stuck := time.AfterFunc(startLimit, func() { h.holder.Process.Kill() })
	defer stuck.Stop()
	err := h.holder.Wait()
	h.socket.Close()
	if err != nil {
		return fmt.Errorf("holder of %s: %w", h.Name, err)
	}
	return nil
}

// read passes every packet of the holder to the request or process that it is about.
func (h *Host) read() {
	defer close(h.ended)
	buf := make([]byte, maxMessage)
	for {
		n, err := unix.Read(int(h.socket.Fd()), buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		var r reply
		if err != nil || n == 0 || json.Unmarshal(buf[:n], &r) != nil {
			h.drop()
			return
		}
		h.mu.Lock()
		if r.Exit != nil {
			p := h.procs[r.ID]
			delete(h.procs, r.ID)
			h.mu.Unlock()
			p.finish(*r.Exit)
			continue
		}
		answer := h.waiting[r.ID]
		delete(h.waiting, r.ID)
		h.mu.Unlock()
		if answer != nil {
			answer <- r
		}
	}
}

// drop tells every waiter that the holder is gone.
func (h *Host) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.procs {
		p.finish(Exit{Code: -1, Signal: int(unix.SIGKILL)})
	}
	for _, answer := range h.waiting {
		answer <- reply{Err: "the holder is gone"}
	}
	h.procs, h.waiting = map[uint64]*Proc{}, map[uint64]chan reply{}
}

// ask sends a request and waits for its answer. If the request starts a process, p is registered for it before it can
// end; otherwise p is nil.
func (h *Host) ask(req request, files []*os.File, p *Proc) (reply, error) {
	answer := make(chan reply, 1)
	h.mu.Lock()
	h.next++
	req.ID = h.next
	h.waiting[req.ID] = answer
	if p != nil {
		p.id = req.ID
		h.procs[req.ID] = p
	}
	err := h.sendLocked(req, files)
	h.mu.Unlock()
	if err != nil {
		return reply{}, fmt.Errorf("ask the holder of %s: %w", h.Name, err)
	}
	select {
	case r := <-answer:
		if r.Err != "" {
			return r, errors.New(r.Err)
		}
		return r, nil
	case <-time.After(startLimit):
		return reply{}, fmt.Errorf("the holder of %s does not answer", h.Name)
	}
}

func (h *Host) sendLocked(req request, files []*os.File) error {
	packet, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if len(packet) > maxMessage {
		return fmt.Errorf("request of %d bytes", len(packet))
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	err = unix.Sendmsg(int(h.socket.Fd()), packet, oob, nil, unix.MSG_NOSIGNAL)
	runtime.KeepAlive(files)
	return err
}

// Path returns the path at which the test process sees the host's file or
// folder p. p must be absolute and must not lead through an absolute symbolic
// link (/var/run), which would resolve in the machine's own tree.
func (h *Host) Path(p string) string { return h.outer(filepath.Join(h.top, p)) }

// outer is Path for a path p in the holder's own tree, even if the host runs a machine.
func (h *Host) outer(p string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", h.holder.Process.Pid), p)
}

// ReadFile returns the content of the host's file p.
func (h *Host) ReadFile(p string) (string, error) {
	data, err := os.ReadFile(h.Path(p))
	return string(data), err
}

// WriteFile replaces the host's file p (mode 0644) and makes its folder.
func (h *Host) WriteFile(p, content string) error {
	if err := os.MkdirAll(filepath.Dir(h.Path(p)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(h.Path(p), []byte(content), 0o644)
}

// AppendFile adds content to the host's file p with one write(2) and returns
// the time right after it.
func (h *Host) AppendFile(p, content string) (time.Time, error) {
	f, err := os.OpenFile(h.Path(p), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	_, err = f.WriteString(content)
	return time.Now(), err
}

// InNet runs f on a thread inside the host's network namespace. Sockets that f
// opens belong to the host for as long as they are open and may be used from
// anywhere. f must open them on its own goroutine, as net's Listen and Dial do
// for a literal address.
func (h *Host) InNet(f func() error) error {
	return inNet(fmt.Sprintf("/proc/%d/ns/net", h.holder.Process.Pid), f)
}

func inNet(ns string, f func() error) error {
	return onThread(func() error {
		fd, err := os.Open(ns)
		if err != nil {
			return err
		}
		defer fd.Close()
		if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", ns, err)
		}
		return f()
	})
}

// onThread runs f on a thread that ends with it, so that no other goroutine
// ever runs on a thread in a foreign namespace or with a foreign priority.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The process's first thread never ends: Go parks it unchanged, still
			// in its namespace. While it is locked here, f gets another thread.
			defer runtime.UnlockOSThread()
			done <- onThread(f)
			return
		}
		done <- f() // still locked, so the thread ends
	}()
	return <-done
}

// Listen opens a listener inside the host.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	var l net.Listener
	err := h.InNet(func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}
