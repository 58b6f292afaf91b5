package mesh

import (
	"bytes"
	"runtime"
	"slices"
	"sync"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// copyAbove is how many bytes a frame's buffer may be larger than the frame. Above that the frame is copied, so that
// keeping it does not keep the buffer.
const copyAbove = 16

const (
	// sliceBytes bounds the frames of a sync that are processed before the inbox is checked again: about 640 bans.
	sliceBytes = 8 << 10
	// laterBytes is the same for large pushed frames, which are verified one by one: one or two frames of about 0.4 ms
	// each, or ten times that where processors are short.
	laterBytes = 1 << 10
	// verifyApart is the fewest signatures, 60 us each, that are worth another goroutine.
	verifyApart = 3
	// earlyTold bounds the frames of one origin whose signature is checked only for Config.Early: so many per second,
	// and ten times as many at once.
	earlyTold = 10
)

// intake gathers verified frames for one step.
type intake struct {
	push, tree, sync []frame.Frame
	from             frame.ID // the sender of sync
}

func (in *intake) of(by replica.Via) *[]frame.Frame {
	switch by {
	case replica.ViaTree:
		return &in.tree
	case replica.ViaSync:
		return &in.sync
	}
	return &in.push
}

// precheck decodes a frame and reports whether it passes the cheap checks, which come before that of the signature. Only
// the step that takes the frame in marks it as seen.
func (m *Mesh) precheck(raw []byte) (f frame.Frame, ok bool) {
	m.count.received.Add(1)
	f, err := frame.Decode(raw)
	if err != nil {
		m.count.refused[refusedFormat].Add(1)
		return f, false
	}
	if f.MeshID != m.cfg.Secrets.MeshID {
		m.count.refused[refusedMesh].Add(1)
		return f, false
	}
	now := m.now()
	m.mu.Lock()
	v := m.core.Precheck(now, f)
	tell := v == replica.VerdictFuture && m.core.Trusts(now, f.Origin)
	m.mu.Unlock()
	if tell && m.cfg.Early != nil && m.earlies.Take(now, f.Origin, 1) && f.Verify() == nil {
		m.cfg.Early(f)
	}
	if v == replica.VerdictRevoked {
		m.tellRevoked(now, f.Origin)
	}
	if v != replica.VerdictNew && v != replica.VerdictEquivocal && v != replica.VerdictUnknown {
		var one [replica.VerdictKinds]uint64
		one[v] = 1
		m.count.verdicts(one)
		return f, false
	}
	return f, true
}

// accept adds a prechecked frame; signed is the result of Verify.
func (m *Mesh) accept(f frame.Frame, signed bool, whole int, by replica.Via, in *intake) {
	if !signed {
		m.count.refused[refusedSignature].Add(1)
		m.problems.report(m.now(), ProblemForged, "signature", "somebody with the mesh's key sends frames in the name of "+f.Origin.String()+
			" that it did not sign; they are refused", shutOut)
		return
	}
	if whole > len(f.Raw)+copyAbove {
		var err error
		if f, err = frame.Decode(bytes.Clone(f.Raw)); err != nil {
			return
		}
	}
	frames := in.of(by)
	if *frames = append(*frames, f); len(*frames) == verifyBatch {
		m.flushIntake(in, by)
	}
}

// verified reports for each frame whether its signature is good. It works in parallel, because nothing in a slice of a
// sync is delivered before all of it is verified.
func verified(frames []frame.Frame) []bool {
	good := make([]bool, len(frames))
	workers := min(runtime.GOMAXPROCS(0), len(frames)/verifyApart)
	if workers < 2 {
		for i, f := range frames {
			good[i] = f.Verify() == nil
		}
		return good
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(frames); i += workers {
				good[i] = frames[i].Verify() == nil
			}
		})
	}
	wg.Wait()
	return good
}

// flushIntake puts the gathered frames into the core and returns how many were new.
func (m *Mesh) flushIntake(in *intake, by replica.Via) (fresh int) {
	frames := in.of(by)
	if len(*frames) == 0 {
		return 0
	}
	m.mu.Lock()
	admitted := m.stepLocked(m.now(), replica.FramesEvent{Via: by, Frames: *frames, From: in.from}).Admitted
	m.mu.Unlock()
	*frames = nil
	m.execute()
	if by == replica.ViaSync {
		m.missedPushes(admitted)
	}
	return len(admitted)
}

