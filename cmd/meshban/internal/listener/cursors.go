package listener

import (
	"net/netip"
	"sync"

	"github.com/hashicorp/golang-lru/simplelru"
)

// client is who has a cursor. Two bouncers may share a key, and even a machine.
type client struct {
	key, agent string
	addr       netip.Addr
}

// cursors says what each client was told last. The least used make room; who has none is told everything.
type cursors struct {
	mu  sync.Mutex     // guards what follows
	lru *simplelru.LRU // client -> uint64, an entry number of changes
}

func newCursors() *cursors {
	lru, err := simplelru.NewLRU(maxCursors, nil)
	if err != nil {
		panic(err) // only a size below 1 is refused
	}
	return &cursors{lru: lru}
}

// of returns the cursor of a client, or 0.
func (c *cursors) of(who client) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.lru.Get(who); ok {
		return v.(uint64)
	}
	return 0
}

// set moves the cursor of a client; 0 forgets it.
func (c *cursors) set(who client, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Add(who, n)
}
