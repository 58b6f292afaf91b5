package daemon

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
)

const (
	million = 1_000_000
	// addTrials is how many more bans are added, one at a time.
	addTrials = 1000
	// cohort is how many bans end within a second.
	cohort = 100_000
)

// scaled returns n, or a fiftieth of it under -short: enough to show that a benchmark measures something.
func scaled(n int) int {
	if testing.Short() {
		return n / 50
	}
	return n
}

// crowd returns n distinct addresses spread like those of block lists, several in each of many /24, generated from seed.
func crowd(n int, seed uint64) []netip.Prefix {
	rng := rand.New(rand.NewPCG(seed, 0))
	seen := make(map[netip.Addr]struct{}, n)
	all := make([]netip.Prefix, 0, n)
	for len(all) < n {
		net24 := [3]byte{byte(11 + rng.IntN(100)), byte(rng.Uint32()), byte(rng.Uint32())}
		for range 1 + rng.IntN(12) {
			addr := netip.AddrFrom4([4]byte{net24[0], net24[1], net24[2], byte(rng.Uint32())})
			if _, ok := seen[addr]; !ok && len(all) < n {
				seen[addr] = struct{}{}
				all = append(all, netip.PrefixFrom(addr, 32))
			}
		}
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// heap returns the live bytes on the heap.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // frees what finalizers released in the first run
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// cpu returns the CPU time that this process has used so far.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// quantiles reports the median, the 99th percentile and the maximum of times.
func quantiles(b *testing.B, times []time.Duration) {
	b.Helper()
	slices.Sort(times)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(us(times[len(times)/2]), "us-p50")
	b.ReportMetric(us(times[(len(times)*99+99)/100-1]), "us-p99")
	b.ReportMetric(us(times[len(times)-1]), "us-worst")
}

// importAll bans through the control socket, as the import command does.
func (n *node) importAll(b *testing.B, addrs []netip.Prefix, length time.Duration) {
	b.Helper()
	client := control.NewClient(n.home.Socket())
	for some := range slices.Chunk(addrs, control.MaxAddrs) {
		rep, err := client.Ban(b.Context(), control.BanRequest{Addrs: some, For: control.Duration(length), Source: "import", ErrorsOnly: true})
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range rep.Results {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	}
}

// enforcedAll waits until the firewall has the wanted number of entries.
func (n *node) enforcedAll(b *testing.B, want int) {
	b.Helper()
	until(b, fmt.Sprintf("%d entries enforced", want), func() bool {
		s := n.fw.Status()
		return s.Queued == 0 && s.Enforced+s.NotEnforced == want
	})
}

// addOne bans an address and returns how long it took until the firewall had it.
func (n *node) addOne(b *testing.B, prefix netip.Prefix, length time.Duration) time.Duration {
	b.Helper()
	done := make(chan time.Time, 1)
	now := time.Now()
	op := ban.Op{Kind: ban.KindBan, Prefix: prefix, Until: endOf(now, length), Source: "test"}
	if err := n.publish(now, []ban.Op{op}); err != nil {
		b.Fatal(err)
	}
	n.fw.Submit(nil, func(at time.Time, err error) {
		if err != nil {
			b.Error(err)
		}
		done <- at
	})
	return (<-done).Sub(now)
}

// addSome repeats addOne, a little apart, until stop is closed or all of addrs are measured; it measures at least once.
func (n *node) addSome(b *testing.B, addrs []netip.Prefix, stop <-chan struct{}) []time.Duration {
	b.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var times []time.Duration
	for _, p := range addrs {
		<-tick.C
		times = append(times, n.addOne(b, p, time.Hour))
		select {
		case <-stop:
			return times
		default:
		}
	}
	return times
}

// BenchmarkMillion measures one node with a million live bans and no firewall: how long they take to import through the
// control socket, what each costs in memory and on disk, how long one more ban takes, alone and during a list, a firewall
// snapshot, an import or an expiry, and how long a restart takes. Times are wall-clock time and this process's CPU time,
// for both ends of the socket together. An iteration takes many seconds, so b.N stays 1.
func BenchmarkMillion(b *testing.B) {
	million, cohort := scaled(million), scaled(cohort)
	addrs := crowd(million+7*addTrials+2*cohort, 1)
	take := func(n int) []netip.Prefix {
		some := addrs[:n]
		addrs = addrs[n:]
		return some
	}
	all := take(million)
	n := first(b, "one")
	before := heap()
	b.Run("import", func(b *testing.B) {
		begin, used := time.Now(), cpu(b)
		n.importAll(b, all, 24*time.Hour)
		n.enforcedAll(b, million)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(time.Since(begin).Seconds(), "s")
		b.ReportMetric((cpu(b) - used).Seconds(), "s-CPU")
		until(b, "the store is at rest", func() bool { return n.store.Stats().Waiting == 0 })
		b.ReportMetric(float64(heap()-before)/float64(million), "B/ban-heap")
		info, err := os.Stat(n.home.Store())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(info.Size())/float64(million), "B/ban-disk")
	})
	b.Run("add", func(b *testing.B) { quantiles(b, n.addSome(b, take(addTrials), nil)) })
	during := func(what func()) (stop <-chan struct{}, wait func()) {
		end, done := make(chan struct{}), make(chan struct{})
		go func() { defer close(done); what(); close(end) }()
		return end, func() { <-done }
	}
	b.Run("add-during-list", func(b *testing.B) {
		stop, wait := during(func() { n.listAll(b) })
		quantiles(b, n.addSome(b, take(addTrials), stop))
		wait()
	})
	b.Run("add-during-snapshot", func(b *testing.B) {
		stop, wait := during(func() {
			for range n.state.Snapshot().Entries {
			}
		})
		quantiles(b, n.addSome(b, take(addTrials), stop))
		wait()
	})
	b.Run("add-during-import", func(b *testing.B) {
		more := take(cohort)
		stop, wait := during(func() { n.importAll(b, more, 24*time.Hour) })
		quantiles(b, n.addSome(b, take(addTrials), stop))
		wait()
	})
	b.Run("add-during-expiry", func(b *testing.B) {
		const lasts = 4 * time.Second
		n.importAll(b, take(cohort), lasts)
		more := take(2 * addTrials)
		var over sync.WaitGroup
		stop := make(chan struct{})
		active := n.counts().Active
		over.Go(func() {
			defer close(stop)
			until(b, "all have ended", func() bool { return n.counts().Active <= active-cohort+len(more) })
		})
		used := cpu(b)
		quantiles(b, n.addSome(b, more, stop))
		over.Wait()
		b.ReportMetric(float64((cpu(b)-used).Nanoseconds())/float64(cohort), "ns-CPU/expired")
	})
	b.Run("list", func(b *testing.B) {
		begin := time.Now()
		count := n.listAll(b)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(count)/time.Since(begin).Seconds(), "entries/s")
	})
	for name, s := range map[string]ui.Search{
		"find-nothing": {Words: "no such words"}, "find-address": {Near: netip.MustParsePrefix("203.0.113.7/32")}, "find-state": {State: control.StatePending},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := n.Find(b.Context(), s, func(control.ListEntry) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/page")
		})
	}
	b.Run("add-during-find", func(b *testing.B) {
		stop, wait := during(func() {
			for range 5 {
				_ = n.Find(b.Context(), ui.Search{Words: "no such words"}, func(control.ListEntry) error { return nil })
			}
		})
		quantiles(b, n.addSome(b, take(addTrials), stop))
		wait()
	})
	b.Run("restart", func(b *testing.B) {
		n.stop()
		active := n.counts().Active
		n.Daemon = nil
		runtime.GC()
		begin, used := time.Now(), cpu(b)
		n = start(b, n.home, n.cfg)
		n.enforcedAll(b, active)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(time.Since(begin).Seconds(), "s")
		b.ReportMetric((cpu(b) - used).Seconds(), "s-CPU")
	})
}