// bulkWork is a large message that is being processed in slices.
type bulkWork struct {
	msg   *replica.Message
	parts []*replica.Message
	size  int // of the buffer that holds the frames, in bytes
	next  int // index of the next frame
	fresh int // new frames so far
}

// queueBulk queues a large message if it belongs to a session. It keeps b.
func (m *Mesh) queueBulk(b []byte) {
	if len(b) > replica.MaxMessage+1 || b[0] != wire.KindSync && b[0] != wire.KindChunk {
		m.count.refused[refusedFormat].Add(1)
		return
	}
	head, ok := replica.DecodeHead(b[1:])
	if !ok {
		m.count.refused[refusedFormat].Add(1)
		return
	}
	m.mu.Lock()
	expected := m.core.Expects(m.now(), &head)
	m.mu.Unlock()
	switch {
	case !expected:
		m.count.refused[refusedUnasked].Add(1)
	case !m.bulk.put(head.From, b):
		m.count.dropped.Add(1)
	}
}

// openBulk decodes a message; nil: it is invalid, or its session is over.
func (m *Mesh) openBulk(b []byte) *bulkWork {
	msg, err := replica.DecodeMessage(b[1:])
	if err != nil {
		m.count.refused[refusedFormat].Add(1)
		return nil
	}
	m.mu.Lock()
	expected := m.core.Expects(m.now(), msg)
	m.mu.Unlock()
	if !expected {
		m.count.refused[refusedUnasked].Add(1)
		return nil
	}
	return &bulkWork{msg: msg, parts: slices.Collect(msg.Split), size: len(b)}
}

// bulkSlice processes one slice of the waiting large messages, and reports whether there was one.
func (m *Mesh) bulkSlice() bool {
	p := m.bulk.next(m.openBulk)
	if p == nil {
		return false
	}
	if w := p.work; w.next < len(w.msg.Frames) {
		m.chunkSlice(w)
	} else {
		m.apply(replica.MessageEvent{Msg: w.parts[0], Fresh: w.fresh})
		w.parts = w.parts[1:]
	}
	if len(p.work.parts) == 0 {
		p.work = nil
	}
	return true
}

// chunkSlice processes the next frames of a chunk. A bad signature ends the chunk and everything else under way with
// its sender; exceeding the sender's budget ends only the chunk.
func (m *Mesh) chunkSlice(w *bulkWork) {
	from := w.msg.From
	in := intake{from: from}
	var frames []frame.Frame
	for size := 0; len(frames) < verifyBatch-1 && size < sliceBytes && w.next < len(w.msg.Frames); w.next++ {
		if f, ok := m.precheck(w.msg.Frames[w.next]); ok {
			frames = append(frames, f)
			size += len(f.Raw)
		}
	}
	if !m.bulkCost.Take(m.now(), from, len(frames)) {
		m.count.Limited.Add(1)
		w.parts = nil
		return
	}
	good := verified(frames)
	news := 0
	for i, f := range frames {
		if !good[i] {
			m.count.refused[refusedSignature].Add(1)
			m.badChunk(w)
			break
		}
		if f.Origin != from {
			news++
		}
		m.accept(f, true, w.size, replica.ViaSync, &in)
	}
	fresh := m.flushIntake(&in, replica.ViaSync)
	w.fresh += fresh
	m.count.synced.Add(uint64(fresh))
	m.bulkCost.Take(m.now(), from, -min(fresh, news))
}

// badChunk ends everything under way with a peer that streamed a frame its origin did not sign.
func (m *Mesh) badChunk(w *bulkWork) {
	from := w.msg.From
	w.parts, w.next = nil, len(w.msg.Frames)
	m.Slow(from)
	m.problems.report(m.now(), ProblemForged, "chunk "+from.String(), "the member "+from.String()+
		" streams frames that their origins did not sign; for a minute nothing is compared with it",
		"if its meshban is as new as this one, `meshban revoke NAME` shuts it out")
	m.apply(replica.BadChunkEvent{Peer: from, Session: w.msg.Session})
}
