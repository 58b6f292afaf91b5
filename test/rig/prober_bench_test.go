//go:build linux && netns

package rig

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// BenchmarkProber measures how precisely the prober tells the time. On ten nodes that are probed at once, it adds one
// element by netlink in this process, so the true moment is known to some microseconds. Lateness is measured from the
// return of that call to the time that the prober reports. If all is well, it lies between 0 and the probe interval.
func BenchmarkProber(b *testing.B) {
	start := time.Now()
	f := New(b, Options{Nodes: 10})
	built := time.Since(start)
	var sets []*netlink.Handle
	for _, n := range f.Nodes {
		must(n.Shell(dropRules))(b)
		check(b, n.InNet(func() error {
			h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
			sets = append(sets, h)
			return err
		}))
	}
	p := f.Prober(b)
	var late []time.Duration
	var gap time.Duration
	var cpu time.Duration
	begin := time.Now()
	before := processCPU(b)
	rounds := 0
	for b.Loop() {
		rounds++
		src := netip.AddrFrom4([4]byte{198, 18, byte(rounds >> 8), byte(rounds)})
		pairs := must(p.WatchAll(src))(b)
		first := time.Now()
		added := make([]time.Time, len(pairs))
		for i := range pairs {
			check(b, sets[i].IpsetAdd("t4", &netlink.IPSetEntry{IP: net.IP(src.AsSlice())}))
			added[i] = time.Now()
		}
		at := must(pairs.Enforced(time.Second))(b)
		for i := range at {
			late = append(late, at[i].Sub(added[i]))
			gap = max(gap, pairs[i].Count(first, at[i]).Gap)
		}
		pairs.Stop()
	}
	cpu = processCPU(b) - before
	slices.Sort(late)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(built), "ms/fleet-of-10")
	b.ReportMetric(ms(late[0]), "ms-late-first")
	b.ReportMetric(ms(late[len(late)/2]), "ms-late-p50")
	b.ReportMetric(ms(late[len(late)*99/100]), "ms-late-p99")
	b.ReportMetric(ms(late[len(late)-1]), "ms-late-worst")
	b.ReportMetric(ms(gap), "ms-worst-gap")
	b.ReportMetric(100*cpu.Seconds()/time.Since(begin).Seconds(), "%CPU")
}

// processCPU returns the processor time that this process has used.
func processCPU(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(fmt.Errorf("usage: %w", err))
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
