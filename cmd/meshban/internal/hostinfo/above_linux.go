package hostinfo

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// maxAbove bounds how many ancestors of a process are looked at.
const maxAbove = 64

// SessionAbove returns the address from which the ssh session comes in which this process runs, as the kernel knows the
// connection of the sshd process above it. The address is zero if there is no such session, or if this user may not look at
// that process: only root may.
func SessionAbove() netip.Addr { return NewSessions().above(os.Getpid()) }

func (s *Sessions) above(pid int) netip.Addr {
	for range maxAbove {
		parent := s.parent(pid)
		if p, ok := s.process(pid); ok && p.user != "" {
			all := map[int]sshd{pid: p}
			if monitor, ok := s.process(parent); ok {
				all[parent] = monitor
			}
			addr, err := s.peerOf(p, all, map[socket]netip.Addr{})
			if err != nil {
				return netip.Addr{}
			}
			return addr
		}
		if pid = parent; pid <= 1 {
			break
		}
	}
	return netip.Addr{}
}

// parent returns the parent of a process; 0 = none, or the process is gone.
func (s *Sessions) parent(pid int) int {
	status, err := os.ReadFile(s.proc(pid, "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "PPid:"); ok {
			parent, _ := strconv.Atoi(strings.TrimSpace(text))
			return parent
		}
	}
	return 0
}
