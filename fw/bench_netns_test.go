//go:build linux && netns

package fw

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// benchAddrs returns n distinct addresses: real ones from block lists if available, then clustered ones.
func benchAddrs(b *testing.B, n int) []netip.Addr {
	seen := make(map[netip.Addr]bool, n)
	out := make([]netip.Addr, 0, n)
	add := func(a netip.Addr) {
		if !seen[a] && len(out) < n {
			seen[a] = true
			out = append(out, a)
		}
	}
	files, err := filepath.Glob("../../shared/data/*.txt")
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if a, err := netip.ParseAddr(strings.TrimSpace(line)); err == nil {
				add(a)
			}
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for len(out) < n {
		net := [3]byte{byte(1 + rng.IntN(220)), byte(rng.IntN(256)), byte(rng.IntN(256))}
		for range 1 + rng.IntN(20) {
			add(netip.AddrFrom4([4]byte{net[0], net[1], net[2], byte(rng.IntN(256))}))
		}
	}
	return out
}

func benchState(addrs []netip.Addr) State {
	until := time.Now().Add(time.Hour)
	return State{Len: len(addrs), Entries: func(yield func(Entry) bool) {
		for _, a := range addrs {
			if !yield(Entry{Prefix: netip.PrefixFrom(a, a.BitLen()), Until: until}) {
				return
			}
		}
	}}
}

// singleAdds applies updates one by one and reports the median and the 99th percentile of their times.
func singleAdds(b *testing.B, backend Backend, what string, updates []Update) {
	took := make([]time.Duration, 0, len(updates))
	one := make([]Update, 1)
	for _, u := range updates {
		one[0] = u
		start := time.Now()
		if err := backend.Apply(ctx, start, one); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "us-p50-"+what)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "us-p99-"+what)
}

// BenchmarkBackend reports for each backend: single adds into an empty and into a full set, adds per second in batches of
// 1,000, the time of a load of 100,000 and of 1,000,000 entries, of a load that replaces them, and of a check.
func BenchmarkBackend(b *testing.B) {
	for _, v := range variants {
		b.Run(v.name, func(b *testing.B) {
			if !inside(b) {
				return
			}
			r := newRig(b)
			sizes := []int{100_000, 1_000_000}
			singles, batches := 3000, 100
			if v.backend == NameIPTables {
				sizes, singles, batches = []int{maxRuleEntries}, 100, 1
			}
			addrs := benchAddrs(b, sizes[len(sizes)-1]+singles)
			ends := time.Now().Add(time.Hour)
			updates := make([]Update, len(addrs))
			for i, a := range addrs {
				updates[i] = Update{Entry: Entry{Prefix: netip.PrefixFrom(a, a.BitLen()), Until: ends}}
			}
			backend := r.open(v, OutboundDrop)
			report := func(what string, f func() error) {
				runtime.GC()
				start := time.Now()
				if err := f(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(time.Since(start).Microseconds())/1e3, "ms-"+what)
			}
			load := func(n int) func() error {
				return func() error { return backend.Replace(ctx, time.Now(), benchState(addrs[:n])) }
			}
			if err := load(0)(); err != nil {
				b.Fatal(err)
			}
			singleAdds(b, backend, "add", updates[:singles])
			singleAdds(b, backend, "refresh", updates[:singles])
			start := time.Now()
			for i := range batches {
				if err := backend.Apply(ctx, time.Now(), updates[i*1000:(i+1)*1000]); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(batches*1000)/time.Since(start).Seconds(), "adds/s")
			names := map[int]string{maxRuleEntries: "1k", 100_000: "100k", 1_000_000: "1M"}
			for _, n := range sizes {
				if err := load(0)(); err != nil {
					b.Fatal(err)
				}
				report("load-"+names[n], load(n))
				report("reload-"+names[n], load(n))
			}
			singleAdds(b, backend, "add-full", updates[len(updates)-singles:])
			report("check", func() error { _, err := backend.Check(ctx); return err })
			report("teardown", func() error { _, err := Teardown(ctx, Options{}); return err })
		})
	}
}

// BenchmarkSubmit measures one update through a running Syncer, from Submit until the kernel has it.
func BenchmarkSubmit(b *testing.B) {
	for _, v := range variants[:4] {
		b.Run(v.name, func(b *testing.B) {
			if !inside(b) {
				return
			}
			r := newRig(b)
			s, err := NewSyncer(SyncerConfig{Backend: r.open(v, OutboundDrop), Snapshot: func() State { return State{} }})
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = s.Run(ctx) }() // ends with the process, which is this benchmark's alone
			if err := s.Replace(ctx); err != nil {
				b.Fatal(err)
			}
			took := make([]time.Duration, 0, 1000)
			got := make(chan time.Time, 1)
			for _, a := range benchAddrs(b, 500) {
				e := Entry{Prefix: netip.PrefixFrom(a, a.BitLen()), Until: time.Now().Add(time.Hour)}
				start := time.Now()
				s.Submit([]Update{{Entry: e}}, func(at time.Time, _ error) { got <- at })
				took = append(took, (<-got).Sub(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "us-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "us-p99")
		})
	}
}
