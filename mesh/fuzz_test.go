package mesh

import (
	"bytes"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/transport"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// For every decoder: what it accepts has exactly one encoding, so encoding it again yields the same bytes.

func FuzzDecodeAsk(f *testing.F) {
	f.Add(ask{To: frame.ID{1}, Nonce: [16]byte{2}, ReplyTo: "192.0.2.1:7946"}.encode(signers[0])[1:])
	f.Add(ask{signed: signed{MeshID: [16]byte{3}}, To: frame.ID{1}}.encode(signers[0])[1:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := decodeAsk(b); err == nil && !bytes.Equal(append(q.encodeBody(), q.sig...), b) {
			t.Errorf("question encoded as %x, was %x", q.encodeBody(), b)
		}
	})
}

func FuzzDecodeNotice(f *testing.F) {
	f.Add(notice{To: frame.ID{1}, Issued: simStart, Payload: []byte("hello")}.encode(signers[0])[1:])
	f.Add(notice{signed: signed{MeshID: [16]byte{2}}, Issued: simStart, Payload: make([]byte, MaxNotice)}.encode(signers[1])[1:])
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decodeNotice(b)
		if err != nil {
			return
		}
		if got := append(n.encodeBody(), n.sig...); !bytes.Equal(got, b) {
			t.Errorf("encoded as %x, was %x", got, b)
		}
		if len(n.Payload) > MaxNotice {
			t.Errorf("accepted a payload of %d bytes", len(n.Payload))
		}
	})
}

// Whatever a member sends, the core carries on and holds nothing unsigned.
func FuzzMessage(f *testing.F) {
	good := testFrame(f, signers[0], 3, 9, time.Now(), time.Hour, "payload")
	for kind := uint64(wireCheck); kind <= wireDiffer; kind++ {
		b := wireSync{kind: kind, from: frame.ID{1}, session: 5, frames: [][]byte{good.Raw}, key: frame.Ref{Origin: frame.ID{2}, Epoch: 3}}.encode()
		f.Add(b)
		f.Add(append([]byte{wire.KindSync + wire.KindChunk - b[0]}, b[1:]...))
	}
	f.Add(wire.Pack(wire.KindPush, [][]byte{good.Raw, good.Raw})[0])
	f.Add(wire.Pack(wire.KindTree, [][]byte{good.Raw[:90]})[0])
	f.Add(ask{To: signers[1].ID(), Nonce: [16]byte{2}, ReplyTo: "192.0.2.1:7946"}.encode(signers[0]))
	f.Add(ask{To: signers[1].ID()}.encode(signers[1]))
	f.Add(bye{Issued: simStart}.encode(signers[0]))
	f.Add(notice{To: signers[1].ID(), Issued: time.Now(), Payload: []byte("hello")}.encode(signers[0]))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := New(Config{Identity: signers[1], Secrets: pki.Secrets{GossipKey: [32]byte{1}}, Epoch: 1, Bind: netip.MustParseAddrPort("127.0.0.1:0")})
		if err != nil {
			t.Fatal(err)
		}
		m.apply(replica.UpEvent{Peer: frame.ID{1}})
		delegate{m}.NotifyMsg(b)
		select {
		case b := <-m.inbox:
			m.drain(b)
		case b := <-m.later:
			m.drainLater(b)
		default:
		}
		for m.bulkSlice() {
		}
		for f := range m.Frames() {
			if f.Verify() != nil {
				t.Errorf("holds a frame that is not signed: %v", f.Ref())
			}
		}
	})
}

// An accepted path message has exactly one meaning, and probes have the length that they test.
func FuzzPath(f *testing.F) {
	m, err := New(Config{Identity: signers[1], Secrets: pki.Secrets{GossipKey: [32]byte{1}}, Epoch: 1, Bind: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		f.Fatal(err)
	}
	say := func(payload []byte) []byte {
		n := notice{To: signers[1].ID(), Issued: simStart, Payload: payload}
		return wire.AppendPacked(nil, n.signedIn(pathForm, signers[0]))
	}
	report := transport.Report{Want: true, Small: time.Second, Large: math.MaxUint32 * time.Millisecond, Watched: time.Minute, Answer: make([]byte, ackLen)}
	f.Add(say(report.Encode()))
	f.Add(say([]byte{byte(transport.IsSmallProbe)}))
	large := say([]byte{byte(transport.IsLargeProbe)})
	f.Add(append(large, make([]byte, wire.MaxPacket-1-len(large))...))
	f.Add(say([]byte{byte(transport.IsLargeProbe + 1)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, part, report, ok := m.openPath(b)
		if !ok {
			return
		}
		if n.To != m.id || len(n.Payload) == 0 || n.Payload[0] != byte(part) || part > transport.IsLargeProbe {
			t.Errorf("took %+v as part %d", n, part)
		}
		if part == transport.IsReport && !bytes.Equal(report.Encode(), n.Payload) {
			t.Errorf("encoded as %x, was %x", report.Encode(), n.Payload)
		}
		if (part == transport.IsLargeProbe) != (1+len(b) == wire.MaxPacket) {
			t.Errorf("part %d in %d bytes", part, 1+len(b))
		}
		m.pathMessage(b) // nobody is a member: it must have no effect
		if m.paths.Some() {
			t.Error("a path to nobody")
		}
	})
}
