//go:build linux && netns

package fw

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// listener is a port of the node, UDP and TCP, IPv4 and IPv6. It records the number in each datagram and counts them.
type listener struct {
	udp *net.UDPConn
	tcp net.Listener

	mu    sync.Mutex
	seen  map[uint64]bool
	count map[netip.Addr]int
}

// listen opens a port on the node, once.
func (r *rig) listen(port uint16) *listener {
	r.tb.Helper()
	if l := r.ports[port]; l != nil {
		return l
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
	if err != nil {
		r.tb.Fatal(err)
	}
	_ = udp.SetReadBuffer(8 << 20)
	tcp, err := net.Listen("tcp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		r.tb.Fatal(err)
	}
	l := &listener{udp: udp, tcp: tcp, seen: map[uint64]bool{}, count: map[netip.Addr]int{}}
	r.ports[port] = l
	var tasks sync.WaitGroup
	tasks.Go(l.receive)
	tasks.Go(l.echo)
	r.tb.Cleanup(func() {
		_ = udp.Close()
		_ = tcp.Close()
		tasks.Wait()
	})
	return l
}

func (l *listener) receive() {
	buf := make([]byte, 64)
	for {
		n, from, err := l.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		l.mu.Lock()
		l.count[from.Addr().Unmap()]++
		if n >= 8 {
			l.seen[binary.BigEndian.Uint64(buf)] = true
		}
		l.mu.Unlock()
	}
}

// echo sends back what each TCP connection sends.
func (l *listener) echo() {
	for {
		conn, err := l.tcp.Accept()
		if err != nil {
			return
		}
		go func() { // ends with its connection, which ends with the attacker's side or the namespace
			defer conn.Close()
			buf := make([]byte, 64)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				if _, err := conn.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

func (l *listener) saw(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[id]
}

// datagrams returns how many datagrams came from an address.
func (l *listener) datagrams(from netip.Addr) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count[from]
}

// udpReaches sends one datagram from src to a port of the node and reports whether it arrived. A second one, from an
// address that is never banned, follows on the same path: once it is there, the first is there too or never comes.
func (r *rig) udpReaches(src string, port uint16) bool {
	r.tb.Helper()
	l := r.listen(port)
	from, to, control := netip.MustParseAddr(src), netip.MustParseAddr(node4), netip.MustParseAddr(attack4)
	if from.Is6() {
		to, control = netip.MustParseAddr(node6), netip.MustParseAddr(attack6)
	}
	r.sent += 2
	probe, follower := r.sent, r.sent+1
	send := func(from netip.Addr, id uint64) {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
		if err != nil {
			r.tb.Error(err)
			return
		}
		defer conn.Close()
		if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, id)); err != nil {
			r.tb.Error(err)
		}
	}
	r.onAttacker(func() {
		send(from, probe)
		send(control, follower)
	})
	eventually(r.tb, patience, "the datagram that follows "+src, func() bool { return l.saw(follower) })
	return l.saw(probe)
}

const (
	// tcpTimeout is how long a connection may be silent until it counts as cut; an answer takes less than 1 ms.
	tcpTimeout = 300 * time.Millisecond
	// dialTries is how many attempts in a row must be unanswered to count as dropped, because the machine may stand
	// still during one.
	dialTries = 3
)

// tcpReaches opens a connection from src to a port of the node and reports whether that succeeded.
func (r *rig) tcpReaches(src string, port uint16) bool {
	r.tb.Helper()
	r.listen(port)
	conn, err := r.dial(src, port)
	if err == nil {
		_ = conn.Close()
		return true
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return false
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		r.tb.Fatal(err)
	}
	return true
}

func (r *rig) dial(src string, port uint16) (conn net.Conn, err error) {
	to := node4
	if strings.Contains(src, ":") {
		to = node6
	}
	r.onAttacker(func() {
		d := net.Dialer{Timeout: tcpTimeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(src)}}
		for range dialTries {
			conn, err = d.DialContext(context.Background(), "tcp", net.JoinHostPort(to, strconv.Itoa(int(port))))
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
		}
	})
	return conn, err
}

// want checks that datagrams from src reach each of the ports, or that none does.
func (r *rig) want(reach bool, src string, ports ...uint16) {
	r.tb.Helper()
	if len(ports) == 0 {
		ports = []uint16{22}
	}
	for _, port := range ports {
		if got := r.udpReaches(src, port); got != reach {
			r.tb.Errorf("from %s to port %d: reaches = %v, want %v", src, port, got, reach)
		}
	}
}
