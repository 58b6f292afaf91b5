package mesh

import (
	"bytes"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// attacker returns the identity of a malicious member. It is not a node of the fleet.
func attacker() pki.Identity { return simKeys()[len(simKeys())-1] }

// attack injects a frame that is wrong in one of several ways at some of the nodes.
func (w *simWorld) attack() {
	if w.calm {
		return
	}
	at := simEpoch.Add(w.at)
	f := frame.Frame{MeshID: simSecrets.MeshID, Epoch: 1, Seq: 1 + w.rng.Uint64N(20), Issued: at, Expires: at.Add(time.Hour)}
	f.Payload, f.Expires = NewSimAttack(SimGarbage, at)
	switch w.rng.IntN(5) {
	case 0:
		w.faults[faultForged]++
		victim := w.nodes[w.rng.IntN(len(w.nodes))].key
		w.spread(bytes.Replace(w.sign(f, false).Raw, attacker().Public(), victim.Public(), 1))
	case 1:
		w.faults[faultForged]++
		f.MeshID[0]++
		w.spread(w.sign(f, false).Raw)
	case 2:
		w.faults[faultStale]++
		f.Epoch = 2
		f.Issued = at.Add(-2 * time.Hour)
		f.Expires = at.Add(-w.between(0, 50*time.Minute))
		if w.rng.IntN(2) == 0 {
			f.Issued = at.Add(w.between(10*time.Minute, 50*time.Minute))
			f.Expires = f.Issued.Add(2 * time.Hour)
		}
		w.spread(w.sign(f, true).Raw)
	case 3:
		w.faults[faultHarm]++
		f.Epoch = 3
		f.Payload, f.Expires = NewSimAttack(SimAttack(w.rng.IntN(int(simAttacks))), at)
		w.spread(w.sign(f, true).Raw)
	case 4:
		w.faults[faultEquivocation]++
		f.Epoch = 4
		most := 3 * time.Minute
		if f.Seq%4 == 0 { // both still live once the fleet has healed
			most = 2 * time.Hour
		}
		f.Expires = at.Add(w.between(20*time.Second, most))
		one := w.sign(f, true)
		f.Expires = at.Add(w.between(20*time.Second, 10*most))
		if f.Seq%2 == 1 { // the winner outlives the loser
			for f.Expires = one.Expires.Add(w.between(time.Hour, 2*time.Hour)); !wins(w.sign(f, false), one); {
				f.Expires = f.Expires.Add(time.Millisecond)
			}
		}
		w.spread(one.Raw)
		w.spread(w.sign(f, true).Raw)
	}
}

// wins reports whether f wins over g if both are present: the lower hash does.
func wins(f, g frame.Frame) bool {
	a, b := f.Hash(), g.Hash()
	return bytes.Compare(a[:], b[:]) < 0
}

func (w *simWorld) sign(f frame.Frame, counts bool) frame.Frame {
	f, err := attacker().Sign(f)
	if err != nil {
		w.fail(-1, "sign: %v", err)
	} else if counts {
		w.signed(f)
	}
	return f
}

// spread delivers a frame to some of the nodes.
func (w *simWorld) spread(raw []byte) {
	kind := byte(wire.KindPush)
	if w.rng.IntN(2) == 0 {
		kind = wire.KindTree
	}
	packet := wire.AppendPacked([]byte{kind}, raw)
	for _, n := range w.nodes {
		if w.rng.IntN(2) == 0 {
			w.after(w.delay(), "attack arrives", func() { n.receive(packet) })
		}
	}
}

// lie sends a node a false sync message in another node's name: sync messages are not signed.
func (w *simWorld) lie() {
	n, as := w.up(), w.nodes[w.rng.IntN(len(w.nodes))]
	if n == nil || as == n || w.calm {
		return
	}
	w.faults[faultLie]++
	m := wireSync{kind: uint64(1 + w.rng.IntN(wireDiffer)), from: as.key.ID(), session: w.rng.Uint64(), root: n.mesh.Digest()}
	if heard := n.sessions[m.from]; len(heard) > 0 && w.rng.IntN(2) == 0 {
		m.session = heard[w.rng.IntN(len(heard))]
	}
	if w.rng.IntN(2) == 0 {
		m.root[0]++
	}
	switch m.kind {
	case wireVector:
		m.reply = w.rng.IntN(2) == 0
		streams := n.mesh.core.Streams()
		m.streams = wire.AppendArray(nil, len(streams))
		for _, key := range streams {
			m.streams = wireStream(m.streams, key.Origin, key.Epoch, w.rng.Uint64N(20))
		}
	case wireDiffer:
		m.token = w.rng.Uint64()
	case wireChunk:
		m.num, m.last = w.rng.Uint64N(3), w.rng.IntN(2) == 0
	case wireAck:
		m.num, m.fresh = w.rng.Uint64N(3), w.rng.Uint64N(3)
	case wireDetail:
		m.key = frame.Ref{Origin: n.key.ID(), Epoch: 1}
	case wireWant:
		m.key = frame.Ref{Origin: as.key.ID(), Epoch: 1}
	}
	n.receive(m.encode())
}

// overhear notes the session that a message names: a check says how its sender calls the session, anything else how its
// receiver does.
func (n *simNode) overhear(to *simNode, b []byte) {
	if b[0] != wire.KindSync && b[0] != wire.KindChunk {
		return
	}
	const kept = 3
	m, owner, peer := readWireHead(b[1:]), to, n
	if m.kind == wireCheck {
		owner, peer = n, to
	}
	known := append(owner.sessions[peer.key.ID()], m.session)
	owner.sessions[peer.key.ID()] = known[max(0, len(known)-kept):]
}
