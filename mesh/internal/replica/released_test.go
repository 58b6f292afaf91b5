package replica

import (
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
)

// The messages of a comparison are those of v0.1.0.
func TestSpeaksV010(t *testing.T) {
	key := StreamKey{Origin: meshtest.Known.ID(), Epoch: 7}
	f := meshtest.Frame(t, meshtest.Known, 7, 1, meshtest.Start, time.Hour, "payload")
	seen := window{{1, 3}, {5, 5}}
	of := func(kind syncKind, m Message) []byte {
		m.kind, m.From, m.Session = kind, frame.ID{1, 2}, 42
		return m.encode()
	}
	meshtest.Released(t, map[string][]byte{
		"frame":  f.Raw,
		"check":  of(syncCheck, Message{root: f.Hash(), clock: 1}),
		"same":   of(syncSame, Message{root: f.Hash(), clock: 1}),
		"differ": of(syncDiffer, Message{root: f.Hash(), clock: 1, token: 43}),
		"vector": of(syncVector, Message{root: f.Hash(), token: 43, reply: true, last: lastKey, streams: []streamVector{{Key: key, Live: 4, Sum: f.Hash(), First: 1, Last: 9, Seen: seen}}}),
		"chunk":  of(syncChunk, Message{num: 2, end: true, Frames: [][]byte{f.Raw}}),
		"ack":    of(syncAck, Message{num: 2, fresh: 1}),
		"detail": of(syncDetail, Message{detail: streamDetail{Key: key, First: 1, Last: 9, Hashes: []seqHash{{1, [shortHash]byte{1}}, {5, [shortHash]byte{2}}}}}),
		"want":   of(syncWant, Message{want: []streamWant{{Key: key, Spans: seen}}}),
	})
}
