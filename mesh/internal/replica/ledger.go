package replica

import (
	"bytes"
	"cmp"
	"container/heap"
	"math"
	"slices"
	"time"

	"github.com/google/btree"
	"github.com/meshban/meshban/mesh/frame"
)

const (
	// maxHeld bounds the live frames of a node; more are refused until some expire.
	maxHeld = 1 << 22
	// maxStreams bounds the (origin, epoch) pairs with live frames.
	maxStreams = 1 << 18
	// MaxOriginFrames, MaxOriginBytes and maxOriginEpochs bound the live frames of one origin: a million bans, each in a
	// frame of its own (200 bytes), fit. The frames with the lowest (epoch, seq) stay, so that all nodes keep the same
	// ones in whatever order they arrive.
	MaxOriginFrames, MaxOriginBytes, maxOriginEpochs = 5 << 18, 256 << 20, 1024
	// maxOriginSpans bounds the windows of one origin together, in spans (16 bytes each), besides one span per epoch.
	// Expired frames make windows grow, too.
	maxOriginSpans = 4 * maxSpans
	// clockSlack is how far the clock may step back before windows are rebuilt.
	clockSlack = time.Second
	// maxExpireStep bounds the frames that expire in one step (about 3 us each), maxLeaveStep those dropped with their
	// whole stream (0.1 us each); the rest follows in later steps.
	maxExpireStep, maxLeaveStep = 512, 8192
	// maxStale bounds the deadlines of frames that are no longer held, on top of the number of frames held.
	maxStale = 4096
	// seqDegree is the degree of a stream's index: about 45 bytes per frame besides the frame itself.
	seqDegree = 32
)

// StreamKey names a stream: the frames of one origin in one epoch.
type StreamKey struct {
	Origin frame.ID
	Epoch  uint64
}

func (k StreamKey) compare(o StreamKey) int {
	if c := bytes.Compare(k.Origin[:], o.Origin[:]); c != 0 {
		return c
	}
	return cmp.Compare(k.Epoch, o.Epoch)
}

// held is one live frame; its bytes are kept once, here.
type held struct {
	seq uint64
	raw []byte
}

// stream is what is known of one origin's frames in one epoch.
type stream struct {
	key    StreamKey
	frames *btree.BTreeG[held] // live ones, by seq
	seen   window              // the live ones and those that have expired
	sum    digest              // of the live ones
	bytes  int                 // of the live ones
	gone   bool                // the ledger has dropped it
}

func newStream(key StreamKey) *stream {
	return &stream{key: key, frames: btree.NewG(seqDegree, func(a, b held) bool { return a.seq < b.seq })}
}

// ledger holds the live frames. Deduplication is exact: a frame is a duplicate if it is held, and an expired frame is
// refused as expired. Windows therefore only tell peers concisely what they need not send.
type ledger struct {
	streams map[StreamKey]*stream
	index   *btree.BTreeG[*stream] // the same streams, in key order
	leaving []*stream              // dropped; the names of their frames are not reported yet
	origins map[frame.ID]*load
	most    load // bounds for one origin
	root    digest
	count   int
	expiry  expiryHeap
	// horizon is the latest end of an expired frame. If the clock steps back behind it, such frames are live again and
	// the windows claim too much.
	horizon time.Time
}

func newLedger() ledger {
	return ledger{
		streams: make(map[StreamKey]*stream), origins: make(map[frame.ID]*load),
		index: btree.NewG(seqDegree, func(a, b *stream) bool { return a.compare(b) < 0 }),
		most:  load{frames: MaxOriginFrames, bytes: MaxOriginBytes, epochs: maxOriginEpochs, spans: maxOriginSpans},
	}
}

// load is what one origin's live frames and the windows of their streams take up.
type load struct{ frames, bytes, epochs, spans int }

// loaded reports whether f's origin has no room for f.
func (l *ledger) loaded(f frame.Frame) bool {
	o := l.origins[f.Origin]
	if o == nil {
		return false
	}
	return o.frames >= l.most.frames || o.bytes+len(f.Raw) > l.most.bytes ||
		o.epochs >= l.most.epochs && l.streams[StreamKey{f.Origin, f.Epoch}] == nil
}

