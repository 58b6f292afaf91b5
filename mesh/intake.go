package mesh

import (
	"bytes"
	"runtime"
	"sync"
)

// copyAbove is how many bytes beside a frame its buffer may have: a frame of a larger one is copied, so that holding it
// does not hold the buffer.
const copyAbove = 16

const (
	// sliceBytes bounds the frames of a sync that are looked at between two looks at the inbox: some 640 bans.
	sliceBytes = 8 << 10
	// laterBytes is the same for large frames that were pushed, each of which is verified by itself: one or two frames, some
	// 0.4 ms each, which take ten times as long where processors are short.
	laterBytes = 1 << 10
	// verifyApart is the least number of signatures, 60 us each, that is worth another goroutine.
	verifyApart = 3
)

// intake gathers verified frames for one step.
type intake struct {
	push, tree, sync []Frame
	from             ID // of sync
}

func (in *intake) of(by via) *[]Frame {
	switch by {
	case viaTree:
		return &in.tree
	case viaSync:
		return &in.sync
	}
	return &in.push
}

// admit judges one frame from a buffer of whole bytes: cheap checks first, whether its origin counts among them,
// then the signature. It is marked as seen only by the step that follows.
func (m *Mesh) admit(raw []byte, whole int, by via, in *intake) {
	f, ok := m.screen(raw)
	if !ok {
		return
	}
	m.vouch(f, f.Verify() == nil, whole, by, in)
}

// screen makes the checks that cost little.
func (m *Mesh) screen(raw []byte) (f Frame, ok bool) {
	m.count.received.Add(1)
	f, err := DecodeFrame(raw)
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
	v := m.core.judge(now, f)
	if v == verdictEnded || v == verdictRevoked {
		m.core.bar(f.Origin, f.Epoch)
	}
	m.mu.Unlock()
	if v != verdictNew && v != verdictEquivocal && v != verdictUnknown {
		var one [verdictKinds]uint64
		one[v] = 1
		m.count.verdicts(one)
		return f, false
	}
	return f, true
}

// vouch lets a screened frame in whose signature was looked at.
func (m *Mesh) vouch(f Frame, signed bool, whole int, by via, in *intake) {
	if !signed {
		m.count.refused[refusedSignature].Add(1)
		m.problems.report(m.now(), ProblemForged, "signature", "somebody with the mesh's key sends frames in the name of "+f.Origin.String()+
			" that it did not sign; they are refused")
		return
	}
	if whole > len(f.raw)+copyAbove {
		var err error
		if f, err = DecodeFrame(bytes.Clone(f.raw)); err != nil {
			return
		}
	}
	frames := in.of(by)
	if *frames = append(*frames, f); len(*frames) == verifyBatch {
		m.flushIntake(in, by)
	}
}

// verified verifies frames side by side: of a sync's slice nothing is delivered before all of it is.
func verified(frames []Frame) []bool {
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

// flushIntake puts what was gathered into the core and gives how many frames were new.
func (m *Mesh) flushIntake(in *intake, by via) (fresh int) {
	frames := in.of(by)
	if len(*frames) == 0 {
		return 0
	}
	m.mu.Lock()
	fresh = len(m.stepLocked(m.now(), evFrames{by, *frames, in.from}).admitted)
	m.mu.Unlock()
	*frames = nil
	m.carryOut()
	return fresh
}

// bulkWork is a large message that is being looked at in slices.
type bulkWork struct {
	msg   *syncMessage
	size  int // bytes of the buffer that the frames are part of
	next  int // frame
	fresh int // frames that were new so far
}

func (m *Mesh) openBulk(b []byte) *bulkWork {
	m.bulkBytes.Add(-int64(len(b)))
	if b[0] != kindSync && b[0] != kindChunk {
		m.count.refused[refusedFormat].Add(1)
		return nil
	}
	msg, err := decodeSync(b[1:])
	if err != nil {
		m.count.refused[refusedFormat].Add(1)
		return nil
	}
	return &bulkWork{msg: msg, size: len(b)}
}

// bulkSlice takes the next frames of a chunk; after the last it steps the message itself and gives nil.
func (m *Mesh) bulkSlice(w *bulkWork) *bulkWork {
	if w.next < len(w.msg.Frames) {
		in := intake{from: w.msg.From}
		var frames []Frame
		for size := 0; len(frames) < verifyBatch-1 && size < sliceBytes && w.next < len(w.msg.Frames); w.next++ {
			if f, ok := m.screen(w.msg.Frames[w.next]); ok {
				frames = append(frames, f)
				size += len(f.raw)
			}
		}
		for i, good := range verified(frames) {
			m.vouch(frames[i], good, w.size, viaSync, &in)
		}
		fresh := m.flushIntake(&in, viaSync)
		w.fresh += fresh
		m.count.synced.Add(uint64(fresh))
		return w
	}
	m.apply(evMessage{w.msg, w.fresh})
	return nil
}
