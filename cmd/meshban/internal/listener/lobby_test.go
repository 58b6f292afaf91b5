package listener

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
)

// arrivals is a listener whose connections come from given addresses.
type arrivals []netip.Addr

func (a *arrivals) Accept() (net.Conn, error) {
	if len(*a) == 0 {
		return nil, errors.New("no more")
	}
	c := &arrival{from: netip.AddrPortFrom((*a)[0], 1)}
	*a = (*a)[1:]
	return c, nil
}
func (a *arrivals) Close() error   { return nil }
func (a *arrivals) Addr() net.Addr { return nil }

type arrival struct {
	net.Conn
	from   netip.AddrPort
	closed int
}

func (a *arrival) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(a.from) }
func (a *arrival) Close() error         { a.closed++; return nil }

// A stranger could keep all connections that the listener takes for itself, for 5 s each.
func TestStrangersMakeRoom(t *testing.T) {
	var coming arrivals
	var dropped atomic.Uint64
	l := newLobby(&coming, &dropped)
	accept := func(addr string) *conn {
		t.Helper()
		coming = append(coming, netip.MustParseAddr(addr))
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c.(*conn)
	}
	closed := func(c *conn) int { return c.Conn.(*arrival).closed }

	other, known := accept("192.0.2.9"), accept("2001:db8::1")
	if !l.shown(known, "bouncer") {
		t.Error("a key has no connection at all")
	}
	first := accept("2001:db8::2")
	for range maxStranger - 1 {
		accept("2001:db8::3")
	}
	if closed(first) != 0 {
		t.Error("the first was closed too soon")
	}
	accept("2001:db8::ffff")
	if closed(first) != 1 || closed(other) != 0 || closed(known) != 0 {
		t.Errorf("closed: the first of a crowded /64 %d, another's %d, one with a key %d times, want 1, 0, 0", closed(first), closed(other), closed(known))
	}

	next := netip.MustParseAddr("198.18.0.0") // with many addresses
	for l.all.Len() < maxKeyless {
		next = next.Next()
		accept(next.String())
	}
	if closed(other) != 0 {
		t.Error("dropped while there was room")
	}
	accept(next.Next().String())
	if closed(other) != 1 || closed(known) != 0 || l.all.Len() != maxKeyless || dropped.Load() != 2 {
		t.Errorf("closed: the oldest %d, one with a key %d times; %d without one, %d dropped", closed(other), closed(known), l.all.Len(), dropped.Load())
	}

	for l.keys["bouncer"] < maxKeyConns {
		l.shown(accept("192.0.2.10"), "bouncer")
	}
	late := accept("192.0.2.10")
	if l.shown(late, "bouncer") || !l.shown(late, "other") || !l.shown(known, "bouncer") {
		t.Error("a key has as many connections as it likes, or its bound hits others")
	}
	if known.Close(); !l.shown(late, "bouncer") || l.keys["bouncer"] != maxKeyConns || l.keys["other"] != 0 {
		t.Errorf("connections of keys: %v", l.keys)
	}
	for l.all.Len() > 0 {
		l.all.Front().Value.(*conn).Close()
	}
	if len(l.from) != 0 {
		t.Errorf("addresses of closed connections: %v", l.from)
	}
}

// A connection is no stranger's once a key was shown on it.
func TestAKeyLeavesTheLobby(t *testing.T) {
	w := newWorld(t)
	url, _ := w.serve(t)
	w.get(t, url, bouncer)
	w.lobby.mu.Lock()
	if w.lobby.all.Len() != 0 || w.lobby.keys[apikey.Read] != 1 {
		t.Errorf("%d without a key, of keys %v", w.lobby.all.Len(), w.lobby.keys)
	}
	w.lobby.keys[apikey.Read] = maxKeyConns
	w.lobby.mu.Unlock()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url+"/v1/decisions", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", w.keys[apikey.Read])
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(r) // on a new connection
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusTooManyRequests || !resp.Close {
		t.Errorf("one connection too many: %d, kept: %v", resp.StatusCode, !resp.Close)
	}
}

// A key that was deleted learns nothing more, not even by an answer that is held.
func TestADeletedKeyIsHeldNoMore(t *testing.T) {
	w := newWorld(t)
	url, _ := w.serve(t)
	w.get(t, url, bouncer)
	status := make(chan int, 1)
	go func() {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/v1/decisions/stream", nil)
		r.Header.Set("X-Api-Key", w.keys[apikey.Read])
		r.Header.Set("User-Agent", bouncer)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			status <- 0
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	w.waitHeld(t, 1)
	if err := w.cfg.Keys.Delete(apikey.Read); err != nil {
		t.Fatal(err)
	}
	w.set("192.0.2.1/32", "cli", time.Hour)
	if got := <-status; got != http.StatusForbidden {
		t.Errorf("a deleted key is answered %d", got)
	}
}
