package transport

import (
	"net"
	"net/netip"
	"testing"
)

// The default bind covers both families; an IPv4 packet comes from an IPv4 address, and one can be sent.
func TestListenOnBothFamilies(t *testing.T) {
	s, err := Listen(netip.MustParseAddrPort("[::]:0"), func(what string, err error) { t.Log(what, err) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), 0)))
		if err != nil && host == "::1" {
			t.Logf("no IPv6 here: %v", err)
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		to := netip.AddrPortFrom(netip.MustParseAddr(host), s.Port())
		if _, err := conn.WriteToUDPAddrPort([]byte("x"), to); err != nil {
			t.Fatal(err)
		}
		p := <-s.PacketCh()
		if got := p.From.(*net.UDPAddr).AddrPort(); got != conn.LocalAddr().(*net.UDPAddr).AddrPort() {
			t.Errorf("%s: from %v, want %v", host, got, conn.LocalAddr())
		}
		if _, err := s.WriteTo([]byte("y"), p.From.String()); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		stream, err := net.Dial("tcp", to.String())
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		_ = stream.Close()
		_ = (<-s.StreamCh()).Close()
	}
}
