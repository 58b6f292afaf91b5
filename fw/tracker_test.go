package fw

import (
	"net/netip"
	"runtime"
	"testing"
)

func TestTrackerCountsEachKeyOnce(t *testing.T) {
	var tr tracker
	ssh := []PortRange{{ProtoTCP, 22, 22}}
	entries := []Entry{
		{Prefix: netip.MustParsePrefix("192.0.2.1/32")}, {Prefix: netip.MustParsePrefix("192.0.2.1/32"), Ports: ssh},
		{Prefix: netip.MustParsePrefix("192.0.2.0/24")}, {Prefix: netip.MustParsePrefix("2001:db8::1/128")},
		{Prefix: netip.MustParsePrefix("::ffff:0:1/128")},
	}
	for range 2 {
		for _, e := range entries {
			tr.add(e)
		}
		if tr.len() != len(entries) {
			t.Fatalf("%d keys, want %d", tr.len(), len(entries))
		}
	}
	for i, e := range entries {
		tr.remove(e)
		tr.remove(e)
		if want := len(entries) - i - 1; tr.len() != want {
			t.Fatalf("%d keys, want %d", tr.len(), want)
		}
	}
}

// BenchmarkTracker reports how much memory a tracker of a million addresses takes.
func BenchmarkTracker(b *testing.B) {
	const n = 1_000_000
	for name, addr := range map[string]func(i int) netip.Addr{
		"v4": func(i int) netip.Addr { return netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1}) },
		"v6": func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				var tr tracker
				for i := range n {
					a := addr(i)
					tr.add(Entry{Prefix: netip.PrefixFrom(a, a.BitLen())})
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/entry")
				runtime.KeepAlive(tr)
			}
		})
	}
}
