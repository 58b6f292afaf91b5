package main

import (
	"bytes"
	"compress/lzw"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"maps"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// samples returns one valid message of each kind.
func (w *world) samples() [][]byte {
	p := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, 0, 0, 1}), 32)
	raw := w.op(p)
	key := join(array(2), bin(w.id[:]), number(1))
	root := [32]byte{1}
	return [][]byte{
		packet(kindPush, raw), packet(kindTree, raw, raw),
		syncMessage(syncCheck, w.id, 1, digest(root[:])), syncMessage(syncSame, w.id, 1, digest(root[:])),
		syncMessage(syncVector, w.id, 1, vector(root, 1, stream(w.id, 1, 3, everything))),
		syncMessage(syncChunk, w.id, 1, join(array(3), number(1), number(1), array(1), bin(raw))),
		syncMessage(syncAck, w.id, 1, join(array(2), number(1), number(1))),
		syncMessage(syncDetail, w.id, 1, join(array(4), key, number(1), number(9), array(2), number(1), bin(make([]byte, 8)))),
		syncMessage(syncWant, w.id, 1, join(array(1), array(2), key, bin(everything))),
		w.question(w.id, make([]byte, 16), w.self.String()), w.question(w.id, make([]byte, 16), ""),
		w.goodbye(w.pub()),
	}
}

// malformed sends noise, every truncation of valid messages and of metadata, and the messages with one byte changed or
// appended.
func malformed(ctx context.Context, w *world) error {
	var all [][]byte
	for _, m := range w.samples() {
		for n := range m {
			bad := slices.Clone(m)
			bad[n] ^= byte(1 + mathrand.IntN(255))
			all = append(all, m[:n], bad)
		}
		all = append(all, append(slices.Clone(m), 0))
	}
	pub := w.key.Public().(ed25519.PublicKey)
	here := place(w.key, w.secrets.MeshID, w.self)
	good := meta(pub, claimedName, "1", here, 0)
	for n := range good {
		node := alive{Incarnation: uint32(1000 + n), Node: w.id.String(), Addr: w.self.Addr().AsSlice(), Port: w.self.Port(), Meta: good[:n], Vsn: versions}
		all = append(all, encoded(mlAlive, node))
	}
	metas := len(good)
	every(ctx, 2000, func(i int) {
		switch n := i % (len(all) + 500); {
		case n < len(all)-metas:
			w.say(all[n])
		case n < len(all):
			w.packet(all[n])
		default:
			noise := make([]byte, mathrand.IntN(1300))
			_, _ = rand.Read(noise)
			w.say(noise)
			w.packet(noise)
		}
	})
	return nil
}

// giant sends messages larger than any member's, up to memberlist's own limits.
func giant(ctx context.Context, w *world) error {
	sizes := []int{1 << 20, 4<<20 - 100, 5 << 20, 19 << 20}
	every(ctx, 4, func(i int) {
		size := sizes[i%len(sizes)]
		body := make([]byte, size)
		body[0] = byte(1 + i%6)
		if i%2 == 0 { // its head is that of a chunk of frames
			copy(body, syncMessage(syncChunk, w.id, 1, join(array(3), number(1), number(1), array(4096))))
		}
		w.streams(3, append(encoded(mlUser, userHeader{size}), body...))
		w.say(packet(kindPush, make([]byte, 1301), make([]byte, 30_000)))
		w.say(append([]byte{kindPush, 0xff, 0xff}, make([]byte, 60_000)...))
		w.say(append([]byte{kindSync}, make([]byte, 60_000)...))
	})
	return nil
}

// bomb returns a compressed message that expands to 8 MB.
func bomb() []byte {
	var b bytes.Buffer
	z := lzw.NewWriter(&b, lzw.LSB, 8)
	_, _ = z.Write(append([]byte{mlUser}, make([]byte, 8<<20)...))
	_ = z.Close()
	return encoded(mlCompress, struct {
		Algo uint8
		Buf  []byte
	}{0, b.Bytes()})
}

// crash sends what memberlist itself does not survive: empty streams, padding longer than the message, a few bytes that
// announce a million members or 20 MB, compressed zeros.
func crash(ctx context.Context, w *world) error {
	zeros, key := bomb(), w.secrets.GossipKey
	for ctx.Err() == nil {
		w.raw(seal(key, 0, bytes.Repeat([]byte{0xff}, 32), nil))
		w.raw(seal(key, 0, bytes.Repeat([]byte{16}, 16), nil))
		w.packet(nil)
		w.packet(zeros)
		for _, to := range w.targets {
			w.stream(to, sealStream(key, 1, nil))
			w.stream(to, sealStream(key, 0, bytes.Repeat([]byte{0xff}, 32)))
		}
		w.streams(4, encoded(mlPushPull, pushPullHeader{Nodes: 1 << 20}))
		w.streams(4, encoded(mlPushPull, pushPullHeader{UserStateLen: 20 << 20}))
		w.streams(4, encoded(mlUser, userHeader{20 << 20}))
		w.streams(4, zeros)
	}
	return nil
}

