package mesh

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
	syncVector                     // what I have seen, by stream; Reply asks for the other's
	syncChunk                      // frames; Num counts from 1 within the sender's transfer
	syncAck                        // chunk Num has been processed
	syncDetail                     // hashes of the live frames of one stream, within a range
	syncWant                       // send me these
	syncDiffer                     // answer to a check: my root differs
)

// The first byte of a sync message on its way: chunks, which carry frames, wait behind everything else.
const kindSync, kindChunk = 3, 4

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
	From    frame.ID
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
var lastKey = streamKey{frame.ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, math.MaxUint64}

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

// IsChunk reports whether the message carries frames.
func (m *syncMessage) IsChunk() bool { return m.Kind == syncChunk }

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
	b = wire.AppendArray(b, syncFields)
	b = wire.AppendUint(b, SyncVersion)
	b = wire.AppendUint(b, uint64(m.Kind))
	b = wire.AppendBin(b, m.From[:])
	b = wire.AppendUint(b, m.Session)
	b = wire.AppendUint(b, m.Token)
	switch m.Kind {
	case syncCheck, syncSame, syncDiffer:
		b = wire.AppendBin(b, binary.BigEndian.AppendUint64(m.Root[:], m.Clock))
	case syncVector:
		b = wire.AppendArray(b, 5)
		b = wire.AppendBin(b, m.Root[:])
		b = wire.AppendUint(b, wire.Flag(m.Reply))
		b = m.After.append(b)
		b = m.Last.append(b)
		b = wire.AppendArray(b, len(m.Streams))
		for i := range m.Streams {
			b = m.Streams[i].append(b)
		}
	case syncChunk:
		b = wire.AppendArray(b, 3)
		b = wire.AppendUint(b, m.Num)
		b = wire.AppendUint(b, wire.Flag(m.End))
		b = wire.AppendArray(b, len(m.Frames))
		for _, f := range m.Frames {
			b = wire.AppendBin(b, f)
		}
	case syncAck:
		b = wire.AppendArray(b, 2)
		b = wire.AppendUint(b, m.Num)
		b = wire.AppendUint(b, m.Fresh)
	case syncDetail:
		d := &m.Detail
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
		b = wire.AppendArray(b, len(m.Want))
		for i := range m.Want {
			b = wire.AppendArray(b, 2)
			b = m.Want[i].Key.append(b)
			b = wire.AppendBin(b, appendWindow(nil, m.Want[i].Spans))
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
	r := &wire.Reader{Rest: b}
	m.decodeHead(r)
	switch m.Kind {
	case syncCheck, syncSame, syncDiffer:
		var both [len(m.Root) + 8]byte // an answer is not longer than the check
		r.Fixed(both[:])
		m.Root, m.Clock = [32]byte(both[:]), binary.BigEndian.Uint64(both[len(m.Root):])
	case syncVector:
		m.decodeVector(r)
	case syncChunk:
		r.ArrayOf(3)
		m.Num = r.Uint()
		m.End = r.Flags(1) != 0
		m.Frames = make([][]byte, r.Array(maxChunkFrames))
		for i := range m.Frames {
			m.Frames[i] = r.Bin(frame.MaxSize)
		}
	case syncAck:
		r.ArrayOf(2)
		m.Num, m.Fresh = r.Uint(), r.Uint()
	case syncDetail:
		m.Detail.decode(r)
	case syncWant:
		m.Want = make([]streamWant, r.Array(maxWant))
		spans := maxDetail
		for i := range m.Want {
			r.ArrayOf(2)
			m.Want[i].Key = readStreamKey(r)
			m.Want[i].Spans = readWindow(r, spans)
			spans -= len(m.Want[i].Spans)
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
func (m *syncMessage) decodeHead(r *wire.Reader) {
	r.ArrayOf(syncFields)
	if v := r.Uint(); r.Err == nil && v != SyncVersion {
		r.Fail(fmt.Errorf("version %d, want %d", v, SyncVersion))
	}
	if kind := r.Uint(); kind <= uint64(syncDiffer) {
		m.Kind = syncKind(kind)
	}
	r.Fixed(m.From[:])
	m.Session = r.Uint()
	m.Token = r.Uint()
	if m.Token != 0 && m.Kind != syncDiffer && m.Kind != syncVector {
		r.Fail(errors.New("a token where none belongs"))
	}
}

// syncHead decodes the head alone.
func syncHead(b []byte) (m syncMessage, ok bool) {
	r := &wire.Reader{Rest: b}
	m.decodeHead(r)
	return m, r.Err == nil
}

func (m *syncMessage) decodeVector(r *wire.Reader) {
	r.ArrayOf(5)
	r.Fixed(m.Root[:])
	m.Reply = r.Flags(1) != 0
	m.After, m.Last = readStreamKey(r), readStreamKey(r)
	n := r.Array(maxVectorStreams)
	if n > len(r.Rest) {
		r.Fail(wire.ErrTruncated)
		return
	}
	m.Streams = make([]streamVector, n)
	spans := maxVectorSpans
	for i := range m.Streams {
		v := &m.Streams[i]
		v.decode(r, spans)
		spans -= len(v.Seen)
		if r.Err == nil && i > 0 && m.Streams[i-1].Key.compare(v.Key) >= 0 {
			r.Fail(errors.New("streams out of order"))
		}
	}
}

// decode decodes a stream with at most the given number of spans.
func (v *streamVector) decode(r *wire.Reader, spans int) {
	r.ArrayOf(7)
	r.Fixed(v.Key.origin[:])
	v.Key.epoch = r.Uint()
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
	b = wire.AppendBin(b, v.Key.origin[:])
	b = wire.AppendUint(b, v.Key.epoch)
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

func (k streamKey) append(b []byte) []byte {
	b = wire.AppendArray(b, 2)
	b = wire.AppendBin(b, k.origin[:])
	return wire.AppendUint(b, k.epoch)
}

func readStreamKey(r *wire.Reader) (k streamKey) {
	r.ArrayOf(2)
	r.Fixed(k.origin[:])
	k.epoch = r.Uint()
	return k
}

// readWindow decodes a window of at most the given number of spans.
func readWindow(r *wire.Reader, spans int) window {
	b := r.Bin(maxSyncMessage)
	if r.Err != nil {
		return nil
	}
	w, err := decodeWindow(b, spans)
	if err != nil {
		r.Fail(err)
	}
	return w
}
