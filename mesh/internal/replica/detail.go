package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// maxDetails bounds the detail messages that each side sends in a session: maxDetails*maxDetail frames are compared at
// a time. The next session continues where the last one ended, until everything that may differ has been compared.
const maxDetails = 4

// streamPlace is a position among all frames.
type streamPlace struct {
	key StreamKey
	seq uint64
}

// detailer sends the hashes of streams that differ although the peer has seen every number in them, in key order.
type detailer struct {
	core    *Core
	to      frame.ID
	peer    *syncPeer
	session *session
	out     *Actions
}

// emit sends the hashes of a stream's live frames, in messages with adjoining ranges, and reports whether there is room
// for more.
func (d *detailer) emit(st *stream) bool {
	s, at := d.session, &d.peer.detailAt
	switch {
	case st.key.compare(at.key) < 0:
		s.skipped = true
		return true // an earlier session compared it
	case len(s.told) == maxDetails && !s.full:
		s.full, *at = true, streamPlace{key: st.key}
	}
	if s.full {
		return false
	}
	m := streamDetail{Key: st.key, First: 1}
	if st.key == at.key {
		m.First = max(1, at.seq)
	}
	flush := func(last uint64) {
		m.Last = last
		d.core.emit(d.to, s, &Message{kind: syncDetail, detail: m}, d.out)
		s.told = append(s.told, streamDetail{Key: m.Key, First: m.First, Last: m.Last})
		m.First, m.Hashes = last+1, nil
	}
	salt := s.id ^ s.theirs
	st.frames.AscendGreaterOrEqual(held{seq: m.First}, func(h held) bool {
		if len(m.Hashes) == maxDetail {
			flush(h.seq - 1)
		}
		if len(s.told) == maxDetails {
			s.full, *at = true, streamPlace{st.key, h.seq}
			return false
		}
		m.Hashes = append(m.Hashes, seqHash{h.seq, h.short(salt)})
		return true
	})
	if !s.full {
		flush(math.MaxUint64)
	}
	return !s.full
}

// end records that all of the peer's vector has been handled.
func (d *detailer) end() {
	switch s := d.session; {
	case s.full:
		d.peer.progress = true // the next session continues
	case s.skipped:
		d.peer.progress, d.peer.detailAt = true, streamPlace{}
	default:
		d.peer.detailAt = streamPlace{}
	}
}

// short returns a salted hash of a frame. Both sides of the session chose the salt, so nobody can have prepared a
// colliding frame.
func (h held) short(salt uint64) (b [shortHash]byte) {
	var buf [8 + frame.MaxSize]byte
	binary.LittleEndian.PutUint64(buf[:], salt)
	sum := sha256.Sum256(append(buf[:8], h.raw...))
	copy(b[:], sum[:])
	return b
}

// answerDetail compares hashes: it streams what the peer lacks and asks for what we lack. If the two sides hold
// different frames of one name, each sends its own, and both keep the one with the lower hash.
func (c *Core) answerDetail(now time.Time, m *Message, s *session, out *Actions) {
	d := &m.detail
	salt := s.id ^ s.theirs
	var give, want window
	theirs := d.Hashes
	lacks := func(until uint64) { // the peer lists it, and we passed its place without finding it
		for len(theirs) > 0 && theirs[0].Seq < until {
			want.add(theirs[0].Seq)
			theirs = theirs[1:]
		}
	}
	if st := c.streams[d.Key]; st != nil {
		compared := 0
		st.frames.AscendGreaterOrEqual(held{seq: d.First}, func(h held) bool {
			if compared++; h.seq > d.Last || compared > 2*maxDetail {
				return false
			}
			lacks(h.seq)
			switch {
			case len(theirs) == 0 || theirs[0].Seq != h.seq:
				give.add(h.seq)
				return true
			case theirs[0].Hash != h.short(salt):
				give.add(h.seq)
				want.add(h.seq)
			}
			theirs = theirs[1:]
			return true
		})
		if compared > 2*maxDetail {
			theirs = nil // the rest is left to another session
		}
	}
	lacks(math.MaxUint64)
	if len(want) > 0 {
		c.emit(m.From, s, &Message{kind: syncWant, want: []streamWant{{d.Key, want}}}, out)
	}
	if len(give) > 0 {
		c.stream(now, m.From, s, []streamWant{{d.Key, give}}, out)
	}
}

// answerWant streams what a peer asks for, once for each range whose hashes we sent it.
func (c *Core) answerWant(now time.Time, m *Message, s *session, out *Actions) {
	var work []streamWant
	for _, w := range m.want {
		i := slices.IndexFunc(s.told, func(d streamDetail) bool { return d.covers(w) })
		if i < 0 {
			out.Unasked++
			continue
		}
		s.told[i].asked = true
		if st := c.streams[w.Key]; st != nil {
			work = append(work, streamWant{w.Key, st.liveIn(w.Spans, len(w.Spans))})
		}
	}
	c.stream(now, m.From, s, work, out)
}

// covers reports whether a request lies in a range whose hashes were sent and is the first one for it.
func (d *streamDetail) covers(w streamWant) bool {
	n := len(w.Spans)
	return n > 0 && !d.asked && d.Key == w.Key && d.First <= w.Spans[0].first && w.Spans[n-1].last <= d.Last
}
