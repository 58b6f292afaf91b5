//go:build darwin || freebsd

package control

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// peerOfSocket reads LOCAL_PEERCRED, unix(4): user and groups at the time of the connect. The first group is the
// effective one. The kernel reports at most 16, so a member of more groups may be refused.
func peerOfSocket(fd int) (Peer, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Peer{}, fmt.Errorf("identify the peer: %w", err)
	}
	groups := cred.Groups[:min(max(int(cred.Ngroups), 0), len(cred.Groups))]
	if len(groups) == 0 {
		return Peer{}, fmt.Errorf("identify the peer: user %d has no group", cred.Uid)
	}
	return Peer{UID: cred.Uid, GID: groups[0], Groups: groups[1:]}, nil
}
