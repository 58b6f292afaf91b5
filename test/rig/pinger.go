//go:build linux && netns

package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

const (
	// PingEvery is the time between two packets of a Pinger.
	PingEvery = 50 * time.Millisecond
	// PingLimit is how late an answer may be: a busy machine answers late, but a dropped packet has no answer.
	PingLimit = 15 * time.Second
	// pingPort is where the answering side of a Pinger listens.
	pingPort = 7007
)

// Pinger sends UDP packets from one host's address to another's and counts which are answered.
type Pinger struct {
	from, to string
	conn     *net.UDPConn
	done     sync.WaitGroup

	mu   sync.Mutex
	sent []ping
}

type ping struct {
	at       time.Time
	answered bool
}

func (p *Pinger) String() string { return fmt.Sprintf("ping from %s to %s", p.from, p.to) }

// Answer answers every Pinger that sends to the host's address, until the fleet closes.
func (h *Host) Answer(t testing.TB, addr netip.Addr) {
	t.Helper()
	conn, err := h.listenUDP(netip.AddrPortFrom(addr, pingPort))
	if err != nil {
		t.Fatalf("answer pings on %s: %v", h.Name, err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 64)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	})
	h.fleet.onClose(func() error {
		err := conn.Close()
		done.Wait()
		return err
	})
}

// Ping sends packets from an address of the host to one where Answer listens, until the fleet closes.
func (h *Host) Ping(t testing.TB, src, dst netip.Addr) *Pinger {
	t.Helper()
	conn, err := h.listenUDP(netip.AddrPortFrom(src, 0))
	if err != nil {
		t.Fatalf("ping from %s: %v", h.Name, err)
	}
	p := &Pinger{from: fmt.Sprintf("%v of %s", src, h.Name), to: dst.String(), conn: conn}
	stop := make(chan struct{})
	p.done.Go(p.receive)
	p.done.Go(func() { p.send(netip.AddrPortFrom(dst, pingPort), stop) })
	h.fleet.onClose(func() error {
		close(stop)
		err := conn.Close()
		p.done.Wait()
		return err
	})
	return p
}

func (h *Host) listenUDP(addr netip.AddrPort) (*net.UDPConn, error) {
	var conn *net.UDPConn
	err := h.InNet(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	return conn, err
}

func (p *Pinger) send(to netip.AddrPort, stop <-chan struct{}) {
	tick := time.NewTicker(PingEvery)
	defer tick.Stop()
	for {
		p.mu.Lock()
		word := binary.BigEndian.AppendUint32(nil, uint32(len(p.sent)))
		p.sent = append(p.sent, ping{at: time.Now()})
		p.mu.Unlock()
		_, _ = p.conn.WriteToUDPAddrPort(word, to) // an unsent packet counts as unanswered
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

func (p *Pinger) receive() {
	buf := make([]byte, 64)
	for {
		n, _, err := p.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 4 {
			continue
		}
		p.mu.Lock()
		if i := int(binary.BigEndian.Uint32(buf)); i < len(p.sent) {
			p.sent[i].answered = true
		}
		p.mu.Unlock()
	}
}

// Lost waits at most PingLimit for answers to the packets sent between from and to. It returns how many were sent, and how
// many of them were not answered.
func (p *Pinger) Lost(from, to time.Time) (sent, lost int) {
	_ = Within(PingLimit, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		sent, lost = 0, 0
		for _, s := range p.sent {
			if s.at.Before(from) || s.at.After(to) {
				continue
			}
			sent++
			if !s.answered {
				lost++
			}
		}
		if lost > 0 {
			return errors.New("not answered")
		}
		return nil
	})
	return sent, lost
}
