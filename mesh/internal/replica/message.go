package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// The messages of anti-entropy. Each names its sender (memberlist does not) and the session. None is signed: frames
// carry their own proof, and the session numbers prove the rest. Each side gives a session a number that it tells only
// its peer, and accepts only messages with that number. So a message forged in another node's name matches no session.
// The exception is a check, which is answered with a message of the same size and leaves no state (see syncer.cookie).

type syncKind uint8

const (
	syncCheck  syncKind = 1 + iota // initiator: this is my root
	syncSame                       // answer: mine too
	syncVector                     // what I have seen, by stream; reply asks for the other's
	syncChunk                      // frames; num counts from 1 within the sender's transfer
	syncAck                        // chunk num has been processed
	syncDetail                     // hashes of the live frames of one stream, within a range
	syncWant                       // send me these
	syncDiffer                     // answer to a check: my root differs
)

const (
	// maxChunk bounds the frames in one message, in bytes.
	maxChunk = 256 << 10
	// MaxChunkFrames bounds their number.
	MaxChunkFrames = 4096
	// MaxMessage bounds a message, in bytes.
	MaxMessage = 512 << 10
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

// Message is one message of anti-entropy.
type Message struct {
	kind    syncKind
	From    frame.ID
	Session uint64 // the receiver's number for it; check: the sender's
	token   uint64 // differ, vector with reply: the sender's number for the session

	root  [32]byte // check, same, differ, vector
	clock uint64   // check, same, differ: the sender's clock, in milliseconds since 1970
	reply bool     // vector
	// after (exclusive) and last (inclusive) bound the range of keys in which a vector lists all streams of the sender.
	// It may list others too.
	after, last StreamKey
	streams     []streamVector
	num         uint64   // chunk, ack
	end         bool     // chunk: the last one
	fresh       uint64   // ack: how many frames of the chunk were new
	Frames      [][]byte // chunk
	detail      streamDetail
	want        []streamWant

	more bool // a part of a vector, but not the last; never sent
}

// lastKey is the highest possible key.
var lastKey = StreamKey{frame.ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, math.MaxUint64}

type streamVector struct {
	Key         StreamKey
	Live        uint64
	Sum         [sumLen]byte
	First, Last uint64 // the range that Seen covers, both included
	Seen        window

	more bool // a piece of a window, but not the last; never sent
}

type streamDetail struct {
	Key         StreamKey
	First, Last uint64 // the range that Hashes covers completely
	Hashes      []seqHash

	asked bool // frames in it were requested; never sent
}

type seqHash struct {
	Seq  uint64
	Hash [shortHash]byte
}

type streamWant struct {
	Key   StreamKey
	Spans window
}

// IsChunk reports whether the message carries frames.
func (m *Message) IsChunk() bool { return m.kind == syncChunk }

// Split yields a message in parts, each of which takes a bounded time to process.
func (m *Message) Split(yield func(*Message) bool) {
	if m.kind != syncVector {
		yield(m)
		return
	}
	part := *m
	part.streams, part.more = nil, true
	cost := 0
	flush := func() bool {
		if last := part.streams[len(part.streams)-1].Key; part.more && last.compare(m.last) < 0 {
			part.last = last
		} else {
			part.last = m.last
		}
		one := part
		part.streams, cost = nil, 0
		if part.last.compare(part.after) > 0 {
			part.after = part.last
		}
		return yield(&one)
	}
	for _, v := range m.streams {
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
			part.streams = append(part.streams, piece)
			cost, v = maxVectorPart, rest
		}
		part.streams = append(part.streams, v)
		cost += 1 + len(v.Seen)
	}
	part.more, part.last = false, m.last
	yield(&part)
}

