package replica

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// maxOutstanding bounds the unacknowledged chunks of a transfer.
	maxOutstanding = 2
	// maxWork bounds the spans that a transfer has to send. The next session finds the rest again.
	maxWork = 4096
)

// transfer is what we stream to one peer. Chunks go out as the peer acknowledges them, so a slow peer slows only
// itself, and a transfer holds no more than its list of spans.
type transfer struct {
	session  session
	work     []streamWant // what to send: the live frames inside these spans, in order
	spans    int          // spans queued so far
	sent     uint64       // chunks
	acked    uint64
	deadline time.Time
}

// emitVector tells a peer what we have seen: of all streams, or of as many as fit, starting where the last vector
// ended.
func (c *Core) emitVector(to frame.ID, p *syncPeer, s *session, out *Actions) {
	m := &Message{kind: syncVector, root: c.root.sum(), after: p.vectorAt, last: lastKey}
	if s == &p.own {
		m.reply, m.token = true, s.id
	}
	// The authority's streams are in every vector: revocations are urgent, and frames wait for the certificates of their
	// origins.
	if !c.authority.IsZero() {
		for _, st := range c.streamsOf(c.authority) {
			m.streams = append(m.streams, st.vector(maxVectorSpans/8, c.rng))
		}
	}
	records := len(m.streams)
	spans := maxVectorSpans / 2
	c.index.AscendGreaterOrEqual(&stream{key: p.vectorAt}, func(st *stream) bool {
		if st.key == p.vectorAt || st.key.Origin == c.authority && records > 0 {
			return true
		}
		listed := len(m.streams) - records
		if listed == maxVectorStreams/2-records || listed > 0 && len(st.seen) > spans {
			m.last = m.streams[len(m.streams)-1].Key
			return false
		}
		m.streams = append(m.streams, st.vector(max(spans, 0), c.rng))
		spans -= len(st.seen)
		return true
	})
	if rejected := c.rejectedIn(m.after, m.last); len(rejected) > 0 {
		if len(rejected) > maxVectorStreams/2 {
			rejected = rejected[:maxVectorStreams/2]
			m.last = rejected[len(rejected)-1]
			m.streams = slices.DeleteFunc(m.streams, func(v streamVector) bool {
				return v.Key.Origin != c.authority && v.Key.compare(m.last) > 0
			})
		}
		for _, key := range rejected {
			m.streams = append(m.streams, streamVector{Key: key, First: 1, Last: math.MaxUint64, Seen: allSeen})
		}
	}
	slices.SortFunc(m.streams, func(a, b streamVector) int { return a.Key.compare(b.Key) })
	if p.vectorAt = m.last; m.last == lastKey {
		p.vectorAt = StreamKey{}
	} else {
		p.progress = true // continue with the rest
	}
	c.emit(to, s, m, out)
}

// vector returns a stream's entry in a vector, with at most n spans: if its window has more, one part, chosen at
// random.
func (s *stream) vector(n int, rng *rand.Rand) streamVector {
	v := streamVector{Key: s.key, Live: uint64(s.frames.Len()), Sum: s.sum.sum(), First: 1, Last: math.MaxUint64, Seen: s.seen}
	if len(s.seen) <= n {
		return v
	}
	from := rng.IntN((len(s.seen)+n-1)/n) * n
	v.Seen = s.seen[from:min(from+n, len(s.seen))]
	if from > 0 {
		v.First = s.seen[from-1].last + 1
	}
	if from+n < len(s.seen) {
		v.Last = s.seen[from+n].first - 1
	}
	return v
}

// answerVector handles one part of a peer's vector and streams what the peer has not seen. If the peer has seen
// everything that we hold of a stream but its digest differs, hashes are compared; likewise if no stream explains why
// the roots differ.
func (c *Core) answerVector(now time.Time, m *Message, p *syncPeer, s *session, out *Actions) {
	var work []streamWant
	t := c.transfers[m.From]
	room := maxWork
	if t != nil {
		room = max(0, room-t.spans)
	}
	lacking := func(key StreamKey, spans window) {
		s.worked, s.differs = key, true
		if len(spans) > room {
			spans = spans[:room]
		}
		if room -= len(spans); len(spans) > 0 {
			work = append(work, streamWant{key, spans})
		}
	}
	details := detailer{c, m.From, p, s, out}
	listed := m.streams
	absent := func(st *stream) bool { // a stream of ours; the peer's entries before it have been handled
		if room == 0 || st.key.compare(m.last) > 0 {
			return false
		}
		for len(listed) > 0 && listed[0].Key.compare(st.key) < 0 {
			listed = listed[1:]
		}
		if (len(listed) == 0 || listed[0].Key != st.key) && st.key.compare(m.after) > 0 {
			lacking(st.key, window{{1, math.MaxUint64}})
		}
		return true
	}
	if m.after.compare(m.last) < 0 {
		c.index.AscendGreaterOrEqual(&stream{key: m.after}, absent)
	}
	for i := range m.streams {
		v := &m.streams[i]
		st := c.streams[v.Key]
		if st == nil {
			s.differs = s.differs || v.Live > 0 || v.refuses()
			continue
		}
		if st.sum.sum() == v.Sum {
			continue
		}
		s.differs = true
		if v.refuses() {
			continue
		}
		if spans := st.liveIn(v.Seen.gaps(v.First, v.Last), room); len(spans) > 0 {
			lacking(v.Key, spans)
		} else if !v.more && s.worked != v.Key && v.Live <= uint64(st.frames.Len()) {
			details.emit(st)
		}
	}
	if !m.more && !s.differs && m.after == (StreamKey{}) && m.last == lastKey {
		c.index.Ascend(details.emit)
	}
	s.moved = s.moved || len(work) > 0 || len(s.told) > 0
	if !m.more {
		details.end()
	}
	c.queue(now, m.From, s, work)
	switch {
	case m.more: // chunks begin once the whole vector was handled, so that the last chunk is known
	case !s.moved:
		c.emit(m.From, s, &Message{kind: syncChunk, end: true}, out)
	default:
		c.pump(m.From, s, out)
	}
}

