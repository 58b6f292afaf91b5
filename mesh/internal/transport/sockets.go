// Package transport is this machine's side of the network: the sockets of the mesh port, the addresses at which this machine
// can be reached, between which nodes UDP is lost (Paths), and memberlist's lines as our events (Log).
package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxUDP is the largest packet that UDP carries, in bytes.
	maxUDP = 1 << 16
	// recvBuffer is how many bytes of unread packets the kernel is asked to keep: with its usual 200 kB, a burst of a
	// hundred packets can displace a ban.
	recvBuffer = 2 << 20
	// maxUnread bounds the packets that wait for memberlist; the kernel keeps further ones.
	maxUnread = 64
	// retryMin..retryMax is the pause after a failed accept or read, for example without free descriptors.
	retryMin, retryMax = 5 * time.Millisecond, time.Second
	// bindTries is how many free ports are tried if no port is given: it must be free for both UDP and TCP.
	bindTries = 10

	// AcceptFailed and ReadFailed say what failed, to the function given to Listen.
	AcceptFailed, ReadFailed = "accept a stream: ", "read a packet: "
)

// Sockets is the mesh port as memberlist's transport. memberlist's own transport allocates and clears 64 KiB for each
// packet, more than everything else in an agent; here a packet takes only its own size.
type Sockets struct {
	udp     *net.UDPConn
	tcp     *net.TCPListener
	packets chan *memberlist.Packet // the reader sends, memberlist receives; nobody closes it
	streams chan net.Conn           // the accepter sends, transport receives; nobody closes it
	ended   chan struct{}           // closed by Shutdown
	end     sync.Once
	wg      sync.WaitGroup
	failed  func(what string, err error)
}

// Listen opens the mesh port for TCP and UDP. [::] means all addresses of both families. failed is called with
// AcceptFailed or ReadFailed and the error before a failed accept or read is tried again; it must not block.
func Listen(bind netip.AddrPort, failed func(what string, err error)) (*Sockets, error) {
	tries := 1
	if bind.Port() == 0 {
		tries = bindTries
	}
	var err error
	for range tries {
		s := &Sockets{
			packets: make(chan *memberlist.Packet, maxUnread), streams: make(chan net.Conn), ended: make(chan struct{}), failed: failed,
		}
		if err = s.open(bind); err == nil {
			s.wg.Go(s.accept)
			s.wg.Go(s.read)
			return s, nil
		}
	}
	if bind.Addr() == netip.IPv6Unspecified() { // a kernel without IPv6
		if s, err := Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), bind.Port()), failed); err == nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("open the mesh port %v: %w", bind, err)
}

func (s *Sockets) open(bind netip.AddrPort) (err error) {
	if s.tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(bind)); err != nil {
		return err
	}
	if s.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind.Addr(), s.Port()))); err == nil {
		err = growReadBuffer(s.udp)
	}
	if err != nil {
		return errors.Join(err, s.Shutdown())
	}
	return nil
}

// Port returns the port, which is the same for TCP and UDP.
func (s *Sockets) Port() uint16 { return uint16(s.tcp.Addr().(*net.TCPAddr).Port) }

// rest pauses after the n-th failure in a row, and reports whether to continue.
func (s *Sockets) rest(n int, what string, err error) bool {
	select {
	case <-s.ended:
		return false
	default:
	}
	s.failed(what, err)
	pause := time.NewTimer(min(retryMin<<min(n, 16), retryMax))
	defer pause.Stop()
	select {
	case <-s.ended:
		return false
	case <-pause.C:
		return true
	}
}

func (s *Sockets) accept() {
	for failed := 0; ; failed++ {
		conn, err := s.tcp.Accept()
		if err != nil {
			if !s.rest(failed, AcceptFailed, err) {
				return
			}
			continue
		}
		failed = -1
		select {
		case s.streams <- conn:
		case <-s.ended:
			_ = conn.Close()
			return
		}
	}
}

func (s *Sockets) read() {
	buf := make([]byte, maxUDP)
	for failed := 0; ; failed++ {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		at := time.Now()
		if err != nil {
			if !s.rest(failed, ReadFailed, err) {
				return
			}
			continue
		}
		if failed = -1; n == 0 {
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		select {
		case s.packets <- &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: at}:
		case <-s.ended:
			return
		}
	}
}

// FinalAdvertiseAddr returns its arguments unchanged: memberlist is always told its address.
func (s *Sockets) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil, 0, fmt.Errorf("advertise %q: %w", ip, err)
	}
	return addr.Unmap().AsSlice(), port, nil
}

// WriteTo sends a packet to an address with its port.
func (s *Sockets) WriteTo(b []byte, addr string) (time.Time, error) {
	return s.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends a packet; it ignores the node's name.
func (s *Sockets) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("send to %q: %w", a.Addr, err)
	}
	_, err = s.udp.WriteToUDPAddrPort(b, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	return time.Now(), err
}

// PacketCh returns the packets that arrived.
func (s *Sockets) PacketCh() <-chan *memberlist.Packet { return s.packets }

// StreamCh returns the accepted streams.
func (s *Sockets) StreamCh() <-chan net.Conn { return s.streams }

// DialTimeout opens a stream.
func (s *Sockets) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", addr, timeout)
}

// DialAddressTimeout opens a stream; it ignores the node's name.
func (s *Sockets) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return s.DialTimeout(a.Addr, timeout)
}

// Shutdown closes both sockets and waits for their readers.
func (s *Sockets) Shutdown() error {
	s.end.Do(func() { close(s.ended) })
	var errs []error
	if s.tcp != nil {
		errs = append(errs, s.tcp.Close())
	}
	if s.udp != nil {
		errs = append(errs, s.udp.Close())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}
