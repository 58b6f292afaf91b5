package fw

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// claimName is a socket in the abstract namespace, unix(7). Each network namespace has its own, just as it has its own
// sets and rules, and the kernel frees the name when its process ends, for whatever reason.
const claimName = "@meshban/firewall"

// Claim reserves this kernel's firewall for this process until release is called or the process ends. The error matches
// ErrClaimed if another agent, run by root or by this user, has it. A socket of any other user is ignored, because
// otherwise each local user could keep the firewall open; squatter then describes who holds it.
func Claim() (release func() error, squatter string, err error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: claimName, Net: "unix"})
	if err == nil {
		go hangUp(l)
		return l.Close, "", nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, "", fmt.Errorf("claim the firewall: %w", err)
	}
	owner, err := claimedBy()
	release = func() error { return nil }
	switch {
	case err != nil || int(owner.Pid) == os.Getpid(): // a living agent always answers
		return release, "", nil
	case owner.Uid == 0 || int(owner.Uid) == os.Geteuid():
		return nil, "", fmt.Errorf("%w: process %d", ErrClaimed, owner.Pid)
	}
	return release, fmt.Sprintf("process %d of user %d holds the socket %s, by which agents find one another; it is ignored, so a second agent would not be noticed",
		owner.Pid, owner.Uid, claimName), nil
}

// hangUp closes each connection at once, until the listener is closed.
func hangUp(l *net.UnixListener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_ = conn.Close()
	}
}

// claimedBy asks the kernel which process listens on the socket.
func claimedBy() (*unix.Ucred, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: claimName, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var owner *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		owner, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return owner, failed
}
