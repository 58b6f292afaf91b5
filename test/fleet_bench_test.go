//go:build linux && netns

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// shared is how many addresses one of ten nodes imports.
	shared = 100_000
	// spacing is the time between single bans made meanwhile.
	spacing = 250 * time.Millisecond
	// fleetLimit bounds how long a bulk may take to reach every kernel.
	fleetLimit = 2 * time.Minute
)

// asker queries a node's agent without a process for each query, which would cost
// more than what is measured.
type asker struct{ http http.Client }

func (n *node) asker(b *testing.B) *asker {
	b.Helper()
	socket := n.Path(stateDir + "/control.sock")
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	b.Cleanup(transport.CloseIdleConnections)
	return &asker{http.Client{Transport: transport}}
}

func (a *asker) status(b *testing.B) (s status) {
	b.Helper()
	resp := must(a.http.Get("http://meshban/v1/status"))(b)
	check(b, json.NewDecoder(resp.Body).Decode(&s))
	check(b, resp.Body.Close())
	return s
}

// holds waits until the agent reports n or more bans as enforced, and returns the
// time.
func (a *asker) holds(b *testing.B, n int) time.Time {
	b.Helper()
	for end := time.Now().Add(fleetLimit); ; during(20 * time.Millisecond) {
		got := a.status(b).Firewall.Enforced
		now := time.Now()
		if got >= n {
			return now
		}
		if now.After(end) {
			b.Fatalf("the kernel has %d of %d", got, n)
		}
	}
}

// cpu returns the processor time that all agents have used.
func (m *mesh) cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, n := range m.nodes {
		sum += must(n.agent.Usage())(b).CPU
	}
	return sum
}

func addresses(addrs []netip.Addr) string {
	var text strings.Builder
	for _, a := range addrs {
		fmt.Fprintln(&text, a)
	}
	return text.String()
}

// BenchmarkFleetImport imports 100,000 addresses on one node of ten. It measures
// the time from the start of the command until every kernel has been given them,
// and that of single bans meanwhile, from the return of write(2) on another
// node's line file to the last kernel.
func BenchmarkFleetImport(b *testing.B) {
	m := settled(b, 10)
	m.prober = m.SparseProber(b, 5) // with a probe a millisecond for each kernel, the probes take 8 % of two processors
	check(b, m.nodes[0].WriteFile(listFile, addresses(crowd(shared, 1))))
	askers := make([]*asker, len(m.nodes))
	for i, n := range m.nodes {
		askers[i] = n.asker(b)
	}
	wire, cpu := must(m.WireBytes())(b), m.cpu(b)
	begin := time.Now()
	imported := make(chan time.Time, 1)
	go func() {
		must(m.nodes[0].Run("meshban", "import", listFile, "--for", "24h"))(b)
		imported <- time.Now()
	}()
	reached := make(chan time.Time, 1)
	go func() {
		var last time.Time
		for _, a := range askers {
			if at := a.holds(b, shared); at.After(last) {
				last = at
			}
		}
		reached <- last
	}()
	var times []time.Duration
	var all time.Time
	for turn := 0; all.IsZero(); turn++ {
		src := fresh()
		pairs := m.watch(b, src)
		times = append(times, lastKernel(b, pairs, m.nodes[1+turn%9].write(b, src, "22")))
		pairs.Stop()
		select {
		case all = <-reached:
		case <-time.After(spacing):
		}
	}
	report(b, times)
	b.ReportMetric(float64(len(times)), "bans-meanwhile")
	b.ReportMetric((<-imported).Sub(begin).Seconds(), "s-command")
	b.ReportMetric(all.Sub(begin).Seconds(), "s-all-kernels")
	b.ReportMetric(float64(must(m.WireBytes())(b)-wire)/shared, "B-wire/ban")
	b.ReportMetric((m.cpu(b) - cpu).Seconds(), "s-CPU-agents")
}

// BenchmarkFleetJoin has a fresh node join a node with a million bans, the giver. It measures the time from the start
// of the fresh node's agent until its kernel has been given all bans, and the time of one more ban on the giver
// before that and meanwhile. In "together", the two share the machine's processors; in "apart", each has one for
// itself, as on two machines, and the benchmark's queries of the giver's kernel use the giver's.
func BenchmarkFleetJoin(b *testing.B) {
	b.Run("together", func(b *testing.B) { fleetJoin(b, func(*node, int) {}) })
	b.Run("apart", func(b *testing.B) {
		runtime.LockOSThread() // for good: the thread ends with the benchmark
		check(b, unix.SchedSetaffinity(0, processor(0)))
		fleetJoin(b, func(n *node, cpu int) {
			if r := must(n.Run("taskset", "-apc", fmt.Sprint(cpu), fmt.Sprint(n.agent.PID)))(b); r.Code != exitDone {
				b.Fatalf("taskset: %s", r.Stderr)
			}
		})
	})
}

func processor(n int) *unix.CPUSet {
	var set unix.CPUSet
	set.Set(n)
	return &set
}

func fleetJoin(b *testing.B, pin func(n *node, cpu int)) {
	m := newFleet(b, 2)
	first, second := m.nodes[0], m.nodes[1]
	first.run(b, "init", "--dir", stateDir, "--name", first.Name, "--bind", m.bind(first))
	m.up(b, setup{}, first)
	pin(first, 0)
	g := giantOf(b, first)
	addrs := crowd(million+2*whileLoading, 1)
	g.write(b, addrs[:million])
	g.run(b, "import", listFile, "--for", "24h")
	g.holds(b, million)
	during(3 * time.Second)
	before := g.addSome(b, addrs[million:million+oneMore], nil)
	report(b, before)
	token := strings.TrimSpace(first.run(b, "invite"))
	second.run(b, "join", token, "--name", second.Name, "--bind", m.bind(second))
	wire := must(m.WireBytes())(b)
	begin := time.Now()
	m.up(b, setup{}, second)
	pin(second, 1)
	joiner := second.asker(b)
	stop, done := make(chan struct{}), make(chan time.Time, 1)
	go func() {
		defer close(stop)
		done <- joiner.holds(b, million)
	}()
	var meanwhile []time.Duration
	stealing(b, func() { meanwhile = g.addSome(b, addrs[million+whileLoading:], stop) })
	took := (<-done).Sub(begin)
	b.ReportMetric(float64(must(m.WireBytes())(b)-wire)/million, "B-wire/ban")
	slices.Sort(meanwhile)
	b.ReportMetric(took.Seconds(), "s-enforced")
	b.ReportMetric(float64(len(meanwhile)), "bans-meanwhile")
	b.ReportMetric(ms(meanwhile[len(meanwhile)/2]), "ms-p50-meanwhile")
	b.ReportMetric(ms(meanwhile[len(meanwhile)*99/100]), "ms-p99-meanwhile")
}
