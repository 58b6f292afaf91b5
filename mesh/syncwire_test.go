package mesh

import (
	"math"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// Kinds of sync messages, in the numbers that travel.
const (
	wireCheck = 1 + iota
	wireSame
	wireVector
	wireChunk
	wireAck
	wireDetail
	wireWant
	wireDiffer
)

// wireSync is a sync message as anyone may write it.
type wireSync struct {
	kind           uint64
	from           frame.ID
	session, token uint64
	root           [32]byte
	clock          uint64
	reply          bool
	streams        []byte   // vector: as wireStreams lists them
	num            uint64   // chunk, ack
	last           bool     // chunk
	fresh          uint64   // ack
	frames         [][]byte // chunk
	key            frame.Ref
}

// wireAll lists every number but the highest, as a window.
var wireAll = wire.AppendBin(nil, append([]byte{1}, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1))

func appendKey(b []byte, origin frame.ID, epoch uint64) []byte {
	return wire.AppendUint(wire.AppendBin(wire.AppendArray(b, 2), origin[:]), epoch)
}

// wireStream is a stream's entry in a vector: so many live frames, with a digest of zeros, and every number seen.
func wireStream(b []byte, origin frame.ID, epoch, live uint64) []byte {
	b = wire.AppendUint(wire.AppendBin(wire.AppendArray(b, 7), origin[:]), epoch)
	b = wire.AppendBin(wire.AppendUint(b, live), make([]byte, 32))
	return append(wire.AppendUint(wire.AppendUint(b, 1), 0), wireAll...)
}

func (m wireSync) encode() []byte {
	outer := byte(wire.KindSync)
	if m.kind == wireChunk {
		outer = wire.KindChunk
	}
	b := wire.AppendArray([]byte{outer}, 6)
	for _, v := range []uint64{replica.SyncVersion, m.kind} {
		b = wire.AppendUint(b, v)
	}
	b = wire.AppendBin(b, m.from[:])
	b = wire.AppendUint(wire.AppendUint(b, m.session), m.token)
	switch m.kind {
	case wireCheck, wireSame, wireDiffer:
		clock := [8]byte{7: byte(m.clock)}
		return wire.AppendBin(b, append(m.root[:len(m.root):len(m.root)], clock[:]...))
	case wireVector:
		b = wire.AppendUint(wire.AppendBin(wire.AppendArray(b, 5), m.root[:]), wire.Flag(m.reply))
		var highest frame.ID
		for i := range highest {
			highest[i] = 0xff
		}
		b = appendKey(appendKey(b, frame.ID{}, 0), highest, math.MaxUint64)
		if m.streams == nil {
			return wire.AppendArray(b, 0)
		}
		return append(b, m.streams...)
	case wireChunk:
		b = wire.AppendUint(wire.AppendUint(wire.AppendArray(b, 3), m.num), wire.Flag(m.last))
		b = wire.AppendArray(b, len(m.frames))
		for _, f := range m.frames {
			b = wire.AppendBin(b, f)
		}
	case wireAck:
		b = wire.AppendUint(wire.AppendUint(wire.AppendArray(b, 2), m.num), m.fresh)
	case wireDetail:
		b = appendKey(wire.AppendArray(b, 4), m.key.Origin, m.key.Epoch)
		b = wire.AppendArray(wire.AppendUint(wire.AppendUint(b, 1), math.MaxUint64), 0)
	case wireWant:
		b = appendKey(wire.AppendArray(wire.AppendArray(b, 1), 2), m.key.Origin, m.key.Epoch)
		b = append(b, wireAll...)
	}
	return b
}

// readWireHead reads what a message begins with, after the byte of its kind.
func readWireHead(b []byte) (m wireSync) {
	r := wire.Reader{Rest: b}
	r.ArrayOf(6)
	_, m.kind = r.Uint(), r.Uint()
	r.Fixed(m.from[:])
	m.session, m.token = r.Uint(), r.Uint()
	return m
}

// What the tests write by hand is what the core reads.
func TestWireSync(t *testing.T) {
	streams := wireStream(wire.AppendArray(nil, 1), frame.ID{2}, 3, 4)
	for kind := uint64(wireCheck); kind <= wireDiffer; kind++ {
		m := wireSync{kind: kind, from: frame.ID{1}, session: 5, streams: streams, num: 6, frames: [][]byte{{1}}, key: frame.Ref{Origin: frame.ID{2}, Epoch: 3}}
		if _, err := replica.DecodeMessage(m.encode()[1:]); err != nil {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
}

// visit makes a peer begin a session with a node that does not run, and returns the node's name for it.
func visit(t *testing.T, m *Mesh, id frame.ID) (session uint64) {
	t.Helper()
	say := func(msg wireSync) []replica.Outgoing {
		read, err := replica.DecodeMessage(msg.encode()[1:])
		if err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.stepLocked(m.now(), replica.MessageEvent{Msg: read}).Send
	}
	const mine = 77
	m.apply(replica.UpEvent{Peer: id})
	said := say(wireSync{kind: wireCheck, from: id, session: mine, root: [32]byte{1}})
	if len(said) != 1 {
		t.Fatalf("%d answers to a check, want 1", len(said))
	}
	answer := readWireHead(said[0].Msg)
	if answer.kind != wireDiffer || answer.session != mine {
		t.Fatalf("the answer to a check is %+v", answer)
	}
	session = answer.token
	if said := say(wireSync{kind: wireVector, from: id, session: session, token: mine, reply: true, root: [32]byte{1}}); len(said) == 0 {
		t.Fatal("no answer to a vector")
	}
	return session
}

// answersChecks reports whether a node that does not run answers a peer that asks for a session.
func answersChecks(t *testing.T, m *Mesh, id frame.ID, at time.Time) bool {
	read, err := replica.DecodeMessage(wireSync{kind: wireCheck, from: id, session: 78, root: [32]byte{1}}.encode()[1:])
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, out := range m.stepLocked(at, replica.MessageEvent{Msg: read}).Send {
		if out.Session == 0 { // the answer to a check belongs to no session yet
			return true
		}
	}
	return false
}
