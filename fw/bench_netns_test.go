//go:build linux && netns

package fw

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// BenchmarkCounters reports what [Options.Counters] costs with 100,000 bans: kernel memory, the time of a load and of a
// single add, what a packet that is dropped costs, and how long reading all counters takes.
func BenchmarkCounters(b *testing.B) {
	for _, v := range variants[:3] {
		for _, counters := range []bool{false, true, false, true} {
			name := v.name
			if counters {
				name += "+counters"
			}
			b.Run(name, func(b *testing.B) {
				if !inside(b) {
					return
				}
				const n = 100_000
				r := newRig(b)
				addrs := benchAddrs(b, n+3000)
				backend := r.openCounting(v, counters)
				mustLoad := func(addrs []netip.Addr) {
					if err := backend.Replace(ctx, time.Now(), benchState(addrs)); err != nil {
						b.Fatal(err)
					}
				}
				mustLoad(nil)
				before := kernelMemory(b)
				start := time.Now()
				mustLoad(addrs[:n])
				b.ReportMetric(float64(time.Since(start).Microseconds())/1e3, "ms-load")
				b.ReportMetric(float64(kernelMemory(b)-before)/1e3, "MB")
				var singles []Update
				for _, a := range addrs[n:] {
					singles = append(singles, Update{Entry: Entry{Prefix: netip.PrefixFrom(a, 32), Until: time.Now().Add(time.Hour)}})
				}
				singleAdds(b, backend, "add", singles)
				if err := backend.Apply(ctx, time.Now(), []Update{{Entry: entry("192.0.2.1")}}); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(r.packetCost("192.0.2.1"), "ns/dropped")
				b.ReportMetric(r.packetCost("192.0.2.2"), "ns/passed")
				if counters {
					start = time.Now()
					if _, err := backend.Hits(ctx); err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(time.Since(start).Microseconds())/1e3, "ms-hits")
				}
			})
		}
	}
}

// kernelMemory returns what the kernel has allocated for itself, in kB.
func kernelMemory(b *testing.B) (kb int) {
	b.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var n int
		for _, what := range []string{"SUnreclaim:", "Percpu:", "VmallocUsed:"} {
			if rest, ok := strings.CutPrefix(line, what); ok {
				if _, err := fmt.Sscan(rest, &n); err != nil {
					b.Fatal(err)
				}
				kb += n
			}
		}
	}
	return kb
}

// packetCost returns what a packet from src costs its sender, in ns: the kernel delivers it, or drops it, on the sender's
// processor. It is the least of several rounds.
func (r *rig) packetCost(src string) float64 {
	const rounds, packets = 15, 20_000
	r.listen(9)
	least := time.Duration(math.MaxInt64)
	r.onAttacker(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			r.tb.Error(err)
			return
		}
		defer unix.Close(fd)
		from, to := unix.SockaddrInet4{Addr: netip.MustParseAddr(src).As4()}, unix.SockaddrInet4{Addr: netip.MustParseAddr(node4).As4(), Port: 9}
		if err := errors.Join(unix.Bind(fd, &from), unix.Connect(fd, &to)); err != nil {
			r.tb.Error(err)
			return
		}
		for range rounds {
			start := time.Now()
			for range packets {
				_, _ = unix.Write(fd, []byte{1}) // an answer that the port is closed is an error of the next one
			}
			least = min(least, time.Since(start)/packets)
		}
	})
	return float64(least.Nanoseconds())
}
