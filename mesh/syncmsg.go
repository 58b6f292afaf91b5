package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The messages of anti-entropy. Each names its sender (memberlist does not) and the session. None is signed: frames
// carry their own proof, and the session numbers prove the rest. Each side gives a session a number that it tells only
// its peer, and accepts only messages with that number. So a message forged in another node's name matches no session.
// The exception is a check, which is answered with a message of the same size and leaves no state (see syncer.cookie).

type syncKind uint8

const (
	syncCheck  syncKind = 1 + iota // initiator: this is my root
	syncSame                       // answer: mine too
	syncVector                     // what I have seen, by stream; Reply asks for the other's
	syncChunk                      // frames; Num counts from 1 within the sender's transfer
	syncAck                        // chunk Num has been processed
	syncDetail                     // hashes of the live frames of one stream, within a range
	syncWant                       // send me these
	syncDiffer                     // answer to a check: my root differs
)

const (
	// maxChunk bounds the frames in one message, in bytes.
	maxChunk = 256 << 10
	// maxChunkFrames bounds their number.
	maxChunkFrames = 4096
	// maxSyncMessage bounds a message, in bytes.
	maxSyncMessage = 512 << 10
	// maxVectorStreams and maxVectorSpans bound what one vector lists (about 100 and 2 to 20 bytes each). Anything
	// beyond is compared in a later session.
	maxVectorStreams, maxVectorSpans = 2048, 8192
	// maxVectorPart bounds the streams and spans together that are compared in one step: about a millisecond.
	maxVectorPart = 512
	// maxDetail bounds the hashes in one message, and so those compared in one step.
	maxDetail = 512
	// maxWant bounds the streams in one request, and maxDetail the spans of all of them.
	maxWant = 4

	// SyncVersion is the version of the sync protocol, which every sync message states.
	SyncVersion = 3
	syncFields  = 6
	sumLen      = 32 // bytes of a stream's digest
	shortHash   = 8  // bytes of a frame's hash in a detail
)

type syncMessage struct {
	Kind    syncKind
	From    ID
	Session uint64 // the receiver's number for it; check: the sender's
	Token   uint64 // differ, vector with Reply: the sender's number for the session

	Root  [32]byte // check, same, differ, vector
	Clock uint64   // check, same, differ: the sender's clock, in milliseconds since 1970
	Reply bool     // vector
	// After (exclusive) and Last (inclusive) bound the range of keys in which a vector lists all streams of the sender.
	// It may list others too.
	After, Last streamKey
	Streams     []streamVector
	Num         uint64   // chunk, ack
	End         bool     // chunk: the last one
	Fresh       uint64   // ack: how many frames of the chunk were new
	Frames      [][]byte // chunk
	Detail      streamDetail
	Want        []streamWant

	more bool // a part of a vector, but not the last; never sent
}

// lastKey is the highest possible key.
var lastKey = streamKey{ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, math.MaxUint64}

type streamVector struct {
	Key         streamKey
	Live        uint64
	Sum         [sumLen]byte
	First, Last uint64 // the range that Seen covers, both included
	Seen        window

	more bool // a piece of a window, but not the last; never sent
}

type streamDetail struct {
	Key         streamKey
	First, Last uint64 // the range that Hashes covers completely
	Hashes      []seqHash

	asked bool // frames in it were requested; never sent
}

type seqHash struct {
	Seq  uint64
	Hash [shortHash]byte
}

type streamWant struct {
	Key   streamKey
	Spans window
}

// split yields a message in parts, each of which takes a bounded time to process.
func (m *syncMessage) split(yield func(*syncMessage) bool) {
	if m.Kind != syncVector {
		yield(m)
		return
	}
	part := *m
	part.Streams, part.more = nil, true
	cost := 0
	flush := func() bool {
		if last := part.Streams[len(part.Streams)-1].Key; part.more && last.compare(m.Last) < 0 {
			part.Last = last
		} else {
			part.Last = m.Last
		}
		one := part
		part.Streams, cost = nil, 0
		if part.Last.compare(part.After) > 0 {
			part.After = part.Last
		}
		return yield(&one)
	}
	for _, v := range m.Streams {
		for {
			if cost >= maxVectorPart && !flush() {
				return
			}
			room := maxVectorPart - cost
			if len(v.Seen) <= room {
				break
			}
			piece, rest := v, v
			piece.Seen, rest.Seen = v.Seen[:room], v.Seen[room:]
			piece.Last, piece.more = piece.Seen[room-1].last, true
			rest.First = piece.Last + 1
			part.Streams = append(part.Streams, piece)
			cost, v = maxVectorPart, rest
		}
		part.Streams = append(part.Streams, v)
		cost += 1 + len(v.Seen)
	}
	part.more, part.Last = false, m.Last
	yield(&part)
}