// names invents members whose names and metadata would do harm on a terminal or in a log.
func names(ctx context.Context, w *world) error {
	pub := w.key.Public().(ed25519.PublicKey)
	here := place(w.key, w.secrets.MeshID, w.self)
	bad := []string{"evil\n\x1b[31mnode", "\x1b]0;owned\a", "a\r\nb", "../../etc/passwd", string(make([]byte, 300)), "\xff\xfe"}
	every(ctx, 100, func(i int) {
		name := bad[i%len(bad)]
		addr := []byte{10, 66, 0, byte(i)}
		inc := uint32(1 + i)
		w.packet(encoded(mlAlive, alive{inc, name, addr, 7946, meta(pub, "x", "1", here, 0), versions}))
		w.packet(encoded(mlAlive, alive{inc, w.id.String(), w.self.Addr().AsSlice(), w.self.Port(), meta(pub, name[:min(len(name), 64)], "1\n", here, 0), versions}))
		w.packet(encoded(mlDead, dead{inc, name, name}))
	})
	return nil
}

// sybil invents members with keys of their own and as much metadata as allowed.
func sybil(ctx context.Context, w *world) error {
	every(ctx, 500, func(i int) {
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return
		}
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, 1 + byte(i>>8), byte(i)}), 7946)
		m := meta(pub, "sybil", "1", place(key, w.secrets.MeshID, addr), 512)
		w.packet(encoded(mlAlive, alive{1, frame.IDOf(pub).String(), addr.Addr().AsSlice(), addr.Port(), m, versions}))
	})
	return nil
}

// goodbye returns a message that says that the holder of a key is about to leave, signed with this member's key.
func (w *world) goodbye(of ed25519.PublicKey) []byte {
	body := join(array(4), number(1), bin(w.secrets.MeshID[:]), number(uint64(time.Now().UnixMilli())), bin(of))
	return join([]byte{6}, body, ed25519.Sign(w.key, append([]byte("meshban bye v1\x00"), body...)))
}

// slander announces that other members are dead, at another address, or about to leave.
func slander(ctx context.Context, w *world) error {
	members := w.members()
	ids := slices.Collect(maps.Keys(members))
	every(ctx, 50, func(i int) {
		id := ids[i%len(ids)]
		inc := uint32(i/10 + 1)
		from := []string{w.id.String(), id.String()}[i/4%2] // from itself means that it has left
		w.packet(encoded(mlDead, dead{inc, id.String(), from}))
		w.packet(encoded(mlAlive, alive{inc, id.String(), w.self.Addr().AsSlice(), w.self.Port(), meta(members[id], "x", "1", make([]byte, 64), 0), versions}))
		w.say(w.goodbye(members[id]))
	})
	return nil
}

// lies sends made-up digests, in its own name and in others', and never the frames that they stand for.
func lies(ctx context.Context, w *world) error {
	ids := append(slices.Collect(maps.Keys(w.members())), w.id)
	every(ctx, 200, func(i int) {
		var root ack
		_, _ = rand.Read(root[:])
		w.root.Store(&root)
		from, session := ids[i%len(ids)], mathrand.Uint64()
		sum := [32]byte(root[:32])
		switch i / len(ids) % 4 {
		case 0, 1:
			w.say(syncMessage(syncCheck, from, session, digest(sum[:])))
		case 2:
			var seen [][]byte
			sorted := slices.SortedFunc(slices.Values(ids), func(a, b frame.ID) int { return bytes.Compare(a[:], b[:]) })
			for _, id := range sorted {
				seen = append(seen, stream(id, 1, 7, everything))
			}
			w.say(syncMessage(syncVector, from, session, vector(sum, uint64(i&1), seen...)))
		case 3:
			key := join(array(2), bin(from[:]), number(1))
			w.say(syncMessage(syncDetail, from, session, join(array(4), key, number(1), number(1<<60), array(0))))
			w.say(syncMessage(syncChunk, from, session, join(array(3), number(1), number(uint64(i&1)), array(0))))
			w.say(syncMessage(syncAck, from, session, join(array(2), number(1), number(99))))
		}
	})
	return nil
}

// endless asks for everything again and again, and acknowledges chunks in every other session only.
func endless(ctx context.Context, w *world) error {
	every(ctx, 500, func(i int) {
		session := uint64(i/50 + 1)
		switch i % 50 {
		case 0:
			w.say(syncMessage(syncCheck, w.id, session, digest(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(i)))))
		case 1, 2, 3:
			w.say(syncMessage(syncVector, w.id, session, vector([32]byte{byte(i)}, 0)))
		default:
			if session%2 == 0 {
				w.say(syncMessage(syncAck, w.id, session, join(array(2), number(uint64(i%50)-3), number(1))))
			}
		}
		for more := true; more; {
			select {
			case <-w.heard:
			default:
				more = false
			}
		}
	})
	return nil
}
