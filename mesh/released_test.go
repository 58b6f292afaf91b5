package mesh

import (
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/roster"
	"github.com/meshban/meshban/mesh/internal/transport"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// The messages between members are those of v0.1.0.
func TestSpeaksV010(t *testing.T) {
	id, to := meshtest.Known, frame.ID{1, 2}
	head := signed{MeshID: [16]byte{1}}
	n := notice{signed: head, To: to, Issued: meshtest.Start, Payload: []byte("payload")}
	report := transport.Report{Want: true, Small: time.Second, Large: time.Hour, Watched: time.Minute, Answer: []byte("answer")}
	raw := meshtest.Frame(t, id, 7, 1, meshtest.Start, time.Hour, "payload").Raw
	messages := map[string][]byte{
		"ask":          ask{signed: head, To: to, Nonce: [16]byte{3}, ReplyTo: "192.0.2.1:7946"}.encode(id),
		"bye":          bye{signed: head, Issued: meshtest.Start}.encode(id),
		"notice":       n.encode(id),
		"path":         n.signedIn(pathForm, id),
		"report":       report.Encode(),
		"query":        query{MeshID: [16]byte{1}, Text: []byte("question")}.encode(),
		"query answer": encodeQueryAnswer([]byte("answer")),
		"sight":        roster.Sight{Reached: true, From: netip.MustParseAddr("192.0.2.1")}.Encode(),
	}
	for name, kind := range map[string]byte{"push": wire.KindPush, "tree": wire.KindTree, "sync": wire.KindSync, "chunk": wire.KindChunk} {
		messages[name] = wire.Pack(kind, [][]byte{raw, raw})[0]
	}
	meshtest.Released(t, messages)
}
