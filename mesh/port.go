package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// CheckPort returns an error if another program uses the port.
func CheckPort(bind netip.AddrPort) error {
	if bind.Port() == 0 {
		return nil // any free port
	}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(bind))
	if err == nil {
		defer tcp.Close()
		var udp *net.UDPConn
		if udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(bind)); err == nil {
			defer udp.Close()
		}
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("open the mesh port: another program has it, and `ss -lntup` says which: %w", err)
	}
	return nil // other errors may be temporary; Run reports them
}