// encode returns the message as DecodeMessage decodes it.
func (m *Message) encode() []byte {
	var b []byte
	b = wire.AppendArray(b, syncFields)
	b = wire.AppendUint(b, SyncVersion)
	b = wire.AppendUint(b, uint64(m.kind))
	b = wire.AppendBin(b, m.From[:])
	b = wire.AppendUint(b, m.Session)
	b = wire.AppendUint(b, m.token)
	switch m.kind {
	case syncCheck, syncSame, syncDiffer:
		b = wire.AppendBin(b, binary.BigEndian.AppendUint64(m.root[:], m.clock))
	case syncVector:
		b = wire.AppendArray(b, 5)
		b = wire.AppendBin(b, m.root[:])
		b = wire.AppendUint(b, wire.Flag(m.reply))
		b = m.after.append(b)
		b = m.last.append(b)
		b = wire.AppendArray(b, len(m.streams))
		for i := range m.streams {
			b = m.streams[i].append(b)
		}
	case syncChunk:
		b = wire.AppendArray(b, 3)
		b = wire.AppendUint(b, m.num)
		b = wire.AppendUint(b, wire.Flag(m.end))
		b = wire.AppendArray(b, len(m.Frames))
		for _, f := range m.Frames {
			b = wire.AppendBin(b, f)
		}
	case syncAck:
		b = wire.AppendArray(b, 2)
		b = wire.AppendUint(b, m.num)
		b = wire.AppendUint(b, m.fresh)
	case syncDetail:
		d := &m.detail
		b = wire.AppendArray(b, 4)
		b = d.Key.append(b)
		b = wire.AppendUint(b, d.First)
		b = wire.AppendUint(b, d.Last)
		b = wire.AppendArray(b, 2*len(d.Hashes))
		for i := range d.Hashes {
			b = wire.AppendUint(b, d.Hashes[i].Seq)
			b = wire.AppendBin(b, d.Hashes[i].Hash[:])
		}
	case syncWant:
		b = wire.AppendArray(b, len(m.want))
		for i := range m.want {
			b = wire.AppendArray(b, 2)
			b = m.want[i].Key.append(b)
			b = wire.AppendBin(b, appendWindow(nil, m.want[i].Spans))
		}
	}
	return b
}

// DecodeMessage decodes a message strictly. Frames and texts remain slices of b.
func DecodeMessage(b []byte) (*Message, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("sync message of %d bytes, want at most %d", len(b), MaxMessage)
	}
	m := &Message{}
	r := &wire.Reader{Rest: b}
	m.decodeHead(r)
	switch m.kind {
	case syncCheck, syncSame, syncDiffer:
		var both [len(m.root) + 8]byte // an answer is not longer than the check
		r.Fixed(both[:])
		m.root, m.clock = [32]byte(both[:]), binary.BigEndian.Uint64(both[len(m.root):])
	case syncVector:
		m.decodeVector(r)
	case syncChunk:
		r.ArrayOf(3)
		m.num = r.Uint()
		m.end = r.Flags(1) != 0
		m.Frames = make([][]byte, r.Array(MaxChunkFrames))
		for i := range m.Frames {
			m.Frames[i] = r.Bin(frame.MaxSize)
		}
	case syncAck:
		r.ArrayOf(2)
		m.num, m.fresh = r.Uint(), r.Uint()
	case syncDetail:
		m.detail.decode(r)
	case syncWant:
		m.want = make([]streamWant, r.Array(maxWant))
		spans := maxDetail
		for i := range m.want {
			r.ArrayOf(2)
			m.want[i].Key = readStreamKey(r)
			m.want[i].Spans = readWindow(r, spans)
			spans -= len(m.want[i].Spans)
		}
	default:
		r.Fail(errors.New("unknown kind"))
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("sync message: %w", err)
	}
	return m, nil
}

// decodeHead decodes the fields that all messages begin with.
func (m *Message) decodeHead(r *wire.Reader) {
	r.ArrayOf(syncFields)
	if v := r.Uint(); r.Err == nil && v != SyncVersion {
		r.Fail(fmt.Errorf("version %d, want %d", v, SyncVersion))
	}
	if kind := r.Uint(); kind <= uint64(syncDiffer) {
		m.kind = syncKind(kind)
	}
	r.Fixed(m.From[:])
	m.Session = r.Uint()
	m.token = r.Uint()
	if m.token != 0 && m.kind != syncDiffer && m.kind != syncVector {
		r.Fail(errors.New("a token where none belongs"))
	}
}