// encode returns the message as decodeSync decodes it.
func (m *syncMessage) encode() []byte {
	var b []byte
	b = appendArray(b, syncFields)
	b = appendUint(b, SyncVersion)
	b = appendUint(b, uint64(m.Kind))
	b = appendBin(b, m.From[:])
	b = appendUint(b, m.Session)
	b = appendUint(b, m.Token)
	switch m.Kind {
	case syncCheck, syncSame, syncDiffer:
		b = appendBin(b, binary.BigEndian.AppendUint64(m.Root[:], m.Clock))
	case syncVector:
		b = appendArray(b, 5)
		b = appendBin(b, m.Root[:])
		b = appendUint(b, flag(m.Reply))
		b = m.After.append(b)
		b = m.Last.append(b)
		b = appendArray(b, len(m.Streams))
		for i := range m.Streams {
			b = m.Streams[i].append(b)
		}
	case syncChunk:
		b = appendArray(b, 3)
		b = appendUint(b, m.Num)
		b = appendUint(b, flag(m.End))
		b = appendArray(b, len(m.Frames))
		for _, f := range m.Frames {
			b = appendBin(b, f)
		}
	case syncAck:
		b = appendArray(b, 2)
		b = appendUint(b, m.Num)
		b = appendUint(b, m.Fresh)
	case syncDetail:
		d := &m.Detail
		b = appendArray(b, 4)
		b = d.Key.append(b)
		b = appendUint(b, d.First)
		b = appendUint(b, d.Last)
		b = appendArray(b, 2*len(d.Hashes))
		for i := range d.Hashes {
			b = appendUint(b, d.Hashes[i].Seq)
			b = appendBin(b, d.Hashes[i].Hash[:])
		}
	case syncWant:
		b = appendArray(b, len(m.Want))
		for i := range m.Want {
			b = appendArray(b, 2)
			b = m.Want[i].Key.append(b)
			b = appendBin(b, appendWindow(nil, m.Want[i].Spans))
		}
	}
	return b
}

// decodeSync decodes a message strictly. Frames and texts remain slices of b.
func decodeSync(b []byte) (*syncMessage, error) {
	if len(b) > maxSyncMessage {
		return nil, fmt.Errorf("sync message of %d bytes, want at most %d", len(b), maxSyncMessage)
	}
	m := &syncMessage{}
	r := &reader{b: b}
	m.decodeHead(r)
	switch m.Kind {
	case syncCheck, syncSame, syncDiffer:
		var both [len(m.Root) + 8]byte // an answer is not longer than the check
		r.fixed(both[:])
		m.Root, m.Clock = [32]byte(both[:]), binary.BigEndian.Uint64(both[len(m.Root):])
	case syncVector:
		m.decodeVector(r)
	case syncChunk:
		r.arrayOf(3)
		m.Num = r.uint()
		m.End = r.flags(1) != 0
		m.Frames = make([][]byte, r.array(maxChunkFrames))
		for i := range m.Frames {
			m.Frames[i] = r.bin(MaxFrame)
		}
	case syncAck:
		r.arrayOf(2)
		m.Num, m.Fresh = r.uint(), r.uint()
	case syncDetail:
		m.Detail.decode(r)
	case syncWant:
		m.Want = make([]streamWant, r.array(maxWant))
		spans := maxDetail
		for i := range m.Want {
			r.arrayOf(2)
			m.Want[i].Key = readStreamKey(r)
			m.Want[i].Spans = readWindow(r, spans)
			spans -= len(m.Want[i].Spans)
		}
	default:
		r.fail(errors.New("unknown kind"))
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("sync message: %w", err)
	}
	return m, nil
}

