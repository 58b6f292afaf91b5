package filter

import (
	"net"
	"net/netip"
	"slices"
	"time"
)

// A stranger is an address where no member has answered and that has not shown the mesh's key. Strangers' streams have
// their own slots and memory, so they take none from members. When the slots are full, the network with the most streams
// loses its oldest: an honest newcomer needs one for a few milliseconds.

const (
	// MaxStrangerStreams bounds the open streams of all strangers, strangerStreams those of one address.
	MaxStrangerStreams, strangerStreams = 256, 4
	// StrangerBytes bounds what has been read of all strangers' messages: one of the largest, plus small ones.
	StrangerBytes = sourceBytes
	// strangerFree is how much of a stranger's message is read before it counts against the rate of all strangers, in
	// bytes.
	strangerFree = streamStep
	// maxKeyHolderStreams bounds the streams of all key holders, because one may have many addresses. A further one is
	// treated as a stranger.
	maxKeyHolderStreams = maxStreamsOpen / 4
	// maxKeyHolders bounds the addresses that are remembered because a holder of the mesh's key has opened a stream
	// there, as members behind NAT do; the one that has been silent longest is forgotten.
	maxKeyHolders = 1024
)

// openStream is a stream that takes a slot.
type openStream struct {
	g         *guard
	conn      net.Conn
	from      netip.Addr
	net       netip.Prefix
	known     bool // not a stranger's
	keyHolder bool // known, but no member has answered there: all key holders share sourceBytes and maxKeyHolderStreams

	// The guard's mu protects these.
	bytes int64
	over  bool // it gave back its slot, or lost it
	safe  bool // it came with the mesh's key, or with a token
}

// NetOf returns the network in which strangers are counted together: the owner of one address often has others of it.
func NetOf(a netip.Addr) netip.Prefix {
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // only the zero address has none
	return p
}

// keep saves the stream from making room for others, unless all are kept.
func (s *openStream) keep() {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.safe = true
}

// enter gives an accepted stream a slot; call leave when the stream is over.
func (g *guard) enter(conn net.Conn) (*openStream, bool) {
	s := &openStream{g: g, conn: conn, from: SourceOf(conn.RemoteAddr(), g.isMember)}
	s.net = NetOf(s.from)
	g.mu.Lock()
	defer g.mu.Unlock()
	member := g.isMember != nil && g.isMember(s.from)
	_, hasKey := g.keyHolders[s.from]
	s.keyHolder = hasKey && !member && g.keyHoldersOpen < maxKeyHolderStreams
	s.known = member || s.keyHolder
	use := g.streams[s.from]
	if s.known {
		if g.open >= maxStreamsOpen || use != nil && use.streams >= sourceStreams || !g.opened.Take(g.now(), s.from, 1) {
			g.count.Limited.Add(1)
			return nil, false
		}
		g.open++
		if s.keyHolder {
			g.keyHoldersOpen++
		}
	} else {
		for use != nil && use.streams >= strangerStreams && g.evictLocked(func(o *openStream) bool { return !o.safe && o.from == s.from }) {
			use = g.streams[s.from]
		}
		if use != nil && use.streams >= strangerStreams || len(g.strangers) >= MaxStrangerStreams &&
			!g.evictLocked(func(o *openStream) bool { return !o.safe }) && !g.evictLocked((*openStream).knocks) {
			g.count.Limited.Add(1)
			return nil, false
		}
		g.strangers = append(g.strangers, s)
		g.nets[s.net]++
	}
	if use = g.streams[s.from]; use == nil {
		use = &streamUse{}
		g.streams[s.from] = use
	}
	use.streams++
	return s, true
}

// dialled returns a stream that this node has opened. It takes memory, but no slot.
func (g *guard) dialled(conn net.Conn) *openStream {
	return &openStream{g: g, conn: conn, from: SourceOf(conn.RemoteAddr(), g.isMember), known: true, over: true}
}

// knocks reports whether a stream is safe because it came with a token. Many with the same token may come.
func (s *openStream) knocks() bool { return s.safe && s.bytes == 0 }

// evictLocked closes a stranger's stream that fits, and reports whether there was one: the oldest of the network with the
// most of them.
func (g *guard) evictLocked(fits func(*openStream) bool) bool {
	var s *openStream
	most := 0
	for _, o := range g.strangers {
		if n := g.nets[o.net]; n > most && fits(o) {
			s, most = o, n
		}
	}
	if s == nil {
		return false
	}
	g.leaveLocked(s)
	g.holdLocked(s, -s.bytes)
	g.count.Limited.Add(1)
	_ = s.conn.Close() // ends its reader
	return true
}

// leave gives back the slot. It may be called more than once.
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
		if s.keyHolder {
			g.keyHoldersOpen--
		}
	} else if i := slices.Index(g.strangers, s); i >= 0 {
		g.strangers = slices.Delete(g.strangers, i, i+1)
		if g.nets[s.net]--; g.nets[s.net] == 0 {
			delete(g.nets, s.net)
		}
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

// hold reserves n bytes of memory for a stream and reports whether they were available.
func (s *openStream) hold(n int64) bool {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if !s.known {
		if s.over || s.bytes+n > StrangerBytes {
			return false
		}
		for g.strange+n > StrangerBytes {
			if !g.evictLocked(func(o *openStream) bool { return !o.safe && o != s && o.bytes > 0 }) {
				return false
			}
		}
		g.holdLocked(s, n)
		return true
	}
	if use := g.streams[s.from]; g.bytes+n > maxStreamBytes || s.keyHolder && g.keyHolderBytes+n > sourceBytes || use != nil && use.bytes+n > sourceBytes || n > sourceBytes {
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
	if s.keyHolder {
		g.keyHolderBytes += n
	}
	use.bytes += n
	g.tidyLocked(s.from, use)
}

// noteKey records that a stream came with the mesh's key: it is never evicted, and its address is known from now on.
func (s *openStream) noteKey(now time.Time) {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	s.safe = true
	if _, ok := g.keyHolders[s.from]; !ok && len(g.keyHolders) >= maxKeyHolders {
		var oldest netip.Addr
		for a, at := range g.keyHolders {
			if !oldest.IsValid() || at.Before(g.keyHolders[oldest]) {
				oldest = a
			}
		}
		delete(g.keyHolders, oldest)
	}
	g.keyHolders[s.from] = now
}
