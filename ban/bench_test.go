package ban

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

const million = 1_000_000

// plainBans returns n bans of single addresses, as frames of 80 from ten origins would bring them, with ends spread
// over an hour. One in eight is IPv6.
func plainBans(n int) []Record {
	rng := rand.New(rand.NewPCG(1, 2))
	reasons := []string{"sshd: 5 failures", "nginx: scan", "postfix: auth", ""}
	rs := make([]Record, n)
	for i := range rs {
		var a netip.Addr
		if i%8 == 7 {
			b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
			binary.BigEndian.PutUint64(b[4:], rng.Uint64())
			a = netip.AddrFrom16(b)
		} else {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], 0x0b000000+rng.Uint32N(0x70000000)) // from 11.0.0.0 up
			a = netip.AddrFrom4(b)
		}
		rs[i] = Record{
			Op: Op{
				Kind: KindBan, Prefix: netip.PrefixFrom(a, a.BitLen()), Source: "line:sshd", Reason: reasons[i%4],
				Until: base.Add(time.Hour + time.Duration(rng.IntN(3_600_000))*time.Millisecond),
			},
			Origin:  Origin{byte(i/80%10 + 1)},
			Version: Version{Epoch: 3, Seq: uint64(i / 80), Index: uint16(i % 80)},
			Issued:  base,
		}
	}
	return rs
}

func heapBytes() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkMillion measures the life of a million plain bans: the memory of one, and how many a second are merged in
// frames, merged again, and expired.
func BenchmarkMillion(b *testing.B) {
	rs := plainBans(million)
	var bytes, merge, again, expire, last float64
	for b.Loop() {
		tb := newTable(b, Config{})
		before := heapBytes()
		start := time.Now()
		for i := 0; i < len(rs); i += 80 {
			tb.Merge(base, rs[i:i+80])
		}
		merge += time.Since(start).Seconds()
		bytes += float64(heapBytes() - before)
		start = time.Now()
		for i := 0; i < len(rs); i += 80 {
			if cs := tb.Merge(base, rs[i:i+80]); cs != nil {
				b.Fatal(cs)
			}
		}
		again += time.Since(start).Seconds()
		if n := tb.Counts().Active; n < million*99/100 {
			b.Fatal(n)
		}
		start = time.Now()
		for now := base.Add(time.Hour); tb.Counts().Records > 0; now = now.Add(time.Second) {
			for next, ok := tb.Next(); ok && !next.After(now); next, ok = tb.Next() {
				step := time.Now()
				tb.Expire(now)
				last = max(last, time.Since(step).Seconds())
			}
		}
		expire += time.Since(start).Seconds()
	}
	n := float64(b.N)
	b.ReportMetric(bytes/n/million, "B/ban")
	b.ReportMetric(n*million/merge, "merge/s")
	b.ReportMetric(n*million/again, "again/s")
	b.ReportMetric(n*million/expire, "expire/s")
	b.ReportMetric(last*1e6, "us/call-max")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkTable measures single calls on a table with a million bans.
func BenchmarkTable(b *testing.B) {
	tb := newTable(b, Config{})
	rs := plainBans(million)
	tb.Merge(base, rs)
	for i := range 3000 { // allows of different lengths, which each merge must check
		tb.Merge(base, single(Record{
			Op:     Op{Kind: KindAllow, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24+i%9).Masked(), Until: tick(9999)},
			Origin: peerA, Version: Version{9, uint64(i), 0},
		}))
	}
	for i := range 3000 {
		tb.Merge(base, single(Record{
			Op:     Op{Kind: KindUnban, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24+i%9).Masked(), Until: tick(9999), Marks: []Mark{upTo(peerA, 1)}},
			Origin: peerA, Version: Version{10, uint64(i), 0},
		}))
	}
	fresh := plainBans(million + 200_000)[million:]
	b.Run("merge of one new ban", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			r := fresh[i%len(fresh)]
			r.Version.Seq += uint64(i / len(fresh) * len(fresh))
			tb.Merge(base, single(r))
			i++
		}
	})
	b.Run("refresh", func(b *testing.B) {
		i := 0
		for b.Loop() {
			r := rs[i%len(rs)]
			r.Version.Seq += uint64(i/len(rs)+1) * million
			r.Until = r.Until.Add(time.Minute)
			tb.Merge(base, single(r))
			i++
		}
	})
	b.Run("lookup", func(b *testing.B) {
		i := 0
		for b.Loop() {
			tb.Lookup(rs[i%len(rs)].Prefix)
			i++
		}
	})
	b.Run("unban ops of a /24", func(b *testing.B) {
		i := 0
		for b.Loop() {
			p := netip.PrefixFrom(rs[i*8%len(rs)].Prefix.Addr(), 24)
			if _, err := tb.liftBans(base, p, "", "cli"); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	b.Run("entries, 1000 at a time", func(b *testing.B) {
		var cursor uint32
		for b.Loop() {
			_, cursor = tb.EntriesAfter(cursor, 1000, nil)
		}
	})
	b.Run("why of a /8", func(b *testing.B) {
		for b.Loop() {
			tb.Why(pfx("20.0.0.0/8"))
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	for _, n := range []int{1, 80} {
		rs := plainBans(n)
		var ops []Op
		for _, r := range rs {
			ops = append(ops, r.Op)
		}
		payload, err := AppendOps(nil, ops)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("encode %d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := AppendOps(nil, ops); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(payload)), "B/frame")
		})
		b.Run(fmt.Sprintf("decode %d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeOps(payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
