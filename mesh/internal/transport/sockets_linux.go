package transport

import (
	"net"

	"golang.org/x/sys/unix"
)

// growReadBuffer asks for recvBuffer: beyond the system's limit if permitted (CAP_NET_ADMIN), otherwise up to that
// limit.
func growReadBuffer(udp *net.UDPConn) error {
	grown := false
	if raw, err := udp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			grown = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, recvBuffer) == nil
		})
	}
	if grown {
		return nil
	}
	return udp.SetReadBuffer(recvBuffer)
}