// DecodeHead decodes the head alone.
func DecodeHead(b []byte) (m Message, ok bool) {
	r := &wire.Reader{Rest: b}
	m.decodeHead(r)
	return m, r.Err == nil
}

func (m *Message) decodeVector(r *wire.Reader) {
	r.ArrayOf(5)
	r.Fixed(m.root[:])
	m.reply = r.Flags(1) != 0
	m.after, m.last = readStreamKey(r), readStreamKey(r)
	n := r.Array(maxVectorStreams)
	if n > len(r.Rest) {
		r.Fail(wire.ErrTruncated)
		return
	}
	m.streams = make([]streamVector, n)
	spans := maxVectorSpans
	for i := range m.streams {
		v := &m.streams[i]
		v.decode(r, spans)
		spans -= len(v.Seen)
		if r.Err == nil && i > 0 && m.streams[i-1].Key.compare(v.Key) >= 0 {
			r.Fail(errors.New("streams out of order"))
		}
	}
}

// decode decodes a stream with at most the given number of spans.
func (v *streamVector) decode(r *wire.Reader, spans int) {
	r.ArrayOf(7)
	r.Fixed(v.Key.Origin[:])
	v.Key.Epoch = r.Uint()
	v.Live = r.Uint()
	r.Fixed(v.Sum[:])
	v.First, v.Last = r.Uint(), r.Uint()
	v.Seen = readWindow(r, spans)
	if v.Last == math.MaxUint64 {
		r.Fail(wire.ErrCanonical)
	}
	if v.Last == 0 {
		v.Last = math.MaxUint64
	}
	if n := len(v.Seen); r.Err == nil && (v.First == 0 || v.Last < v.First || n > 0 && (v.Seen[0].first < v.First || v.Seen[n-1].last > v.Last)) {
		r.Fail(errWindow)
	}
}

func (v *streamVector) append(b []byte) []byte {
	b = wire.AppendArray(b, 7)
	b = wire.AppendBin(b, v.Key.Origin[:])
	b = wire.AppendUint(b, v.Key.Epoch)
	b = wire.AppendUint(b, v.Live)
	b = wire.AppendBin(b, v.Sum[:])
	b = wire.AppendUint(b, v.First)
	last := v.Last
	if last == math.MaxUint64 {
		last = 0 // the usual case, shorter
	}
	b = wire.AppendUint(b, last)
	return wire.AppendBin(b, appendWindow(nil, v.Seen))
}

func (d *streamDetail) decode(r *wire.Reader) {
	r.ArrayOf(4)
	d.Key = readStreamKey(r)
	d.First, d.Last = r.Uint(), r.Uint()
	n := r.Array(2 * maxDetail)
	if n%2 != 0 || n > len(r.Rest) || d.Last < d.First {
		r.Fail(wire.ErrTruncated)
		return
	}
	d.Hashes = make([]seqHash, n/2)
	for i := range d.Hashes {
		h := &d.Hashes[i]
		h.Seq = r.Uint()
		r.Fixed(h.Hash[:])
		if r.Err == nil && (h.Seq < d.First || h.Seq > d.Last || (i > 0 && d.Hashes[i-1].Seq >= h.Seq)) {
			r.Fail(errors.New("numbers out of order"))
		}
	}
}

func (k StreamKey) append(b []byte) []byte {
	b = wire.AppendArray(b, 2)
	b = wire.AppendBin(b, k.Origin[:])
	return wire.AppendUint(b, k.Epoch)
}

func readStreamKey(r *wire.Reader) (k StreamKey) {
	r.ArrayOf(2)
	r.Fixed(k.Origin[:])
	k.Epoch = r.Uint()
	return k
}

// readWindow decodes a window of at most the given number of spans.
func readWindow(r *wire.Reader, spans int) window {
	b := r.Bin(MaxMessage)
	if r.Err != nil {
		return nil
	}
	w, err := decodeWindow(b, spans)
	if err != nil {
		r.Fail(err)
	}
	return w
}
