//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

// trials is how many times one benchmark measures. The benchmarks do not loop
// b.N times: a run takes longer than Go's benchtime, so N stays 1.
const trials = 20

// report reports the median, the 99th percentile and the worst of some times.
func report(b *testing.B, times []time.Duration) {
	b.Helper()
	slices.Sort(times)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(times[len(times)/2]), "ms-p50")
	b.ReportMetric(ms(times[(len(times)*99+99)/100-1]), "ms-p99")
	b.ReportMetric(ms(times[len(times)-1]), "ms-worst")
}

// settled returns a mesh that has been idle for a while.
func settled(b *testing.B, nodes int) *mesh {
	b.Helper()
	m := newMesh(b, setup{nodes: nodes})
	during(3 * time.Second)
	return m
}

// lastKernel returns how long after start the last pair was enforced.
func lastKernel(b *testing.B, pairs rig.Pairs, start time.Time) time.Duration {
	b.Helper()
	return rig.Last(must(pairs.Enforced(10 * time.Second))(b)).Sub(start)
}

// BenchmarkLine measures the time from the return of write(2) on one node's line
// file to the last kernel.
func BenchmarkLine(b *testing.B) {
	for _, nodes := range []int{3, 10} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			m := settled(b, nodes)
			var times []time.Duration
			for i := range trials {
				src := fresh()
				pairs := m.watch(b, src)
				times = append(times, lastKernel(b, pairs, m.nodes[i%nodes].write(b, src, "22")))
				pairs.Stop()
			}
			report(b, times)
		})
	}
}

// BenchmarkCommand measures the time from before the start of `meshban ban` to
// the last kernel.
func BenchmarkCommand(b *testing.B) {
	m := settled(b, 10)
	var times []time.Duration
	for i := range trials {
		src := fresh()
		pairs := m.watch(b, src)
		start := time.Now()
		m.nodes[i%10].run(b, "ban", src.String())
		times = append(times, lastKernel(b, pairs, start))
		pairs.Stop()
	}
	report(b, times)
}

// BenchmarkUnban measures the time from before the start of `meshban unban` on
// another node to the last kernel.
func BenchmarkUnban(b *testing.B) {
	m := settled(b, 10)
	var times []time.Duration
	for i := range trials {
		src := fresh()
		pairs := m.watch(b, src)
		m.nodes[i%10].run(b, "ban", src.String())
		must(pairs.Enforced(banLimit))(b)
		start := time.Now()
		m.nodes[(i+1)%10].run(b, "unban", src.String())
		times = append(times, rig.Last(must(pairs.Open(start, banLimit))(b)).Sub(start))
		pairs.Stop()
	}
	report(b, times)
}

// BenchmarkWire measures what one ban costs on the wire, summed over ten nodes,
// minus the traffic of an idle mesh.
func BenchmarkWire(b *testing.B) {
	m := settled(b, 10)
	const window = 20 * time.Second
	before := must(m.WireBytes())(b)
	during(window)
	idle := must(m.WireBytes())(b) - before
	before = must(m.WireBytes())(b)
	start := time.Now()
	for i := range trials {
		m.nodes[i%10].write(b, fresh(), "22")
		during(500 * time.Millisecond)
	}
	during(time.Until(start.Add(window)))
	busy := must(m.WireBytes())(b) - before
	for _, n := range m.nodes {
		if got := n.status(b).Firewall.Enforced; got != trials {
			b.Errorf("%s enforces %d of %d", n.Name, got, trials)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric((float64(busy)-float64(idle))/trials, "B/ban")
	b.ReportMetric(float64(idle)/window.Seconds()/10, "idle-B/s/node")
}

// BenchmarkBurst measures the time from the return of one write(2) of 50 lines until all ten kernels drop a sample of
// them, which includes the first and the last and is probed every 5 ms. Then it counts the bans lost, by probing each
// of the 50 addresses on each node.
func BenchmarkBurst(b *testing.B) {
	m := settled(b, 10)
	const burst, rounds = 50, 5
	sample := m.SparseProber(b, 5)
	all := m.SparseProber(b, 50)
	var times []time.Duration
	lost := 0
	for range rounds {
		var text strings.Builder
		var srcs []netip.Addr
		for range burst {
			srcs = append(srcs, fresh())
			fmt.Fprintf(&text, "HOST %v PORT 22\n", srcs[len(srcs)-1])
		}
		var watched rig.Pairs
		for _, i := range []int{0, 12, 25, 37, burst - 1} {
			watched = append(watched, must(sample.WatchAll(srcs[i]))(b)...)
		}
		start := must(m.nodes[0].AppendFile(lineFile, text.String()))(b)
		times = append(times, lastKernel(b, watched, start))
		watched.Stop()
		during(time.Second)
		var every rig.Pairs
		for _, src := range srcs {
			for _, n := range m.nodes {
				every = append(every, all.Watch(src, n.Node, rig.ClosedPort))
			}
		}
		control := all.Watch(fresh(), m.nodes[0].Node, rig.ClosedPort)
		check(b, control.Control())
		from := time.Now()
		during(rig.Settle)
		for _, p := range every {
			if w := p.Count(from, time.Now()); w.Answered > 0 || w.Sent == 0 {
				lost++
			}
		}
		every.Stop()
		control.Stop()
	}
	report(b, times)
	b.ReportMetric(float64(lost), "lost")
}

// BenchmarkIdle measures what an idle node of ten costs: bytes sent, share of a
// core, and memory. PSS divides the program's pages among the ten.
func BenchmarkIdle(b *testing.B) {
	m := settled(b, 10)
	during(5 * time.Second)
	const window = 30 * time.Second
	before := make([]rig.Usage, len(m.nodes))
	for i, n := range m.nodes {
		before[i] = must(n.agent.Usage())(b)
	}
	sent := must(m.WireBytes())(b)
	during(window)
	perNode := float64(must(m.WireBytes())(b)-sent) / window.Seconds() / float64(len(m.nodes))
	var cpu, worstCPU time.Duration
	var pss, rss int64
	for i, n := range m.nodes {
		u := must(n.agent.Usage())(b)
		cpu += u.CPU - before[i].CPU
		worstCPU = max(worstCPU, u.CPU-before[i].CPU)
		pss, rss = max(pss, u.PSS), max(rss, u.RSS)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(perNode, "B/s/node")
	b.ReportMetric(100*cpu.Seconds()/window.Seconds()/float64(len(m.nodes)), "%CPU/node")
	b.ReportMetric(100*worstCPU.Seconds()/window.Seconds(), "%CPU-worst")
	b.ReportMetric(float64(pss)/(1<<20), "MiB-PSS-worst")
	b.ReportMetric(float64(rss)/(1<<20), "MiB-RSS-worst")
}

// BenchmarkFlood measures how long a ban takes that was written behind a million
// useless lines, from the return of its write(2) to the last of three kernels.
func BenchmarkFlood(b *testing.B) {
	m := settled(b, 3)
	const useless = 1_000_000
	line := "Nov 22 11:02:11 web1 sshd[4242]: Failed password for root from 203.0.113.9 port 51234 ssh2\n"
	src := fresh()
	pairs := m.watch(b, src)
	must(m.nodes[0].AppendFile(lineFile, strings.Repeat(line, useless)))(b)
	took := lastKernel(b, pairs, m.nodes[0].write(b, src, "22"))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(took), "ms-behind-flood")
}
