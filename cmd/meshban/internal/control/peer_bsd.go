//go:build darwin || freebsd

package control

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// peerOfSocket asks for LOCAL_PEERCRED, unix(4): user and groups as they were when the peer connected. The first group
// is the effective one; at most 16 are told, so that a member who is in more may be taken for none.
func peerOfSocket(fd int) (Peer, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Peer{}, fmt.Errorf("ask who connects: %w", err)
	}
	groups := cred.Groups[:min(max(int(cred.Ngroups), 0), len(cred.Groups))]
	if len(groups) == 0 {
		return Peer{}, fmt.Errorf("ask who connects: user %d has no group", cred.Uid)
	}
	return Peer{UID: cred.Uid, GID: groups[0], Groups: groups[1:]}, nil
}