// decodeHead decodes the fields that all messages begin with.
func (m *syncMessage) decodeHead(r *reader) {
	r.arrayOf(syncFields)
	if v := r.uint(); r.err == nil && v != SyncVersion {
		r.fail(fmt.Errorf("version %d, want %d", v, SyncVersion))
	}
	if kind := r.uint(); kind <= uint64(syncDiffer) {
		m.Kind = syncKind(kind)
	}
	r.fixed(m.From[:])
	m.Session = r.uint()
	m.Token = r.uint()
	if m.Token != 0 && m.Kind != syncDiffer && m.Kind != syncVector {
		r.fail(errors.New("a token where none belongs"))
	}
}

// syncHead decodes the head alone.
func syncHead(b []byte) (m syncMessage, ok bool) {
	r := &reader{b: b}
	m.decodeHead(r)
	return m, r.err == nil
}

func (m *syncMessage) decodeVector(r *reader) {
	r.arrayOf(5)
	r.fixed(m.Root[:])
	m.Reply = r.flags(1) != 0
	m.After, m.Last = readStreamKey(r), readStreamKey(r)
	n := r.array(maxVectorStreams)
	if n > len(r.b) {
		r.fail(errTruncated)
		return
	}
	m.Streams = make([]streamVector, n)
	spans := maxVectorSpans
	for i := range m.Streams {
		v := &m.Streams[i]
		v.decode(r, spans)
		spans -= len(v.Seen)
		if r.err == nil && i > 0 && m.Streams[i-1].Key.compare(v.Key) >= 0 {
			r.fail(errors.New("streams out of order"))
		}
	}
}

// decode decodes a stream with at most the given number of spans.
func (v *streamVector) decode(r *reader, spans int) {
	r.arrayOf(7)
	r.fixed(v.Key.origin[:])
	v.Key.epoch = r.uint()
	v.Live = r.uint()
	r.fixed(v.Sum[:])
	v.First, v.Last = r.uint(), r.uint()
	v.Seen = readWindow(r, spans)
	if v.Last == math.MaxUint64 {
		r.fail(errCanonical)
	}
	if v.Last == 0 {
		v.Last = math.MaxUint64
	}
	if n := len(v.Seen); r.err == nil && (v.First == 0 || v.Last < v.First || n > 0 && (v.Seen[0].first < v.First || v.Seen[n-1].last > v.Last)) {
		r.fail(errWindow)
	}
}

func (v *streamVector) append(b []byte) []byte {
	b = appendArray(b, 7)
	b = appendBin(b, v.Key.origin[:])
	b = appendUint(b, v.Key.epoch)
	b = appendUint(b, v.Live)
	b = appendBin(b, v.Sum[:])
	b = appendUint(b, v.First)
	last := v.Last
	if last == math.MaxUint64 {
		last = 0 // the usual case, shorter
	}
	b = appendUint(b, last)
	return appendBin(b, appendWindow(nil, v.Seen))
}

func (d *streamDetail) decode(r *reader) {
	r.arrayOf(4)
	d.Key = readStreamKey(r)
	d.First, d.Last = r.uint(), r.uint()
	n := r.array(2 * maxDetail)
	if n%2 != 0 || n > len(r.b) || d.Last < d.First {
		r.fail(errTruncated)
		return
	}
	d.Hashes = make([]seqHash, n/2)
	for i := range d.Hashes {
		h := &d.Hashes[i]
		h.Seq = r.uint()
		r.fixed(h.Hash[:])
		if r.err == nil && (h.Seq < d.First || h.Seq > d.Last || (i > 0 && d.Hashes[i-1].Seq >= h.Seq)) {
			r.fail(errors.New("numbers out of order"))
		}
	}
}

func (k streamKey) append(b []byte) []byte {
	b = appendArray(b, 2)
	b = appendBin(b, k.origin[:])
	return appendUint(b, k.epoch)
}

func readStreamKey(r *reader) (k streamKey) {
	r.arrayOf(2)
	r.fixed(k.origin[:])
	k.epoch = r.uint()
	return k
}

// readWindow decodes a window of at most the given number of spans.
func readWindow(r *reader, spans int) window {
	b := r.bin(maxSyncMessage)
	if r.err != nil {
		return nil
	}
	w, err := decodeWindow(b, spans)
	if err != nil {
		r.fail(err)
	}
	return w
}
