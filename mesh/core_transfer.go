package mesh

import (
	"math"
	"slices"
	"time"
)

// maxOutstanding bounds the chunks of a transfer that were not acknowledged.
const maxOutstanding = 2

// transfer is what we stream to one peer. Chunks go out as it acknowledges them, so a slow peer slows only itself, and a
// transfer holds no more than its list of spans.
type transfer struct {
	session  uint64
	work     []streamWant // what to send: the live frames inside these spans, in order
	sent     uint64       // chunks
	acked    uint64
	deadline time.Time
}

// emitVector tells a peer what we have seen.
func (c *core) emitVector(to ID, session uint64, reply bool, out *actions) {
	m := &syncMessage{Kind: syncVector, Session: session, Root: c.root.sum(), Reply: reply}
	streams := c.vectorStreams()
	if len(streams) > maxVectorStreams {
		start := c.rng.IntN(len(streams) - maxVectorStreams + 1)
		streams, m.Partial = streams[start:start+maxVectorStreams], true
	}
	const perStream, perSpan = 64, 2 * 10 // upper bounds of what is encoded
	size := 128
	for _, s := range streams {
		size += perStream + perSpan*len(s.seen)
		if size > maxSyncMessage {
			m.Partial = true
			break
		}
		v := streamVector{Key: s.key, Live: uint64(s.frames.Len()), Seen: s.seen}
		sum := s.sum.sum()
		copy(v.Sum[:], sum[:])
		m.Streams = append(m.Streams, v)
	}
	c.emit(to, m, out)
}

// answerVector streams what a peer has not seen. Where it has seen all that we hold of a stream, and yet holds something
// else, hashes are compared.
func (c *core) answerVector(now time.Time, m *syncMessage, out *actions) {
	theirs := make(map[streamKey]*streamVector, len(m.Streams))
	for i := range m.Streams {
		theirs[m.Streams[i].Key] = &m.Streams[i]
	}
	var work []streamWant
	details := 0
	for _, s := range c.sorted() {
		v := theirs[s.key]
		if v == nil {
			if !m.Partial {
				work = append(work, streamWant{s.key, window{{1, math.MaxUint64}}})
			}
			continue
		}
		if sum := s.sum.sum(); string(sum[:sumLen]) == string(v.Sum[:]) || v.refuses() {
			continue
		}
		if spans := s.liveIn(v.Seen.gaps()); len(spans) > 0 {
			work = append(work, streamWant{s.key, spans})
		} else if v.Live <= uint64(s.frames.Len()) {
			details += c.emitDetail(m.From, m.Session, s, maxDetails-details, out)
		}
	}
	// Records first: revocations hurry, and frames wait for the certificates of their origins.
	slices.SortStableFunc(work, func(a, b streamWant) int {
		return int(flag(b.Key.origin == c.authority)) - int(flag(a.Key.origin == c.authority))
	})
	if len(work) == 0 && details == 0 {
		c.emit(m.From, &syncMessage{Kind: syncChunk, Session: m.Session, Last: true}, out)
	}
	c.stream(now, m.From, m.Session, work, out)
}

// liveIn keeps those spans that hold a live frame.
func (s *stream) liveIn(spans window) window {
	var live window
	for _, sp := range spans {
		s.frames.AscendGreaterOrEqual(held{seq: sp.first}, func(h held) bool {
			if h.seq <= sp.last {
				live = append(live, sp)
			}
			return false
		})
	}
	return live
}

// stream begins a transfer to a peer, or adds to the one that is running.
func (c *core) stream(now time.Time, peer ID, session uint64, work []streamWant, out *actions) {
	if len(work) == 0 {
		return
	}
	t := c.transfers[peer]
	switch {
	case t != nil && t.session == session && len(t.work)+len(work) <= 2*maxVectorStreams:
		t.work = append(t.work, work...)
	case t == nil && len(c.transfers) < maxTransfers:
		t = &transfer{session: session, work: work}
		c.transfers[peer] = t
	default:
		return
	}
	t.deadline = now.Add(transferTimeout)
	c.wakeAt(t.deadline)
	c.pump(peer, t, out)
}

func (c *core) acknowledged(now time.Time, m *syncMessage, out *actions) {
	t := c.transfers[m.From]
	if t == nil || t.session != m.Session || m.Num > t.sent || m.Num <= t.acked {
		return
	}
	t.acked = m.Num
	if p := c.peers[m.From]; p != nil && m.Fresh > 0 {
		c.moved(now, p)
	}
	t.deadline = now.Add(transferTimeout)
	c.wakeAt(t.deadline)
	c.pump(m.From, t, out)
}

// pump sends chunks while few enough are on their way.
func (c *core) pump(peer ID, t *transfer, out *actions) {
	for t.sent < t.acked+maxOutstanding {
		frames := c.chunk(t)
		if len(frames) == 0 {
			break
		}
		t.sent++
		out.streamed += uint64(len(frames))
		c.emit(peer, &syncMessage{Kind: syncChunk, Session: t.session, Num: t.sent, Last: len(t.work) == 0, Frames: frames}, out)
	}
	if t.sent == t.acked {
		delete(c.transfers, peer)
	}
}

// chunk takes the next live frames off a transfer's work.
func (c *core) chunk(t *transfer) (frames [][]byte) {
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
			if len(frames) == maxChunkFrames || size+len(h.raw) > maxChunk {
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

func (c *core) sendFailed(peer ID, session uint64) {
	if t := c.transfers[peer]; t != nil && t.session == session {
		delete(c.transfers, peer)
	}
}
