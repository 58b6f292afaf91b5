package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh/frame"
)

// Attacks that a certified member can make with ops alone.

const (
	// fullFrames is a little less than the large frames a second that others accept from one member.
	fullFrames = 250
	// manyAllows exceeds the room of any list of exceptions in a kernel.
	manyAllows = 70_000
	// bombFrames is how many frames full of unbans a bomb sends for each prefix: 3,000 unbans.
	bombFrames = 12
)

// frameOf signs a frame of ops that differ only in their prefixes.
func (w *world) frameOf(op ban.Op, prefixes ...netip.Prefix) []byte {
	now := time.Now()
	op.Until = now.Add(w.life).Truncate(time.Millisecond)
	ops := make([]ban.Op, len(prefixes))
	for i, p := range prefixes {
		ops[i] = op
		ops[i].Prefix = p
	}
	b, err := ban.AppendOps(nil, ops)
	if err != nil {
		panic(err)
	}
	return w.next(b, now, now.Add(w.life))
}

// send pushes one frame to every target.
func (w *world) send(raw []byte) { w.say(packet(kindPush, raw)) }

// marks returns marks that cover every honest member's frames up to (epoch, seq).
func (w *world) marks(epoch, seq uint64) []ban.Mark {
	var all []ban.Mark
	for id := range w.members() {
		all = append(all, ban.Mark{Origin: ban.Origin(id), Epoch: epoch, Seq: seq})
	}
	slices.SortFunc(all, func(a, b ban.Mark) int { return bytes.Compare(a.Origin[:], b.Origin[:]) })
	return all[:min(len(all), ban.MaxMarks)]
}

// ahead returns marks a little ahead of every honest member's frames: epochs are times in seconds.
func (w *world) ahead() []ban.Mark { return w.marks(uint64(time.Now().Unix()), math.MaxUint32) }

// soFar returns marks that cover what the honest members have said so far. A node refuses marks above its own last frame.
func (w *world) soFar(ctx context.Context) ([]ban.Mark, error) {
	ctx, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	last, members := make(map[ban.Origin]ban.Mark), w.members()
	w.vectorsOf(ctx, func(origin frame.ID, epoch, seq uint64) {
		m := ban.Mark{Origin: ban.Origin(origin), Epoch: epoch, Seq: seq}
		if had := last[m.Origin]; members[origin] != nil && (epoch > had.Epoch || epoch == had.Epoch && seq > had.Seq) {
			last[m.Origin] = m
		}
	})
	if len(last) == 0 {
		return nil, errors.New("no target says what it has seen")
	}
	all := slices.SortedFunc(maps.Values(last), func(a, b ban.Mark) int { return bytes.Compare(a.Origin[:], b.Origin[:]) })
	return all[:min(len(all), ban.MaxMarks)], nil
}

// within returns the i-th run of n single addresses of a prefix.
func within(p netip.Prefix, i, n int) []netip.Prefix {
	out := make([]netip.Prefix, n)
	b := p.Addr().AsSlice()
	low := b[len(b)-4:]
	first := binary.BigEndian.Uint32(low)
	for j := range out {
		binary.BigEndian.PutUint32(low, first+uint32(i*n+j))
		a, _ := netip.AddrFromSlice(b)
		out[j] = netip.PrefixFrom(a, a.BitLen())
	}
	return out
}

// allow sends more allows than fit into any kernel, of addresses that sort before all others, and bans its targets.
func allow(ctx context.Context, w *world) error {
	const each = 250
	every(ctx, fullFrames/2, func(i int) { // repeated, because a busy node drops some
		if n := i % (manyAllows / each); i%10 != 9 || i < manyAllows/each {
			first := netip.PrefixFrom(netip.AddrFrom4([4]byte{1}), 32)
			some := within(first, n, 2*each)
			for j := range each { // every second address, so that nothing can be merged
				some[j] = some[2*j]
			}
			w.send(w.frameOf(ban.Op{Kind: ban.KindAllow, Source: "cli"}, some[:each]...))
			return
		}
		w.send(w.frameOf(ban.Op{Kind: ban.KindBan, Source: "cli"}, w.bans...))
	})
	return nil
}