// listAll lists through the control socket and returns the number of entries.
func (n *node) listAll(b *testing.B) int {
	count := 0
	err := control.NewClient(n.home.Socket()).ListRaw(context.WithoutCancel(b.Context()), func([]byte) error {
		count++
		return nil
	})
	if err != nil {
		b.Error(err)
	}
	return count
}

// BenchmarkMillionSingle measures what a ban costs if each came in its own frame, the worst case for a mesh.
func BenchmarkMillionSingle(b *testing.B) {
	dir := statedir.Dir(filepath.Join(b.TempDir(), "node"))
	cfg := testConfig(dir, "one")
	if _, _, err := dir.Init(cfg); err != nil {
		b.Fatal(err)
	}
	n := start(b, dir, cfg)
	million := scaled(million)
	all := crowd(million, 2)
	before, residentBefore := heap(), resident(b)
	begin, used := time.Now(), cpu(b)
	for _, p := range all {
		now := time.Now()
		op := ban.Op{Kind: ban.KindBan, Prefix: p, Until: endOf(now, 24*time.Hour), Source: "line"}
		if err := n.publish(now, []ban.Op{op}); err != nil {
			b.Fatal(err)
		}
	}
	n.enforcedAll(b, million)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(time.Since(begin).Seconds(), "s")
	b.ReportMetric((cpu(b) - used).Seconds(), "s-CPU")
	until(b, "the store is at rest", func() bool { return n.store.Stats().Waiting == 0 })
	b.ReportMetric(float64(resident(b)-residentBefore)/float64(million), "B/ban-RSS-peak")
	b.ReportMetric(float64(heap()-before)/float64(million), "B/ban-heap")
	debug.FreeOSMemory()
	b.ReportMetric(float64(resident(b)-residentBefore)/float64(million), "B/ban-RSS")
}

// resident returns the process's resident memory in bytes, without file-backed pages.
func resident(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		b.Fatalf("RssAnon in /proc/self/status: %v", err)
	}
	return kib << 10
}
