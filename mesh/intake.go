package mesh

import "bytes"

// copyAbove is how many bytes beside a frame its buffer may have: a frame of a larger one is copied, so that holding it
// does not hold the buffer.
const copyAbove = 16

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

// admit judges one frame from a buffer of whole bytes: cheap checks first, then the signature, then trust. It is marked
// as seen only by the step that follows.
func (m *Mesh) admit(raw []byte, whole int, by via, in *intake) {
	m.count.received.Add(1)
	f, err := DecodeFrame(raw)
	if err != nil {
		m.count.refused[refusedFormat].Add(1)
		return
	}
	if f.MeshID != m.cfg.Secrets.MeshID {
		m.count.refused[refusedMesh].Add(1)
		return
	}
	now := m.now()
	m.mu.Lock()
	v := m.core.judge(now, f)
	m.mu.Unlock()
	if v != verdictNew && v != verdictEquivocal {
		var one [verdictEquivocal + 1]uint64
		one[v] = 1
		m.count.verdicts(one)
		return
	}
	if f.Verify() != nil {
		m.count.refused[refusedSignature].Add(1)
		return
	}
	if m.cfg.Trust.Admit(f.Origin, f.Key, now) != nil {
		m.count.refused[refusedTrust].Add(1)
		return
	}
	if whole > len(raw)+copyAbove {
		if f, err = DecodeFrame(bytes.Clone(raw)); err != nil {
			return
		}
	}
	frames := in.of(by)
	if *frames = append(*frames, f); len(*frames) == verifyBatch {
		m.flushIntake(in, by)
	}
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
		for n := 0; n < verifyBatch-1 && w.next < len(w.msg.Frames); n++ {
			m.admit(w.msg.Frames[w.next], w.size, viaSync, &in)
			w.next++
		}
		fresh := m.flushIntake(&in, viaSync)
		w.fresh += fresh
		m.count.synced.Add(uint64(fresh))
		return w
	}
	m.apply(evMessage{w.msg, w.fresh})
	return nil
}
