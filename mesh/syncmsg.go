package mesh

import (
	"errors"
	"fmt"
)

// The messages of anti-entropy. Each names its sender (memberlist does not) and the session that the initiator chose.
// None is signed: frames carry their own proof, and all else is a hint that costs a bounded effort when it is wrong.

type syncKind uint8

const (
	syncCheck  syncKind = 1 + iota // initiator: this is my root
	syncSame                       // answer: mine too
	syncVector                     // what I have seen, by stream; Reply asks for the other's
	syncChunk                      // frames; Num counts from 1 within the sender's transfer
	syncAck                        // I have looked at chunk Num
	syncDetail                     // hashes of the live frames of one stream, within a range
	syncWant                       // send me these
)

const (
	// maxChunk bounds the frames in one message, in bytes.
	maxChunk = 256 << 10
	// maxChunkFrames bounds their number.
	maxChunkFrames = 4096
	// maxSyncMessage bounds a message, in bytes; longer vectors are sent in part.
	maxSyncMessage = 4 << 20
	// maxVectorStreams bounds the streams in one vector.
	maxVectorStreams = 32 << 10
	// maxDetail bounds the hashes in one message.
	maxDetail = 16 << 10
	// maxWant bounds the streams in one request.
	maxWant = 64

	syncVersion = 1
	syncFields  = 5
	sumLen      = 16 // bytes of a stream's digest that a vector carries
	shortHash   = 8  // bytes of a frame's hash that a detail carries
)

type syncMessage struct {
	Kind    syncKind
	From    ID
	Session uint64

	Root    [32]byte // check, same, vector
	Reply   bool     // vector
	Partial bool     // vector: streams that are not listed may exist
	Streams []streamVector
	Num     uint64   // chunk, ack
	Last    bool     // chunk: nothing more is coming
	Fresh   uint64   // ack: how many frames of the chunk were new
	Frames  [][]byte // chunk
	Detail  streamDetail
	Want    []streamWant
}

type streamVector struct {
	Key  streamKey
	Live uint64
	Sum  [sumLen]byte
	Seen window
}

type streamDetail struct {
	Key         streamKey
	First, Last uint64 // the range that Hashes covers completely
	Hashes      []seqHash
}

type seqHash struct {
	Seq  uint64
	Hash [shortHash]byte
}

type streamWant struct {
	Key   streamKey
	Spans window
}

// encode gives the message as DecodeSync reads it.
func (m *syncMessage) encode() []byte {
	var b []byte
	b = appendArray(b, syncFields)
	b = appendUint(b, syncVersion)
	b = appendUint(b, uint64(m.Kind))
	b = appendBin(b, m.From[:])
	b = appendUint(b, m.Session)
	switch m.Kind {
	case syncCheck, syncSame:
		b = appendBin(b, m.Root[:])
	case syncVector:
		b = appendArray(b, 3)
		b = appendBin(b, m.Root[:])
		b = appendUint(b, flag(m.Reply)|flag(m.Partial)<<1)
		b = appendArray(b, len(m.Streams))
		for i := range m.Streams {
			b = m.Streams[i].append(b)
		}
	case syncChunk:
		b = appendArray(b, 3)
		b = appendUint(b, m.Num)
		b = appendUint(b, flag(m.Last))
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

// decodeSync reads a message strictly. Frames and texts stay part of b.
func decodeSync(b []byte) (*syncMessage, error) {
	if len(b) > maxSyncMessage {
		return nil, fmt.Errorf("sync message of %d bytes, want at most %d", len(b), maxSyncMessage)
	}
	m := &syncMessage{}
	r := &reader{b: b}
	r.arrayOf(syncFields)
	if v := r.uint(); r.err == nil && v != syncVersion {
		return nil, fmt.Errorf("sync message of version %d, want %d", v, syncVersion)
	}
	kind := r.uint()
	r.fixed(m.From[:])
	m.Session = r.uint()
	if kind > uint64(syncWant) {
		kind = 0
	}
	m.Kind = syncKind(kind)
	switch m.Kind {
	case syncCheck, syncSame:
		r.fixed(m.Root[:])
	case syncVector:
		m.decodeVector(r)
	case syncChunk:
		r.arrayOf(3)
		m.Num = r.uint()
		m.Last = r.flags(1) != 0
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
		for i := range m.Want {
			r.arrayOf(2)
			m.Want[i].Key = r.streamKey()
			m.Want[i].Spans = r.window()
		}
	default:
		r.fail(errors.New("unknown kind"))
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("sync message: %w", err)
	}
	return m, nil
}

func (m *syncMessage) decodeVector(r *reader) {
	r.arrayOf(3)
	r.fixed(m.Root[:])
	flags := r.flags(3)
	m.Reply, m.Partial = flags&1 != 0, flags&2 != 0
	n := r.array(maxVectorStreams)
	if n > len(r.b) {
		r.fail(errTruncated)
		return
	}
	m.Streams = make([]streamVector, n)
	for i := range m.Streams {
		v := &m.Streams[i]
		r.arrayOf(5)
		r.fixed(v.Key.origin[:])
		v.Key.epoch = r.uint()
		v.Live = r.uint()
		r.fixed(v.Sum[:])
		v.Seen = r.window()
		if r.err == nil && i > 0 && m.Streams[i-1].Key.compare(v.Key) >= 0 {
			r.fail(errors.New("streams out of order"))
		}
	}
}

func (v *streamVector) append(b []byte) []byte {
	b = appendArray(b, 5)
	b = appendBin(b, v.Key.origin[:])
	b = appendUint(b, v.Key.epoch)
	b = appendUint(b, v.Live)
	b = appendBin(b, v.Sum[:])
	return appendBin(b, appendWindow(nil, v.Seen))
}

func (d *streamDetail) decode(r *reader) {
	r.arrayOf(4)
	d.Key = r.streamKey()
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

func (r *reader) streamKey() (k streamKey) {
	r.arrayOf(2)
	r.fixed(k.origin[:])
	k.epoch = r.uint()
	return k
}

func (r *reader) window() window {
	b := r.bin(maxSyncMessage)
	if r.err != nil {
		return nil
	}
	w, err := decodeWindow(b)
	if err != nil {
		r.fail(err)
	}
	return w
}

// arrayOf wants an array of exactly n.
func (r *reader) arrayOf(n int) {
	if got := r.array(n); r.err == nil && got != n {
		r.fail(fmt.Errorf("list of %d, want %d", got, n))
	}
}

// flags reads a number of which no bits but those of known are set.
func (r *reader) flags(known uint64) uint64 {
	v := r.uint()
	if v&^known != 0 {
		r.fail(errors.New("unknown flags"))
		return 0
	}
	return v
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
