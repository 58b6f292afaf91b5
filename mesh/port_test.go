package mesh

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
)

// A port that another program uses, for TCP or UDP, is noticed before anything is done.
func TestCheckPort(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []net.Addr{tcp.Addr(), udp.LocalAddr()} {
		if err := CheckPort(netip.MustParseAddrPort(addr.String())); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s %s: %v", addr.Network(), addr, err)
		}
	}
	for _, free := range []string{"127.0.0.1:0", "192.0.2.1:7946"} {
		if err := CheckPort(netip.MustParseAddrPort(free)); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(tcp.Close(), udp.Close()); err != nil {
		t.Fatal(err)
	}
}