// last returns the name of an origin's frame with the highest (epoch, seq).
func (l *ledger) last(origin frame.ID) (ref frame.Ref, ok bool) {
	l.index.DescendLessOrEqual(&stream{key: StreamKey{origin, math.MaxUint64}}, func(s *stream) bool {
		if s.key.Origin != origin {
			return false
		}
		var h held
		h, ok = s.frames.Max()
		ref = frame.Ref{Origin: origin, Epoch: s.key.Epoch, Seq: h.seq}
		return !ok
	})
	return ref, ok
}

// before reports whether r has a lower epoch than o, or the same epoch and a lower number.
func before(r, o frame.Ref) bool {
	return r.Epoch < o.Epoch || r.Epoch == o.Epoch && r.Seq < o.Seq
}

func (l *ledger) get(ref frame.Ref) ([]byte, bool) {
	s := l.streams[StreamKey{ref.Origin, ref.Epoch}]
	if s == nil {
		return nil, false
	}
	h, ok := s.frames.Get(held{seq: ref.Seq})
	return h.raw, ok
}

// Holds reports whether a frame of this name is held.
func (c *Core) Holds(ref frame.Ref) bool {
	_, ok := c.get(ref)
	return ok
}

// Streams returns the streams with live frames, in order.
func (c *Core) Streams() []StreamKey {
	keys := make([]StreamKey, 0, len(c.streams))
	c.index.Ascend(func(s *stream) bool {
		keys = append(keys, s.key)
		return true
	})
	return keys
}

// From returns the encoded frames of a stream, at most n, in order from a number on.
func (c *Core) From(key StreamKey, seq uint64, n int) (raws [][]byte) {
	s := c.streams[key]
	if s == nil {
		return nil
	}
	s.frames.AscendGreaterOrEqual(held{seq: seq}, func(h held) bool {
		raws = append(raws, h.raw)
		return len(raws) < n
	})
	return raws
}

// Verdict is the core's decision on a frame.
type Verdict uint8

// The verdicts.
const (
	VerdictNew       Verdict = iota
	VerdictDuplicate         // it is held
	VerdictExpired           // it has ended
	VerdictFuture            // its time has not come
	VerdictFull              // there is no room for it
	VerdictEquivocal         // another frame of the same name is held
	VerdictUnknown           // the origin's certificate has not come: the frame waits
	VerdictEnded             // the origin's certificate has ended
	VerdictRevoked           // the origin is revoked
	VerdictKinds             // how many there are
)

// judge returns what would become of a frame. It is cheap and runs before the signature is checked.
func (l *ledger) judge(now time.Time, f frame.Frame) Verdict {
	raw, ok := l.get(f.Ref())
	switch {
	case !f.Expires.After(now):
		return VerdictExpired
	case ok && bytes.Equal(raw, f.Raw):
		return VerdictDuplicate
	case f.Issued.After(now.Add(frame.FutureSkew)):
		return VerdictFuture
	case ok:
		return VerdictEquivocal
	case l.count >= maxHeld:
		return VerdictFull
	case len(l.streams) >= maxStreams && l.streams[StreamKey{f.Origin, f.Epoch}] == nil:
		return VerdictFull
	case l.loaded(f):
		if last, ok := l.last(f.Origin); !ok || !before(f.Ref(), last) {
			return VerdictFull
		}
	}
	return VerdictNew
}

// makeRoom drops an origin's last frames until there is room for f, and returns their names.
func (l *ledger) makeRoom(f frame.Frame) (dropped []frame.Ref) {
	for l.loaded(f) {
		last, ok := l.last(f.Origin)
		if !ok {
			break
		}
		s := l.streams[StreamKey{last.Origin, last.Epoch}]
		l.remove(s, last.Seq)
		l.forgetEmpty(s)
		dropped = append(dropped, last)
	}
	return dropped
}

