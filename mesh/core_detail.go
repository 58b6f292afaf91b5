package mesh

import (
	"math"
	"time"
)

// maxDetails bounds the detail messages that answer one vector: maxDetails*maxDetail frames are compared at a time. A
// longer stream is compared from a place chosen at random, so that repetition finds every difference.
const maxDetails = 4

// emitDetail lists the hashes of a stream's live frames in at most limit messages, whose ranges touch.
func (c *core) emitDetail(to ID, session uint64, s *stream, limit int, out *actions) (messages int) {
	if limit <= 0 {
		return 0
	}
	first := uint64(1)
	if n := s.frames.Len(); n > limit*maxDetail {
		lowest, _ := s.frames.Min()
		highest, _ := s.frames.Max()
		first = lowest.seq + c.rng.Uint64N(highest.seq-lowest.seq+1)
	}
	d := streamDetail{Key: s.key, First: first}
	flush := func(last uint64) {
		d.Last = last
		c.emit(to, &syncMessage{Kind: syncDetail, Session: session, Detail: d}, out)
		d.First, d.Hashes = last+1, nil
		messages++
	}
	s.frames.AscendGreaterOrEqual(held{seq: first}, func(h held) bool {
		if len(d.Hashes) == maxDetail {
			flush(h.seq - 1)
		}
		if messages == limit {
			return false
		}
		d.Hashes = append(d.Hashes, seqHash{h.seq, h.short()})
		return true
	})
	if messages < limit {
		flush(math.MaxUint64)
	}
	return messages
}

func (h held) short() (b [shortHash]byte) {
	sum := Frame{raw: h.raw}.hash()
	copy(b[:], sum[:])
	return b
}

// answerDetail compares hashes: it streams what the peer lacks, and asks for what we lack. Where both hold different
// frames of one name, both go over, and each side keeps the one with the lower hash.
func (c *core) answerDetail(now time.Time, m *syncMessage, out *actions) {
	d := &m.Detail
	var give, want window
	theirs := d.Hashes
	lacks := func(until uint64) { // they list it, and we passed the place without meeting it
		for len(theirs) > 0 && theirs[0].Seq < until {
			want.add(theirs[0].Seq)
			theirs = theirs[1:]
		}
	}
	if s := c.streams[d.Key]; s != nil {
		s.frames.AscendGreaterOrEqual(held{seq: d.First}, func(h held) bool {
			if h.seq > d.Last {
				return false
			}
			lacks(h.seq)
			switch {
			case len(theirs) == 0 || theirs[0].Seq != h.seq:
				give.add(h.seq)
				return true
			case theirs[0].Hash != h.short():
				give.add(h.seq)
				want.add(h.seq)
			}
			theirs = theirs[1:]
			return true
		})
	}
	lacks(math.MaxUint64)
	if len(want) > 0 {
		c.emit(m.From, &syncMessage{Kind: syncWant, Session: m.Session, Want: []streamWant{{d.Key, want}}}, out)
	}
	if len(give) > 0 {
		c.stream(now, m.From, m.Session, []streamWant{{d.Key, give}}, out)
	}
}
