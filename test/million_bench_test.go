//go:build linux && netns

package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

const (
	million      = 1_000_000
	millionLimit = 60 * time.Second
	listFile     = "/root/list.txt"
	// oneMore is how many single bans are added.
	oneMore = 300
	// addEvery is the time between two of them: an agent with peers batches what comes faster.
	addEvery = 15 * time.Millisecond
	// whileLoading bounds how many are added until a check finds the set empty and it is loaded again.
	whileLoading = 8000
	// cohort is how many bans end together.
	cohort = 100_000
)

// crowd returns n distinct addresses distributed as in block lists: a few in each of many /24s.
func crowd(n int, seed uint64) []netip.Addr {
	rng := rand.New(rand.NewPCG(seed, 0))
	seen := make(map[netip.Addr]struct{}, n)
	all := make([]netip.Addr, 0, n)
	for len(all) < n {
		net24 := [3]byte{byte(11 + rng.IntN(100)), byte(rng.Uint32()), byte(rng.Uint32())}
		for range 1 + rng.IntN(12) {
			addr := netip.AddrFrom4([4]byte{net24[0], net24[1], net24[2], byte(rng.Uint32())})
			if _, ok := seen[addr]; !ok && len(all) < n {
				seen[addr] = struct{}{}
				all = append(all, addr)
			}
		}
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// giant is a node with many bans, and the means to query it.
type giant struct {
	*node
	kernel  *rig.SetProbe
	control net.Conn      // while addSome runs
	replies *bufio.Reader // of control
}

func newGiant(b *testing.B) *giant {
	b.Helper()
	return giantOf(b, settled(b, 1).nodes[0])
}

func giantOf(b *testing.B, n *node) *giant {
	b.Helper()
	g := &giant{node: n}
	check(b, g.InNet(func() (err error) {
		g.kernel, err = rig.NewSetProbe("meshban4")
		return err
	}))
	b.Cleanup(func() { check(b, g.kernel.Close()) })
	return g
}

// holds waits until the agent reports exactly n bans as enforced.
func (g *giant) holds(b *testing.B, n int) {
	b.Helper()
	for end := time.Now().Add(millionLimit); g.status(b).Firewall.Enforced != n; during(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("the kernel has %d of %d", g.status(b).Firewall.Enforced, n)
		}
	}
}

func (g *giant) write(b *testing.B, addrs []netip.Addr) {
	b.Helper()
	var text strings.Builder
	for _, a := range addrs {
		fmt.Fprintln(&text, a)
	}
	check(b, g.WriteFile(listFile, text.String()))
}

// add bans an address by a request on the control socket and returns the time
// from before the request is written until the kernel's set contains the address.
func (g *giant) add(b *testing.B, addr netip.Addr) time.Duration {
	b.Helper()
	body := `{"addrs":["` + addr.String() + `"],"for":"1h"}`
	request := fmt.Sprintf("POST /v1/ban HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	begin := time.Now()
	must(io.WriteString(g.control, request))(b)
	took := g.has(b, addr, begin)
	reply := must(http.ReadResponse(g.replies, nil))(b)
	answer := must(io.ReadAll(reply.Body))(b)
	if reply.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s", reply.Status, answer)
	}
	return took
}

// addLine bans an address by a line; the time is from the return of write(2).
func (g *giant) addLine(b *testing.B, addr netip.Addr) time.Duration {
	b.Helper()
	return g.has(b, addr, g.node.write(b, addr, "22"))
}

// has waits until the kernel's set contains the address, and returns how long after begin that was.
func (g *giant) has(b *testing.B, addr netip.Addr, begin time.Time) time.Duration {
	b.Helper()
	for {
		there := must(g.kernel.Has(addr))(b)
		took := time.Since(begin)
		if there {
			return took
		}
		if took > banLimit {
			b.Fatalf("%v is not in the kernel after %v", addr, took)
		}
		// Asking without a pause would keep the agent from the kernel's lock.
		// The kernel's sleep is used because Go's timers have steps of 1 ms.
		if err := unix.Nanosleep(&unix.Timespec{Nsec: 50_000}, nil); err != nil && !errors.Is(err, unix.EINTR) {
			b.Fatal(err)
		}
	}
}

// addSome adds addresses one every addEvery, until all are added or stop is closed.
func (g *giant) addSome(b *testing.B, addrs []netip.Addr, stop <-chan struct{}) []time.Duration {
	b.Helper()
	g.control = must(net.Dial("unix", g.Path(stateDir+"/control.sock")))(b)
	defer g.control.Close()
	g.replies = bufio.NewReader(g.control)
	var times []time.Duration
	for _, addr := range addrs {
		select {
		case <-stop:
			return times
		case <-time.After(addEvery):
			times = append(times, g.add(b, addr))
		}
	}
	return times
}

// stealing reports how much of one processor this virtual machine's hypervisor gave to others while what ran: it is
// the main reason for the longest of many short times.
func stealing(b *testing.B, what func()) {
	b.Helper()
	begin, before := time.Now(), must(rig.Stolen())(b)
	what()
	stolen := must(rig.Stolen())(b) - before
	b.ReportMetric(100*stolen.Seconds()/time.Since(begin).Seconds(), "%steal")
}

func (g *giant) memory(b *testing.B, at string) {
	b.Helper()
	u := must(g.agent.Usage())(b)
	b.ReportMetric(float64(u.RSS)/million, "B-RSS/ban-"+at)
}

// BenchmarkMillion measures one node with a million live bans and the real ipset.
// The time of one more ban is from before the request until the kernel's set
// contains the address, asked every 0.1 ms.
func BenchmarkMillion(b *testing.B) {
	g := newGiant(b)
	small := must(g.agent.Usage())(b)
	addrs := crowd(million+7*oneMore+whileLoading+cohort, 1)
	take := func(n int) []netip.Addr {
		some := addrs[:n]
		addrs = addrs[n:]
		return some
	}
	active := 0
	add := func(b *testing.B, most int, stop <-chan struct{}) {
		var times []time.Duration
		stealing(b, func() { times = g.addSome(b, take(most), stop) })
		active += len(times)
		report(b, times)
	}
	meanwhile := func(b *testing.B, most int, what func()) {
		stop := make(chan struct{})
		go func() { defer close(stop); what() }()
		add(b, most, stop)
		<-stop
	}
	addLines := func(b *testing.B) {
		var times []time.Duration
		stealing(b, func() {
			for _, addr := range take(oneMore) {
				during(addEvery)
				times = append(times, g.addLine(b, addr))
			}
		})
		active += len(times)
		report(b, times)
	}
	b.Run("add-to-none", func(b *testing.B) { add(b, oneMore, nil) }) // for comparison
	b.Run("add-line-to-none", addLines)
	b.Run("import", func(b *testing.B) {
		g.write(b, take(million))
		begin := time.Now()
		g.run(b, "import", listFile, "--for", "24h")
		active += million
		g.holds(b, active)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(time.Since(begin).Seconds(), "s")
		b.ReportMetric((must(g.agent.Usage())(b).CPU - small.CPU).Seconds(), "s-CPU-agent")
		b.ReportMetric(float64(small.PSS)/(1<<20), "MiB-PSS-before")
		g.memory(b, "then")
	})
	b.Run("add", func(b *testing.B) { add(b, oneMore, nil) })
	b.Run("add-line", addLines)
	b.Run("add-during-list", func(b *testing.B) {
		meanwhile(b, oneMore, func() { must(g.Shell("for i in 1 2 3; do meshban list --json >/dev/null; done"))(b) })
	})
	b.Run("add-during-load", func(b *testing.B) { // another program empties the set: all is loaded again
		must(g.Shell("ipset flush meshban4"))(b)
		before := g.status(b).Firewall.Repairs
		meanwhile(b, whileLoading, func() {
			for end := time.Now().Add(millionLimit); g.status(b).Firewall.Repairs == before && time.Now().Before(end); {
				during(100 * time.Millisecond)
			}
		})
		g.holds(b, active)
	})
	b.Run("list", func(b *testing.B) {
		for _, verb := range []string{"list --json", "export"} {
			begin := time.Now()
			lines := must(g.Shell("meshban " + verb + " | wc -l"))(b)
			took := time.Since(begin).Seconds()
			if strings.TrimSpace(lines) != fmt.Sprint(active) {
				b.Errorf("%s: %s lines, want %d", verb, lines, active)
			}
			name, _, _ := strings.Cut(verb, " ")
			b.ReportMetric(float64(active)/took, name+"/s")
		}
		b.ReportMetric(0, "ns/op")
		g.memory(b, "then")
	})
	b.Run("idle", func(b *testing.B) {
		const window = 35 * time.Second // includes a check of the firewall
		before := must(g.agent.Usage())(b).CPU
		during(window)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(100*(must(g.agent.Usage())(b).CPU-before).Seconds()/window.Seconds(), "%CPU")
		g.memory(b, "then")
	})
	b.Run("restart", func(b *testing.B) {
		g.kill(b)
		begin := time.Now()
		g.start(b)
		g.holds(b, active)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(time.Since(begin).Seconds(), "s")
		b.ReportMetric(must(g.agent.Usage())(b).CPU.Seconds(), "s-CPU-agent")
		g.memory(b, "then")
	})
	b.Run("add-during-expiry", func(b *testing.B) {
		const lasts = 6 * time.Second
		g.write(b, take(cohort))
		begin := time.Now()
		g.run(b, "import", listFile, "--for", lasts.String())
		during(time.Until(begin.Add(lasts - 200*time.Millisecond)))
		before := must(g.agent.Usage())(b).CPU
		add(b, oneMore, nil)
		g.holds(b, active)
		b.ReportMetric(float64(must(g.agent.Usage())(b).CPU-before)/cohort/1000, "us-CPU/expired")
	})
}
