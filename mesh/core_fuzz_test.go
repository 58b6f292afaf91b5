package mesh

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
		m, err := decodeSync(b)
		if err != nil {
			return
		}
		if got := m.encode(); !bytes.Equal(got, b) {
			t.Errorf("encoded as %x, was %x", got, b)
		}
	})
}

func syncSamples() []*syncMessage {
	key := streamKey{frame.ID{1, 2, 3}, 4}
	return []*syncMessage{
		{Kind: syncCheck, From: frame.ID{1}, Session: 1 << 60, Root: [32]byte{1}, Clock: 9},
		{Kind: syncSame, From: frame.ID{1}, Root: [32]byte{2}, Clock: wire.MaxMillis},
		{Kind: syncDiffer, From: frame.ID{1}, Session: 1, Token: 2, Root: [32]byte{2}},
		{Kind: syncVector, Reply: true, Token: 9, Last: lastKey, Streams: []streamVector{
			{Key: key, Live: 7, Sum: [sumLen]byte{3}, First: 1, Last: math.MaxUint64, Seen: window{{1, 5}, {9, 9}}},
			{Key: streamKey{frame.ID{2}, 1}, First: 4, Last: 4, Seen: window{{4, 4}}},
		}},
		{Kind: syncVector, After: key, Last: key},
		{Kind: syncChunk, Num: 1, Frames: [][]byte{{1, 2, 3}, make([]byte, frame.MaxSize)}},
		{Kind: syncChunk, End: true},
		{Kind: syncAck, Num: 3, Fresh: 4},
		{Kind: syncDetail, Detail: streamDetail{Key: key, First: 1, Last: 90, Hashes: []seqHash{{2, [8]byte{1}}, {90, [8]byte{}}}}},
		{Kind: syncWant, Want: []streamWant{{key, window{{3, 4}}}, {key, nil}}},
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