// liveIn returns those of the spans that hold a live frame, but no more than most.
func (s *stream) liveIn(spans window, most int) window {
	var live window
	for _, sp := range spans {
		if len(live) == most {
			break
		}
		s.frames.AscendGreaterOrEqual(held{seq: sp.first}, func(h held) bool {
			if h.seq <= sp.last {
				live = append(live, sp)
			}
			return false
		})
	}
	return live
}

// stream sends a peer what it lacks.
func (c *Core) stream(now time.Time, peer frame.ID, s *session, work []streamWant, out *Actions) {
	c.queue(now, peer, s, work)
	c.pump(peer, s, out)
}

// queue starts a transfer to a peer, or adds to the running one.
func (c *Core) queue(now time.Time, peer frame.ID, s *session, work []streamWant) {
	if len(work) == 0 {
		return
	}
	t := c.transfers[peer]
	switch {
	case t == nil && c.mayStream(now, peer):
		t = &transfer{session: *s}
		c.transfers[peer] = t
	case t == nil || t.session.id != s.id:
		return
	}
	for _, w := range work {
		if t.spans += len(w.Spans); t.spans > maxWork {
			break
		}
		t.work = append(t.work, w)
	}
	slices.SortStableFunc(t.work, func(a, b streamWant) int {
		return int(wire.Flag(b.Key.Origin == c.authority)) - int(wire.Flag(a.Key.Origin == c.authority))
	})
	t.deadline = now.Add(transferTimeout)
	c.wakeAt(t.deadline)
}

func (c *Core) acknowledged(now time.Time, m *Message, out *Actions) {
	t := c.transfers[m.From]
	if t == nil || t.session.id != m.Session || m.num > t.sent || m.num <= t.acked {
		return
	}
	t.acked = m.num
	if p := c.peers[m.From]; p != nil && m.fresh > 0 {
		c.moved(now, p)
	}
	t.deadline = now.Add(transferTimeout)
	c.wakeAt(t.deadline)
	c.pump(m.From, &t.session, out)
}

// pump sends chunks of the session's transfer, if there is one, while few enough are unacknowledged.
func (c *Core) pump(peer frame.ID, s *session, out *Actions) {
	t := c.transfers[peer]
	if t == nil || t.session.id != s.id {
		return
	}
	for t.sent < t.acked+maxOutstanding {
		frames := c.chunk(t)
		if len(frames) == 0 {
			break
		}
		t.sent++
		out.Streamed += uint64(len(frames))
		c.emit(peer, &t.session, &Message{kind: syncChunk, num: t.sent, end: len(t.work) == 0, Frames: frames}, out)
	}
	if t.sent == t.acked {
		delete(c.transfers, peer)
	}
}

// chunk takes the next live frames off a transfer's work.
func (c *Core) chunk(t *transfer) (frames [][]byte) {
	size := 0
	for len(t.work) > 0 {
		w := &t.work[0]
		s := c.streams[w.Key]
		if s == nil || len(w.Spans) == 0 {
			t.work = t.work[1:]
			continue
		}
		sp := &w.Spans[0]
		full := false
		s.frames.AscendGreaterOrEqual(held{seq: sp.first}, func(h held) bool {
			if h.seq > sp.last {
				return false
			}
			if len(frames) == MaxChunkFrames || size+len(h.raw) > maxChunk {
				full = true
				sp.first = h.seq
				return false
			}
			frames = append(frames, h.raw)
			size += len(h.raw) + 3
			return true
		})
		if full {
			return frames
		}
		if w.Spans = w.Spans[1:]; len(w.Spans) == 0 {
			t.work = t.work[1:]
		}
	}
	return frames
}

func (c *Core) sendFailed(peer frame.ID, session uint64) {
	if t := c.transfers[peer]; t != nil && t.session.id == session {
		delete(c.transfers, peer)
	}
}

// emit sends a message of a session.
func (c *Core) emit(to frame.ID, s *session, m *Message, out *Actions) {
	m.From, m.Session = c.self, s.theirs
	kind := wire.KindSync
	if m.kind == syncChunk {
		kind = wire.KindChunk
	}
	out.Send = append(out.Send, Outgoing{to, s.id, kind, m.encode()})
}