// ports bans addresses and networks with port lists that expand as far as possible. A list that this build would not
// encode replaces one of the same length in the encoded frame.
func ports(ctx context.Context, w *world) error {
	lists := []struct{ say, as string }{
		{"1-65535", "100-165"}, {"1-65535/tcp", "100-165/tcp"}, {"1-512", "1-512"}, {"1-65534", "100-165"}, {"1025-2048/udp", "1025-2048/udp"},
	}
	every(ctx, 20, func(i int) {
		list := lists[i%len(lists)]
		p, err := ban.ParsePorts(list.as)
		if err != nil {
			panic(err)
		}
		some := within(netip.PrefixFrom(netip.AddrFrom4([4]byte{12}), 32), i, w.size)
		if i%3 == 2 {
			for j := range some {
				some[j] = netip.PrefixFrom(netip.AddrFrom4([4]byte{13, byte(i), byte(j)}), 24)
			}
		}
		now := time.Now()
		var ops []ban.Op
		for _, prefix := range some {
			ops = append(ops, ban.Op{Kind: ban.KindBan, Prefix: prefix, Ports: p, Until: now.Add(w.life).Truncate(time.Millisecond), Source: "cli"})
		}
		payload, err := ban.AppendOps(nil, ops)
		if err != nil {
			panic(err)
		}
		payload = bytes.Replace(payload, []byte(list.as), []byte(list.say), 1)
		w.send(w.next(payload, now, now.Add(w.life)))
	})
	return nil
}

// sway alternately allows prefixes and revokes the allows.
func sway(ctx context.Context, w *world) error {
	every(ctx, 90, func(i int) {
		at := w.bans[i/2%len(w.bans)]
		if i%2 == 0 {
			w.send(w.frameOf(ban.Op{Kind: ban.KindAllow, Source: "cli"}, at))
			return
		}
		own := []ban.Mark{{Origin: ban.Origin(w.id), Epoch: w.epoch, Seq: w.seq}}
		w.send(w.frameOf(ban.Op{Kind: ban.KindUnallow, Marks: own, Source: "cli"}, at))
	})
	return nil
}

// flap alternately bans addresses and revokes the bans, with 250 ops in a frame.
func flap(ctx context.Context, w *world) error {
	every(ctx, fullFrames, func(i int) {
		kind := []ban.Kind{ban.KindBan, ban.KindRevoke}[i%2]
		w.send(w.frameOf(ban.Op{Kind: kind, Source: "cli"}, within(netip.PrefixFrom(netip.AddrFrom4([4]byte{14}), 32), i/2%8, 250)...))
	})
	return nil
}

// tombs revokes bans that never existed, each of another address.
func tombs(ctx context.Context, w *world) error {
	every(ctx, fullFrames, func(i int) {
		w.send(w.frameOf(ban.Op{Kind: ban.KindRevoke, Source: "cli"}, within(netip.PrefixFrom(netip.AddrFrom4([4]byte{15}), 32), i, 250)...))
	})
	return nil
}

// refresh repeats the same bans, each time with a later end.
func refresh(ctx context.Context, w *world) error {
	every(ctx, fullFrames, func(i int) {
		w.send(w.frameOf(ban.Op{Kind: ban.KindBan, Source: "cli"}, within(netip.PrefixFrom(netip.AddrFrom4([4]byte{16}), 32), i%8, 250)...))
	})
	return nil
}

// words bans addresses with reasons and sources that are all new and almost as long as allowed.
func words(ctx context.Context, w *world) error {
	every(ctx, fullFrames, func(i int) {
		now := time.Now()
		ops := make([]ban.Op, 4)
		for j, p := range within(netip.PrefixFrom(netip.AddrFrom4([4]byte{17}), 32), i, len(ops)) {
			ops[j] = ban.Op{Kind: ban.KindBan, Prefix: p, Until: now.Add(w.life).Truncate(time.Millisecond),
				Reason: strings.Repeat("x", ban.MaxReason-20) + p.Addr().String(), Source: strings.Repeat("s", ban.MaxSource-20) + p.Addr().String()}
		}
		payload, err := ban.AppendOps(nil, ops)
		if err != nil {
			panic(err)
		}
		w.send(w.next(payload, now, now.Add(w.life)))
	})
	return nil
}

// moments bans for 100 ms, so that bans end as fast as they begin.
func moments(ctx context.Context, w *world) error {
	w.life = 100 * time.Millisecond
	every(ctx, fullFrames, func(i int) {
		w.send(w.frameOf(ban.Op{Kind: ban.KindBan, Source: "cli"}, within(netip.PrefixFrom(netip.AddrFrom4([4]byte{18}), 32), i%8, 250)...))
	})
	return nil
}

