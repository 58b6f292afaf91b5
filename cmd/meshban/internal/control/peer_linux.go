package control

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups is the kernel's bound on supplementary groups (NGROUPS_MAX).
const maxGroups = 65536

// peerOfSocket reads SO_PEERCRED and SO_PEERGROUPS, unix(7). The kernel records both when the peer connects: unlike
// /proc/PID/status, they can never describe another process or a program started later.
func peerOfSocket(fd int) (Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Peer{}, fmt.Errorf("identify the peer: %w", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return Peer{}, fmt.Errorf("identify the peer's groups: %w", err)
	}
	return Peer{UID: cred.Uid, GID: cred.Gid, PID: int(cred.Pid), Groups: groups}, nil
}

// peerGroups returns the supplementary groups. Kernels older than 4.13 do not provide them; then only GID counts.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:min(int(size/4), len(groups))], nil
		case errno == unix.ERANGE && int(size/4) > len(groups) && size/4 <= maxGroups:
			groups = make([]uint32, size/4)
		case errors.Is(errno, unix.ENOPROTOOPT):
			return nil, nil
		default:
			return nil, errno
		}
	}
}
