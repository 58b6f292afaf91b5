//go:build linux && netns

package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// holderSocket is the holder's file descriptor for requests.
	holderSocket = 3
	// maxMessage bounds one request or reply, in bytes.
	maxMessage = 128 << 10
	// hostPath is the PATH of everything that runs in a host.
	hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// request goes from the test process to a holder, one per packet. A request that starts a process carries three file
// descriptors: stdin, stdout, stderr.
type request struct {
	ID     uint64
	Setup  *hostSetup `json:",omitempty"`
	Argv   []string   `json:",omitempty"`
	Env    []string   `json:",omitempty"`
	Dir    string     `json:",omitempty"`
	Signal int        `json:",omitempty"`
	Target uint64     `json:",omitempty"` // the request that started the process to signal
	Group  bool       `json:",omitempty"` // signal the whole session
}

// reply goes back: one answers a request, and one more says that the process it started has ended.
type reply struct {
	ID   uint64
	PID  int    `json:",omitempty"`
	Err  string `json:",omitempty"`
	Exit *Exit  `json:",omitempty"`
}

// Exit is how a process ended.
type Exit struct {
	Code   int // exit code, or -1 when a signal ended it
	Signal int // the signal that ended it, or 0
}

// holder is process 1 of a host.
type holder struct {
	sendMu sync.Mutex // orders packets on the socket

	mu      sync.Mutex     // held across fork, so that an end is never seen before its start
	running map[int]uint64 // pid -> request
}

// holderMain serves requests until the socket closes because the test process
// has ended. When it returns, the kernel ends every process of the host.
func holderMain() int {
	h := &holder{running: map[int]uint64{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	unix.CloseOnExec(holderSocket)
	go func() {
		for range ended {
			h.reap()
		}
	}()
	buf := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(3*4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(holderSocket, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return 0
		}
		var req request
		if err := json.Unmarshal(buf[:n], &req); err != nil {
			return 1
		}
		h.serve(req, received(oob[:oobn]))
	}
}

// received returns the file descriptors that came with a packet.
func received(oob []byte) []int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func (h *holder) serve(req request, fds []int) {
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	switch {
	case req.Setup != nil:
		h.send(reply{ID: req.ID, Err: text(req.Setup.apply())})
	case req.Signal != 0:
		h.send(reply{ID: req.ID, Err: text(h.signal(req))})
	default:
		h.start(req, fds)
	}
}

func (h *holder) start(req request, fds []int) {
	if len(fds) != 3 || len(req.Argv) == 0 {
		h.send(reply{ID: req.ID, Err: "a start needs a command and three files"})
		return
	}
	path, err := exec.LookPath(req.Argv[0])
	if err != nil {
		h.send(reply{ID: req.ID, Err: err.Error()})
		return
	}
	files := []uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[2])}
	h.mu.Lock()
	defer h.mu.Unlock()
	pid, err := forkExec(path, req, files)
	if err != nil {
		h.send(reply{ID: req.ID, Err: fmt.Sprintf("start %q: %v", path, err)})
		return
	}
	h.running[pid] = req.ID
	h.send(reply{ID: req.ID, PID: pid})
}

// signal signals only a process that is known to run, so never a reused pid.
func (h *holder) signal(req request) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for pid, id := range h.running {
		if id != req.Target {
			continue
		}
		if req.Group {
			pid = -pid
		}
		return unix.Kill(pid, unix.Signal(req.Signal))
	}
	return unix.ESRCH
}

// reap collects every process that has ended, including those that daemons left
// behind, because process 1 inherits them.
func (h *holder) reap() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		id, ok := h.running[pid]
		if !ok {
			continue
		}
		delete(h.running, pid)
		exit := &Exit{Code: status.ExitStatus()}
		if status.Signaled() {
			exit.Signal = int(status.Signal())
		}
		h.send(reply{ID: id, Exit: exit})
	}
}

func (h *holder) send(r reply) {
	packet, err := json.Marshal(r)
	if err != nil {
		panic(err) // a struct of numbers and text always encodes
	}
	h.sendMu.Lock()
	defer h.sendMu.Unlock()
	// A failure means that the test process is gone; the reader sees that too.
	_ = unix.Sendmsg(holderSocket, packet, nil, nil, unix.MSG_NOSIGNAL)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
