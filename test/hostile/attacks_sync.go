package main

import (
	"context"
	"encoding/binary"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/meshban/meshban/mesh/frame"
)

// sendLarge sends one of meshban's messages by stream to every target.
func (w *world) sendLarge(msg []byte) {
	w.streams(1, append(encoded(mlUser, userHeader{len(msg)}), msg...))
}

// others returns the honest members.
func (w *world) others() []frame.ID { return slices.Collect(maps.Keys(w.members())) }

// checks sends checks in the name of other members.
func checks(ctx context.Context, w *world) error {
	ids := w.others()
	every(ctx, 400, func(i int) {
		var root [32]byte
		binary.BigEndian.PutUint64(root[:], uint64(i)+1)
		w.say(syncMessage(syncCheck, ids[i%len(ids)], mathrand.Uint64()|1, digest(root[:])))
	})
	return nil
}

// session is a sync session that this member has begun with a target.
type session struct {
	to   frame.ID
	id   uint64 // the target's number for it
	mine uint64
}

// sessions begins sessions until ctx ends, at most hz a second. It calls do for each one once the target has answered
// the check, and hear with all other messages, if it is set.
func (w *world) sessions(ctx context.Context, hz int, do func(session)) {
	next := time.Now()
	for ctx.Err() == nil {
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Second / time.Duration(hz))
			root := binary.BigEndian.AppendUint64(make([]byte, 24), mathrand.Uint64())
			w.say(syncMessage(syncCheck, w.id, mathrand.Uint64()>>1|1, digest(root)))
		}
		select {
		case b := <-w.heard:
			if s, ok := differs(b); ok {
				do(s)
			} else if w.hear != nil {
				w.hear(b)
			}
		case <-time.After(time.Until(next)):
		case <-ctx.Done():
		}
	}
}

// differs reads a session from the answer to a check; ok reports whether b is such an answer and the digests differ.
func differs(b []byte) (s session, ok bool) {
	const head = 1 + 1 + 1 + 1 // outer kind, list, version, kind
	if len(b) < head+2+16 || b[0] != kindSync || b[3] != syncDiffer {
		return s, false
	}
	s.to = frame.ID(b[head+2:])
	rest := b[head+2+16:]
	var okMine, okID bool
	s.mine, rest, okMine = readNumber(rest)
	s.id, _, okID = readNumber(rest)
	return s, okMine && okID
}

func readNumber(b []byte) (v uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	if b[0] < 0x80 {
		return uint64(b[0]), b[1:], true
	}
	n := 1 << (b[0] - 0xcc)
	if b[0] < 0xcc || b[0] > 0xcf || len(b) < 1+n {
		return 0, nil, false
	}
	for _, c := range b[1 : 1+n] {
		v = v<<8 | uint64(c)
	}
	return v, b[1+n:], true
}

// vectorsOf asks the targets until ctx ends or each of them has answered what they have seen: saw is called with each
// stream and the last number that was seen of it.
func (w *world) vectorsOf(ctx context.Context, saw func(origin frame.ID, epoch, seq uint64)) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	answered := make(map[string]bool)
	w.hear = func(b []byte) {
		var m []any // kind, sender, ... and the body, see syncMessage
		h := &codec.MsgpackHandle{}
		if len(b) < 4 || b[0] != kindSync || b[3] != syncVector || codec.NewDecoderBytes(b[1:], h).Decode(&m) != nil {
			return
		}
		for _, s := range m[5].([]any)[4].([]any) {
			v := s.([]any) // see stream
			var last uint64
			for seen := v[6].([]byte); len(seen) > 0; {
				d, n := binary.Uvarint(seen)
				last, seen = last+d, seen[max(n, 1):]
			}
			saw(frame.ID(v[0].([]byte)), unsigned(v[1]), last)
		}
		if answered[string(m[2].([]byte))] = true; len(answered) == len(w.targets) {
			stop()
		}
	}
	defer func() { w.hear = nil }()
	w.sessions(ctx, 20, func(s session) {
		w.say(syncToken(syncVector, w.id, s.id, s.mine, vector([32]byte{1}, 1)))
	})
}

// unsigned returns a number as the decoder makes it.
func unsigned(v any) uint64 {
	switch n := v.(type) {
	case int64:
		return uint64(n)
	case uint64:
		return n
	}
	return 0
}

// wants asks for everything again and again: in its own sessions, and in the name of another in sessions that never began.
func wants(ctx context.Context, w *world) error {
	ids := w.others()
	ask := func(from frame.ID, id uint64) []byte {
		var list [][]byte
		for i := range 4 {
			list = append(list, join(array(2), array(2), bin(ids[i%len(ids)][:]), number(1), bin(everything)))
		}
		return syncMessage(syncWant, from, id, join(array(len(list)), join(list...)))
	}
	var large [][]byte // as many streams, and spans in each, as an earlier build accepted
	for range 64 {
		large = append(large, join(array(2), array(2), bin(ids[0][:]), number(1), bin(slices.Repeat([]byte{2, 0}, 8000))))
	}
	w.sessions(ctx, 20, func(s session) {
		w.say(syncToken(syncVector, w.id, s.id, s.mine, vector([32]byte{1}, 1)))
		for range 5 {
			w.say(ask(w.id, s.id))
			w.say(ask(ids[0], mathrand.Uint64()))
		}
		w.sendLarge(syncMessage(syncWant, w.id, s.id, join(array(len(large)), join(large...))))
	})
	return nil
}

// vectors sends vectors as large as allowed, and larger, inside and outside its own sessions.
func vectors(ctx context.Context, w *world) error {
	list := func(streams, spans int) []byte {
		var all [][]byte
		for i := range streams {
			var id frame.ID
			binary.BigEndian.PutUint64(id[:], uint64(i)+1)
			all = append(all, stream(id, 1, 7, slices.Repeat([]byte{2, 0}, spans)))
		}
		return vector([32]byte{1}, 1, all...)
	}
	most, spans, giant := list(2048, 4), list(1, 8192), list(20_000, 60)
	var n atomic.Int64
	w.sessions(ctx, 20, func(s session) {
		body := [][]byte{most, spans, giant}[n.Add(1)%3]
		w.sendLarge(syncToken(syncVector, w.id, s.id, s.mine, body))
		w.sendLarge(syncToken(syncVector, w.id, mathrand.Uint64(), s.mine, body))
	})
	return nil
}

// chunks streams frames with wrong signatures: in the name of others without a session, and in its own sessions.
func chunks(ctx context.Context, w *world) error {
	ids := w.others()
	keys := slices.Collect(maps.Values(w.members()))
	now := time.Now()
	var frames [][]byte
	for i := range 600 {
		f := crafted{
			mesh: w.secrets.MeshID, key: keys[i%len(keys)], epoch: w.epoch, seq: uint64(i + 1),
			issued: now, expires: now.Add(time.Hour), payload: bans(now.Add(time.Hour), w.bans...),
		}
		frames = append(frames, bin(f.sign(w.key)))
	}
	body := join(array(3), number(1), number(0), array(len(frames)), join(frames...))
	go every(ctx, 20, func(i int) {
		w := &world{self: w.self, secrets: w.secrets, targets: w.targets}
		w.sendLarge(syncMessage(syncChunk, ids[i%len(ids)], mathrand.Uint64(), body))
	})
	w.sessions(ctx, 20, func(s session) {
		w.say(syncToken(syncVector, w.id, s.id, s.mine, vector([32]byte{1}, 1)))
		w.sendLarge(syncMessage(syncChunk, w.id, s.id, body))
	})
	return nil
}