// lift unbans prefixes, no matter who banned addresses inside them.
func lift(ctx context.Context, w *world) error {
	marks, err := w.soFar(ctx)
	every(ctx, 90, func(i int) {
		w.send(w.frameOf(ban.Op{Kind: ban.KindUnban, Marks: marks, Source: "cli"}, w.bans[i%len(w.bans)]))
	})
	return err
}

// liftAhead is lift with marks that cover what the honest members have yet to say.
func liftAhead(ctx context.Context, w *world) error {
	every(ctx, 90, func(i int) {
		w.send(w.frameOf(ban.Op{Kind: ban.KindUnban, Marks: w.ahead(), Source: "cli"}, w.bans[i%len(w.bans)]))
	})
	return nil
}

// each lifts other members' bans inside prefixes, address by address.
func each(ctx context.Context, w *world) error {
	marks, err := w.soFar(ctx)
	every(ctx, fullFrames, func(i int) {
		p := w.bans[i%len(w.bans)]
		w.send(w.frameOf(ban.Op{Kind: ban.KindUnban, Marks: marks, Source: "cli"}, within(p, i/len(w.bans), 200)...))
	})
	return err
}

// cancels unbans addresses that nobody banned, each a new one, with as many marks as allowed.
func cancels(ctx context.Context, w *world) error {
	ms, err := w.soFar(ctx)
	for len(ms) < ban.MaxMarks {
		m := ban.Mark{Epoch: 1, Seq: 1}
		_, _ = rand.Read(m.Origin[:])
		ms = append(ms, m)
	}
	slices.SortFunc(ms, func(a, b ban.Mark) int { return bytes.Compare(a.Origin[:], b.Origin[:]) })
	every(ctx, fullFrames, func(i int) {
		w.send(w.frameOf(ban.Op{Kind: ban.KindUnban, Marks: ms, Source: "cli"}, within(netip.PrefixFrom(netip.AddrFrom4([4]byte{30}), 32), i, 200)...))
	})
	return err
}

// unbans lifts each prefix thousands of times.
func unbans(ctx context.Context, w *world) error {
	marks, err := w.soFar(ctx)
	every(ctx, fullFrames, func(i int) {
		at := make([]netip.Prefix, ban.MaxOpsPerFrame)
		for j := range at {
			at[j] = w.bans[i/bombFrames%len(w.bans)]
		}
		w.send(w.frameOf(ban.Op{Kind: ban.KindUnban, Marks: marks, Source: "cli"}, at...))
	})
	return err
}

// farMarks lifts bans before they are made.
func farMarks(ctx context.Context, w *world) error {
	soon := uint64(time.Now().Add(time.Minute).Unix())
	kinds := [][]ban.Mark{
		w.marks(math.MaxInt64, math.MaxInt64), w.marks(math.MaxUint64, math.MaxUint64), w.marks(soon, math.MaxInt64), w.marks(soon+86400, 0),
	}
	every(ctx, 80, func(i int) {
		kind := []ban.Kind{ban.KindUnban, ban.KindUnallow}[i/4%2]
		w.send(w.frameOf(ban.Op{Kind: kind, Marks: kinds[i%len(kinds)], Source: "cli"}, w.bans...))
	})
	return nil
}

// elsewhere announces, signed, one foreign address after the other as its own.
func elsewhere(ctx context.Context, w *world) error {
	pub := w.pub()
	every(ctx, 20, func(i int) {
		at := netip.AddrPortFrom(w.bans[i%len(w.bans)].Addr(), w.self.Port())
		m := meta(pub, claimedName, "1", place(w.key, w.secrets.MeshID, at), 0)
		w.packet(encoded(mlAlive, alive{uint32(1 + i), w.id.String(), at.Addr().AsSlice(), at.Port(), m, versions}))
	})
	return nil
}

// doom declares every honest member suspect and dead at the last incarnation, which a member cannot refute with a later one.
func doom(ctx context.Context, w *world) error {
	ids := slices.Collect(maps.Keys(w.members()))
	every(ctx, 20, func(i int) {
		id := ids[i%len(ids)].String()
		for _, kind := range []byte{mlSuspect, mlDead} {
			w.packet(encoded(kind, dead{math.MaxUint32, id, w.id.String()}))
		}
	})
	return nil
}
