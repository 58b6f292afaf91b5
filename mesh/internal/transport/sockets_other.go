//go:build !linux

package transport

import "net"

// growReadBuffer asks for recvBuffer; the system grants what it allows.
func growReadBuffer(udp *net.UDPConn) error { return udp.SetReadBuffer(recvBuffer) }