// put takes in a verified frame if the verdict allows it. Of two different frames of one name, every node keeps the one
// with the lower hash. stays reports whether f is held now; dropped lists the frames that made room for it.
func (l *ledger) put(f frame.Frame, v Verdict, out *Actions) (stays bool, dropped []frame.Ref) {
	switch v {
	case VerdictNew:
		dropped = l.makeRoom(f)
		l.insert(f)
		return true, dropped
	case VerdictEquivocal:
		old, err := frame.Decode(l.mustGet(f.Ref()))
		if err != nil {
			return false, nil
		}
		oldHash, newHash := old.Hash(), f.Hash()
		if bytes.Compare(oldHash[:], newHash[:]) <= 0 {
			return false, nil
		}
		l.remove(l.streams[StreamKey{f.Origin, f.Epoch}], f.Seq)
		l.insert(f)
		out.Replaced = append(out.Replaced, old)
		return true, nil
	}
	return false, nil
}

// discardForged removes the held frame of f's name if it differs from f and its signature is bad: it came from the
// store, where frames of nodes are not verified, and must not be held against its origin.
func (l *ledger) discardForged(f frame.Frame, out *Actions) {
	raw, ok := l.get(f.Ref())
	if !ok || bytes.Equal(raw, f.Raw) {
		return
	}
	if old, err := frame.Decode(raw); err == nil && old.Verify() != nil {
		l.remove(l.streams[StreamKey{f.Origin, f.Epoch}], f.Seq)
		out.Replaced = append(out.Replaced, old)
	}
}

func (l *ledger) mustGet(ref frame.Ref) []byte {
	raw, _ := l.get(ref)
	return raw
}

func (l *ledger) insert(f frame.Frame) {
	key := StreamKey{f.Origin, f.Epoch}
	s := l.streams[key]
	if s == nil {
		s = newStream(key)
		l.streams[key] = s
		l.index.ReplaceOrInsert(s)
	}
	e := expand(f.Hash())
	s.frames.ReplaceOrInsert(held{f.Seq, f.Raw})
	s.sum.add(&e)
	l.root.add(&e)
	l.count++
	o := l.origins[f.Origin]
	if o == nil {
		o = &load{}
		l.origins[f.Origin] = o
	}
	o.frames++
	o.bytes += len(f.Raw)
	s.bytes += len(f.Raw)
	if s.frames.Len() == 1 {
		o.epochs++
		o.spans += len(s.seen)
	}
	l.see(s, o, f.Seq)
	heap.Push(&l.expiry, deadline{at: f.Expires.UnixMilli(), stream: s, seq: f.Seq})
	if len(l.expiry) > 2*l.count+maxStale {
		l.rebuildExpiry()
	}
}

// see records a number of a stream with live frames. If the windows of its origin take too much, it closes gaps in this
// one.
func (l *ledger) see(s *stream, o *load, seq uint64) {
	before := len(s.seen)
	s.seen.add(seq)
	if o.spans+len(s.seen)-before > l.most.spans {
		s.seen.closeLower()
	}
	o.spans += len(s.seen) - before
}

// rebuildExpiry drops the deadlines of frames that are no longer held.
func (l *ledger) rebuildExpiry() {
	l.expiry = slices.DeleteFunc(l.expiry, func(d deadline) bool {
		h, ok := d.stream.frames.Get(held{seq: d.seq})
		if !ok || d.stream.gone {
			return true
		}
		f, err := frame.Decode(h.raw)
		return err != nil || f.Expires.UnixMilli() != d.at
	})
	heap.Init(&l.expiry)
}

func (l *ledger) remove(s *stream, seq uint64) {
	h, ok := s.frames.Delete(held{seq: seq})
	if !ok {
		return
	}
	e := expand(frame.Frame{Raw: h.raw}.Hash())
	s.sum.sub(&e)
	l.root.sub(&e)
	l.count--
	o := l.origins[s.key.Origin]
	o.frames--
	o.bytes -= len(h.raw)
	s.bytes -= len(h.raw)
	if s.frames.Len() == 0 {
		o.epochs--
		o.spans -= len(s.seen)
	}
	if o.frames == 0 {
		delete(l.origins, s.key.Origin)
	}
}

