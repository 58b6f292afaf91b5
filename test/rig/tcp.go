//go:build linux && netns

package rig

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

const (
	// echoLimit bounds a connection attempt that should succeed, and the first answer.
	echoLimit = 30 * time.Second
)

// Dial connects from the host, with source address src, to dst.
func (h *Host) Dial(src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	return h.DialWithin(src, dst, echoLimit)
}

// DialWithin is Dial with a limit of its own, for a connection that should be dropped.
func (h *Host) DialWithin(src netip.Addr, dst netip.AddrPort, limit time.Duration) (net.Conn, error) {
	var c net.Conn
	err := h.InNet(func() (err error) {
		d := net.Dialer{Timeout: limit, LocalAddr: &net.TCPAddr{IP: src.AsSlice()}}
		c, err = d.Dial("tcp", dst.String())
		return err
	})
	return c, err
}

// Echo serves TCP echo inside the host on addr until the fleet closes.
func (h *Host) Echo(t testing.TB, addr netip.AddrPort) {
	t.Helper()
	l, err := h.Listen("tcp", addr.String())
	if err != nil {
		t.Fatalf("echo server of %s: %v", h.Name, err)
	}
	var (
		mu    sync.Mutex
		conns []net.Conn
		wg    sync.WaitGroup
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { _, _ = io.Copy(c, c) }) // ends when either side closes
		}
	})
	h.fleet.onClose(func() error {
		err := l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
		return err
	})
}

// Conn is an established connection from the attacker to an echo server.
type Conn struct {
	net.Conn
	said int
}

// Connect opens a connection from the attacker to an echo server and checks
// that it answers.
func (f *Fleet) Connect(t testing.TB, src netip.Addr, dst netip.AddrPort) *Conn {
	t.Helper()
	c, err := f.Attacker.Dial(src, dst)
	if err != nil {
		t.Fatalf("connect from %v to %v: %v", src, dst, err)
	}
	f.onClose(func() error {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	conn := &Conn{Conn: c}
	if err := conn.Ping(echoLimit); err != nil {
		t.Fatalf("echo from %v to %v: %v", src, dst, err)
	}
	return conn
}

// Ping sends a few bytes and waits for their echo. It skips late echoes of an
// earlier Ping.
func (c *Conn) Ping(limit time.Duration) error {
	c.said++
	word := fmt.Sprintf("%08d", c.said)
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	for string(got) != word {
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
	}
	return nil
}
