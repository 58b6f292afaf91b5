package listener

import (
	"container/list"
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// lobby is a listener that bounds the connections on which no key was shown, for each address and in all: the oldest
// makes room, so whoever shows a key soon gets in, however many connections strangers open.
type lobby struct {
	net.Listener
	dropped *atomic.Uint64 // counts those that made room

	mu   sync.Mutex // guards what follows
	all  list.List  // *conn without a key, the oldest first
	from map[netip.Prefix]int
	keys map[string]int // connections of each key
}

func newLobby(l net.Listener, dropped *atomic.Uint64) *lobby {
	return &lobby{Listener: l, dropped: dropped, from: make(map[netip.Prefix]int), keys: make(map[string]int)}
}

// conn is a connection of a lobby, whose lock guards place and key.
type conn struct {
	net.Conn
	lobby *lobby
	from  netip.Prefix
	place *list.Element // nil = a key was shown, or it is closed
	key   string        // the name of the key that was shown
}

// Accept implements net.Listener.
func (l *lobby) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	addr, _ := netip.ParseAddrPort(raw.RemoteAddr().String())
	c := &conn{Conn: raw, lobby: l, from: sameClient(addr.Addr().Unmap())}
	if out := l.enter(c); out != nil {
		l.dropped.Add(1)
		_ = out.Close() // nobody waits for what it says
	}
	return c, nil
}

// enter takes a connection in and returns the one that has to make room for it, if any.
func (l *lobby) enter(c *conn) (out *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	crowded := l.from[c.from] >= maxStranger
	if crowded || l.all.Len() >= maxKeyless {
		for e := l.all.Front(); e != nil && out == nil; e = e.Next() {
			if old := e.Value.(*conn); !crowded || old.from == c.from {
				out = old
			}
		}
		l.leaveLocked(out)
	}
	c.place = l.all.PushBack(c)
	l.from[c.from]++
	return out
}

// shown notes that a key was shown on a connection and reports whether the key may have one more.
func (l *lobby) shown(c *conn, key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.key == key:
		return true
	case l.keys[key] >= maxKeyConns:
		return false
	case c.key == "" && c.place == nil:
		return true // it was closed meanwhile
	}
	l.leaveLocked(c)
	c.key = key
	l.keys[key]++
	return true
}

func (l *lobby) leaveLocked(c *conn) {
	if c.place != nil {
		l.all.Remove(c.place)
		c.place = nil
		decrement(l.from, c.from)
	}
	if c.key != "" {
		decrement(l.keys, c.key)
		c.key = ""
	}
}

func decrement[K comparable](counts map[K]int, k K) {
	if counts[k]--; counts[k] == 0 {
		delete(counts, k)
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.lobby.mu.Lock()
	c.lobby.leaveLocked(c)
	c.lobby.mu.Unlock()
	return c.Conn.Close()
}

type connKey struct{}

// withConn is a server's ConnContext.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// admits reports whether the connection of a request may be one of a key.
func admits(ctx context.Context, key string) bool {
	c, ok := ctx.Value(connKey{}).(*conn)
	return !ok || c.lobby.shown(c, key)
}

// sameClient returns the addresses that count as one client's: one, or a /64.
func sameClient(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // fails only for an address that is none
	return p
}