// forgetEmpty drops a stream without frames.
func (l *ledger) forgetEmpty(s *stream) {
	if s.frames.Len() == 0 {
		delete(l.streams, s.key)
		l.index.Delete(s)
	}
}

// letGo drops a whole stream of any length at once; leave reports the names of its frames.
func (l *ledger) letGo(s *stream) {
	s.gone = true
	delete(l.streams, s.key)
	l.index.Delete(s)
	n := s.frames.Len()
	if n == 0 {
		return
	}
	l.root.sub(&s.sum.lanes)
	l.count -= n
	l.leaving = append(l.leaving, s)
	o := l.origins[s.key.Origin]
	o.frames -= n
	o.epochs--
	o.spans -= len(s.seen)
	o.bytes -= s.bytes
	if o.frames == 0 {
		delete(l.origins, s.key.Origin)
	}
}

// leave returns the names of frames that were dropped with their streams, except those held again: at most maxLeaveStep
// at a time.
func (l *ledger) leave() (refs []frame.Ref) {
	for n := 0; len(l.leaving) > 0 && n < maxLeaveStep; {
		s := l.leaving[0]
		for n < maxLeaveStep {
			h, ok := s.frames.DeleteMin()
			if !ok {
				break
			}
			n++
			ref := frame.Ref{Origin: s.key.Origin, Epoch: s.key.Epoch, Seq: h.seq}
			if _, again := l.get(ref); !again {
				refs = append(refs, ref)
			}
		}
		if s.frames.Len() == 0 {
			l.leaving = l.leaving[1:]
		}
	}
	return refs
}

// expire drops frames that have ended, at most maxExpireStep, and returns their names.
func (l *ledger) expire(now time.Time) []frame.Ref {
	if now.Add(clockSlack).Before(l.horizon) {
		l.rebuildWindows()
	}
	var refs []frame.Ref
	for len(refs) < maxExpireStep && len(l.expiry) > 0 && l.expiry[0].at <= now.UnixMilli() {
		d := heap.Pop(&l.expiry).(deadline)
		h, ok := d.stream.frames.Get(held{seq: d.seq})
		if !ok || d.stream.gone {
			continue
		}
		f, err := frame.Decode(h.raw)
		if err != nil || f.Expires.UnixMilli() != d.at {
			continue // it replaced the frame that this deadline was for
		}
		l.remove(d.stream, d.seq)
		if f.Expires.After(l.horizon) {
			l.horizon = f.Expires
		}
		refs = append(refs, f.Ref())
		l.forgetEmpty(d.stream)
	}
	return refs
}

// next returns when the next frame ends, or the zero time if dropped names are still to be reported.
func (l *ledger) next() (time.Time, bool) {
	if len(l.leaving) > 0 {
		return time.Time{}, true
	}
	if len(l.expiry) == 0 {
		return time.Time{}, false
	}
	return time.UnixMilli(l.expiry[0].at), true
}

// rebuildWindows makes windows claim only what is held.
func (l *ledger) rebuildWindows() {
	l.horizon = time.Time{}
	for _, s := range l.streams {
		o := l.origins[s.key.Origin]
		if o == nil || s.frames.Len() == 0 {
			o = &load{}
		}
		o.spans -= len(s.seen)
		s.seen = nil
		s.frames.Ascend(func(h held) bool {
			l.see(s, o, h.seq)
			return true
		})
	}
}

// streamsOf returns the streams of one origin, in order.
func (l *ledger) streamsOf(origin frame.ID) (of []*stream) {
	l.index.AscendGreaterOrEqual(&stream{key: StreamKey{Origin: origin}}, func(s *stream) bool {
		if s.key.Origin != origin {
			return false
		}
		of = append(of, s)
		return true
	})
	return of
}

func (s *stream) compare(o *stream) int { return s.key.compare(o.key) }

// deadline is a frame's end, in Unix milliseconds.
type deadline struct {
	at     int64
	stream *stream
	seq    uint64
}

type expiryHeap []deadline

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *expiryHeap) Push(x any)        { *h = append(*h, x.(deadline)) }
func (h *expiryHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = deadline{}
	*h = old[:len(old)-1]
	return d
}
