package replica

import (
	"bytes"
	"math"
	"testing"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

func FuzzDecodeSync(f *testing.F) {
	for _, m := range syncSamples() {
		f.Add(m.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			return
		}
		if got := m.encode(); !bytes.Equal(got, b) {
			t.Errorf("encoded as %x, was %x", got, b)
		}
	})
}

func syncSamples() []*Message {
	key := StreamKey{frame.ID{1, 2, 3}, 4}
	return []*Message{
		{kind: syncCheck, From: frame.ID{1}, Session: 1 << 60, root: [32]byte{1}, clock: 9},
		{kind: syncSame, From: frame.ID{1}, root: [32]byte{2}, clock: wire.MaxMillis},
		{kind: syncDiffer, From: frame.ID{1}, Session: 1, token: 2, root: [32]byte{2}},
		{kind: syncVector, reply: true, token: 9, last: lastKey, streams: []streamVector{
			{Key: key, Live: 7, Sum: [sumLen]byte{3}, First: 1, Last: math.MaxUint64, Seen: window{{1, 5}, {9, 9}}},
			{Key: StreamKey{frame.ID{2}, 1}, First: 4, Last: 4, Seen: window{{4, 4}}},
		}},
		{kind: syncVector, after: key, last: key},
		{kind: syncChunk, num: 1, Frames: [][]byte{{1, 2, 3}, make([]byte, frame.MaxSize)}},
		{kind: syncChunk, end: true},
		{kind: syncAck, num: 3, fresh: 4},
		{kind: syncDetail, detail: streamDetail{Key: key, First: 1, Last: 90, Hashes: []seqHash{{2, [8]byte{1}}, {90, [8]byte{}}}}},
		{kind: syncWant, want: []streamWant{{key, window{{3, 4}}}, {key, nil}}},
	}
}

// What is accepted of a window has one encoding.
func FuzzWindow(f *testing.F) {
	f.Add(appendWindow(nil, window{{1, 5}, {9, 9}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := decodeWindow(b, maxSpans); err == nil && !bytes.Equal(appendWindow(nil, w), b) {
			t.Errorf("window encoded as %x, was %x", appendWindow(nil, w), b)
		}
	})
}
