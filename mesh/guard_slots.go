package mesh

import (
	"net"
	"net/netip"
	"slices"
	"time"
)

// Streams of strangers, who are at no address at which a member has answered or spoken with the mesh's key, have places and
// memory of their own, so that they take none from members. Where these are full, the stranger that has stalled longest goes:
// an attacker holds a place no longer than it takes others to come, and an honest newcomer needs it for some milliseconds.

const (
	// maxStrangerStreams bounds the streams of all strangers at a time, strangerStreams those of one address.
	maxStrangerStreams, strangerStreams = 256, 4
	// strangerBytes bounds what has been read of the messages of all strangers: one of the largest, and small ones.
	strangerBytes = sourceBytes
	// strangerFree is what one message of a stranger may have, in bytes, before it counts against the rate of all strangers.
	strangerFree = streamStep
	// maxVouched bounds the addresses that are remembered because a holder of the mesh's key has opened a stream there, as
	// members do behind NAT; the one that has been silent longest goes.
	maxVouched = 1024
)

// openStream is a stream that takes a place.
type openStream struct {
	g     *guard
	conn  net.Conn
	from  netip.Addr
	known bool // not a stranger's
	guest bool // known, but no member has answered there: it takes sourceBytes with all like it

	// The guard's mu guards what follows.
	bytes int64
	over  bool // it gave back its place, or was made to
	safe  bool // it came with the mesh's key
}

// isKnown reports whether an address is no stranger's.
func (g *guard) isKnown(from netip.Addr) bool {
	if g.isMember != nil && g.isMember(from) {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.vouched[from]
	return ok
}

// enter gives a stream that was accepted a place; leave must be called when the stream is over.
func (g *guard) enter(conn net.Conn) (*openStream, bool) {
	s := &openStream{g: g, conn: conn, from: sourceOf(conn.RemoteAddr(), g.isMember)}
	s.known = g.isKnown(s.from)
	s.guest = s.known && (g.isMember == nil || !g.isMember(s.from))
	g.mu.Lock()
	defer g.mu.Unlock()
	use := g.streams[s.from]
	if s.known {
		if g.open >= maxStreamsOpen || use != nil && use.streams >= sourceStreams || !g.opened.take(g.now(), s.from, 1) {
			g.count.limited.Add(1)
			return nil, false
		}
		g.open++
	} else {
		for use != nil && use.streams >= strangerStreams && g.evictLocked(func(o *openStream) bool { return o.from == s.from }) {
			use = g.streams[s.from]
		}
		if use != nil && use.streams >= strangerStreams ||
			len(g.strangers) >= maxStrangerStreams && !g.evictLocked(func(*openStream) bool { return true }) {
			g.count.limited.Add(1)
			return nil, false
		}
		g.strangers = append(g.strangers, s)
	}
	if use = g.streams[s.from]; use == nil {
		use = &streamUse{}
		g.streams[s.from] = use
	}
	use.streams++
	return s, true
}

// dialled is a stream that this node has opened. It takes no place, but memory.
func (g *guard) dialled(conn net.Conn) *openStream {
	return &openStream{g: g, conn: conn, from: sourceOf(conn.RemoteAddr(), g.isMember), known: true, over: true}
}

// evictLocked ends the oldest stream of a stranger that fits and has not shown the mesh's key, and reports whether there was
// one.
func (g *guard) evictLocked(fits func(*openStream) bool) bool {
	i := slices.IndexFunc(g.strangers, func(s *openStream) bool { return !s.safe && fits(s) })
	if i < 0 {
		return false
	}
	s := g.strangers[i]
	g.leaveLocked(s)
	g.holdLocked(s, -s.bytes)
	g.count.limited.Add(1)
	_ = s.conn.Close() // who reads it ends then
	return true
}

// leave gives back the place. It may be called more than once.
func (s *openStream) leave() {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.g.leaveLocked(s)
}

func (g *guard) leaveLocked(s *openStream) {
	if s.over {
		return
	}
	s.over = true
	if s.known {
		g.open--
	} else if i := slices.Index(g.strangers, s); i >= 0 {
		g.strangers = slices.Delete(g.strangers, i, i+1)
	}
	if use := g.streams[s.from]; use != nil {
		use.streams--
		g.tidyLocked(s.from, use)
	}
}

func (g *guard) tidyLocked(from netip.Addr, use *streamUse) {
	if use.streams == 0 && use.bytes == 0 {
		delete(g.streams, from)
	}
}

// hold takes n bytes of memory for a stream and reports whether there are as many.
func (s *openStream) hold(n int64) bool {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if !s.known {
		if s.over || s.bytes+n > strangerBytes {
			return false
		}
		for g.strange+n > strangerBytes {
			if !g.evictLocked(func(o *openStream) bool { return o != s && o.bytes > 0 }) {
				return false
			}
		}
		g.holdLocked(s, n)
		return true
	}
	if use := g.streams[s.from]; g.bytes+n > maxStreamBytes || s.guest && g.guests+n > sourceBytes || use != nil && use.bytes+n > sourceBytes || n > sourceBytes {
		return false
	}
	g.holdLocked(s, n)
	return true
}

// release gives the memory back.
func (s *openStream) release() {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.g.holdLocked(s, -s.bytes)
}

func (g *guard) holdLocked(s *openStream, n int64) {
	if n == 0 {
		return
	}
	s.bytes += n
	if !s.known {
		g.strange += n
		return
	}
	use := g.streams[s.from]
	if use == nil {
		use = &streamUse{}
		g.streams[s.from] = use
	}
	g.bytes += n
	if s.guest {
		g.guests += n
	}
	use.bytes += n
	g.tidyLocked(s.from, use)
}

// vouch notes that a stream came with the mesh's key: it is not ended for others, and its address is no stranger's from now on.
func (s *openStream) vouch(now time.Time) {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	s.safe = true
	if _, ok := g.vouched[s.from]; !ok && len(g.vouched) >= maxVouched {
		var oldest netip.Addr
		for a, at := range g.vouched {
			if !oldest.IsValid() || at.Before(g.vouched[oldest]) {
				oldest = a
			}
		}
		delete(g.vouched, oldest)
	}
	g.vouched[s.from] = now
}
