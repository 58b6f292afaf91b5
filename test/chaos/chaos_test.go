//go:build linux && netns

package chaos

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

var (
	seedFlag = flag.Uint64("chaos.seed", 1, "plan of the run; 0 = a new one")
	forFlag  = flag.Duration("chaos.for", 150*time.Second, "how long rounds begin; start and end take half a minute more")
)

const (
	// quietLimit bounds how long all nodes may need to agree after the faults have ended.
	quietLimit = time.Minute
	// samples is how many addresses are probed by packets at a quiet point.
	samples = 6
	// leakBound is by how many files and goroutines an agent that was never killed may differ from its start.
	leakBound = 5
	// slopeFrom is the shortest run in which the growth of memory is meaningful; slopeBound is the growth allowed in that
	// time, in bytes.
	slopeFrom, slopeBound = 10 * time.Minute, 1 << 20
)

// TestChaos runs the mesh under faults and compares it with the oracle at each quiet point.
func TestChaos(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -chaos.seed=%d -chaos.for=%v", seed, *forFlag)
	w := newWorld(t, seed)
	defer w.tails()
	r := rand.New(rand.NewPCG(seed, 0))
	w.quiet(r)
	before, err := w.nodes[kept].usage()
	w.check(err)
	var growth []sample
	begin := time.Now()
	for round := 0; time.Since(begin) < *forFlag && !t.Failed(); round++ {
		p := newPlan(r, round)
		w.play(p, r)
		if t.Failed() {
			return
		}
		w.quiet(r)
		u, err := w.nodes[kept].usage()
		w.check(err)
		t.Logf("%v: round %d, about %q, is over: %s has %+v", time.Since(begin).Round(time.Second), round, p.macro, w.nodes[kept].Name, u)
		growth = append(growth, sample{time.Since(begin), u.rss})
	}
	if t.Failed() {
		return
	}
	w.leaks(before)
	if w.late > len(growth) {
		w.violate(nil, "", "in %d rounds the kernel was late %d times", len(growth), w.late)
	}
	if grown := slope(growth); time.Since(begin) >= slopeFrom && grown > slopeBound {
		w.violate(w.nodes[kept], "", "memory grows by %d KiB in %v after the first third: %v", grown>>10, slopeFrom, growth)
	}
	w.powerCut()
	w.quiet(r)
	t.Logf("%d rounds, %d events, 0 violations, the kernel was late %d times", len(growth), len(w.events), w.late)
}

// quiet waits until all members agree and compares each with the oracle: lists, kernels, packets.
func (w *world) quiet(r *rand.Rand) {
	w.t.Helper()
	for _, n := range w.nodes {
		if n.revoked {
			w.renew(n)
		}
	}
	w.say(nil, "quiet")
	if err := rig.Within(quietLimit, w.diverged); err != nil {
		w.violate(nil, "", "the nodes do not agree: %v", err)
		return
	}
	w.say(nil, "digests are equal")
	var list map[netip.Prefix]entry
	var differ netip.Prefix
	err := rig.Within(quietLimit, func() (err error) {
		list, differ, err = w.sameLists()
		return err
	})
	if err != nil {
		w.violate(nil, differ, "%v%s", err, w.why(differ))
		return
	}
	for _, n := range w.nodes {
		w.compare(n)
	}
	w.probe(list, r)
	w.oracle.settle(list)
	for _, n := range w.nodes {
		n.flushed = false
	}
	w.say(nil, "all agree on %d bans", len(list))
}

// why returns each node's `meshban why` of a prefix.
func (w *world) why(p netip.Prefix) string {
	var text strings.Builder
	for _, n := range w.nodes {
		if p.IsValid() {
			r, err := n.meshban("why", words([]netip.Prefix{p})[0])
			fmt.Fprintf(&text, "\n%s: exit code %d %v\n%s%s", n.Name, r.Code, err, r.Stdout, r.Stderr)
		}
	}
	return text.String()
}

// sameLists returns the list of all nodes if it is the same everywhere, otherwise a prefix in which two lists differ.
func (w *world) sameLists() (map[netip.Prefix]entry, netip.Prefix, error) {
	var first map[netip.Prefix]entry
	for _, n := range w.nodes {
		list, err := n.list()
		if err != nil {
			return nil, netip.Prefix{}, fmt.Errorf("%s: %w", n.Name, err)
		}
		if first == nil {
			first = list
			continue
		}
		for _, pair := range [2][2]map[netip.Prefix]entry{{first, list}, {list, first}} {
			for p, e := range pair[0] {
				if other, has := pair[1][p]; !has || !same(e, other) {
					return nil, p, fmt.Errorf("the lists of %s and %s differ in %v: %+v, %+v", w.nodes[0].Name, n.Name, p, e, other)
				}
			}
		}
	}
	return first, netip.Prefix{}, nil
}

func same(a, b entry) bool {
	return a.Until.Equal(b.Until) && a.State == b.State && a.Ports == b.Ports && slices.Equal(a.OriginIDs, b.OriginIDs)
}

// compare checks a node's list against the oracle, and its kernel against the list.
func (w *world) compare(n *node) {
	w.t.Helper()
	from := time.Now()
	list, err := n.list()
	w.check(err)
	for _, f := range w.oracle.judge(list, from, time.Now()) {
		w.violate(n, f.prefix, "%s%s", f.what, w.why(f.prefix))
	}
	var wrong finding
	err = rig.Within(quietLimit, func() error {
		before, err := n.list()
		if err != nil {
			return err
		}
		from := time.Now()
		elements, err := n.kernel()
		if err != nil {
			return err
		}
		after, err := n.list()
		if err != nil {
			return err
		}
		for _, f := range w.oracle.outlived(elements, from) {
			w.violate(n, f.prefix, "in the kernel: %s", f.what)
		}
		wrong = kernelFault(before, after, elements)
		if wrong.what != "" {
			return fmt.Errorf("%v: %s", wrong.prefix, wrong.what)
		}
		return nil
	})
	if err != nil {
		w.violate(n, wrong.prefix, "list and kernel differ for %v", err)
	}
}

// kernelFault compares the kernel's elements with the lists read before and after them: what is in both lists must be
// in the kernel, and what is in neither must not. Without a fault, finding.what is "".
func kernelFault(before, after map[netip.Prefix]entry, elements map[netip.Prefix]bool) finding {
	for p, e := range after {
		_, both := before[p]
		if e.State != "enforced" {
			return finding{p, fmt.Sprintf("it is %s", e.State)}
		}
		if both && !elements[p] {
			return finding{p, "it is listed, and not in the kernel"}
		}
	}
	for p := range elements {
		_, was := before[p]
		if _, is := after[p]; !was && !is {
			return finding{p, "it is in the kernel, and not listed"}
		}
	}
	return finding{}
}

// probe sends packets from some addresses to each node, because a kernel may have an element without a rule that uses it.
func (w *world) probe(list map[netip.Prefix]entry, r *rand.Rand) {
	w.t.Helper()
	var wg sync.WaitGroup
	for i := range samples {
		p := w.pool[r.IntN(len(w.pool))]
		if i%2 == 0 && len(list) > 0 { // every second one is banned
			all := slices.SortedFunc(maps.Keys(list), netip.Prefix.Compare)
			p = all[r.IntN(len(all))]
		}
		_, banned := list[p]
		if banned && time.Until(list[p].Until) < quietLimit {
			continue // it may end meanwhile
		}
		for _, n := range w.nodes {
			wg.Go(func() { w.probeOne(p, n, banned) })
		}
	}
	wg.Wait()
}

func (w *world) probeOne(p netip.Prefix, n *node, banned bool) {
	err := rig.Within(quietLimit, func() error {
		got, err := w.dropped(p.Addr(), n)
		if err == nil && got != banned {
			err = fmt.Errorf("packets are dropped: %v, want %v", got, banned)
		}
		return err
	})
	if err != nil {
		w.violate(n, p, "%v", err)
	}
}

// leaks compares the agent that was never killed with its start.
func (w *world) leaks(before usage) {
	w.t.Helper()
	n := w.nodes[kept]
	err := rig.Within(quietLimit, func() error {
		now, err := n.usage()
		if err != nil {
			return err
		}
		if max(now.files-before.files, before.files-now.files) > leakBound || max(now.goroutines-before.goroutines, before.goroutines-now.goroutines) > leakBound {
			return fmt.Errorf("%+v, at the start %+v", now, before)
		}
		w.t.Logf("%s, never killed: %+v, at the start %+v", n.Name, now, before)
		return nil
	})
	if err != nil {
		w.violate(n, "", "files or goroutines: %v", err)
	}
}

// powerCut ends all agents at once and empties all kernels, so that bans come back from the disks alone.
func (w *world) powerCut() {
	w.t.Helper()
	w.say(nil, "power cut")
	for _, n := range w.nodes {
		w.check(n.agent.Kill(false))
		_, err := n.Shell("iptables -w -t raw -F; ip6tables -w -t raw -F; ipset destroy; nft flush ruleset")
		w.check(err)
	}
	for _, n := range w.nodes {
		w.check(n.started())
	}
}

// tails logs the agents' last lines if the test failed.
func (w *world) tails() {
	if !w.t.Failed() {
		return
	}
	for _, n := range w.nodes {
		w.t.Logf("--- %s (%s)\n%s", n.Name, n.id, n.agent.Tail(40))
	}
}

// sample is an agent's memory at a time, in bytes.
type sample struct {
	at  time.Duration
	rss int64
}

// slope returns by how many bytes memory grows in slopeFrom, by least squares over the samples after the first third.
func slope(all []sample) int64 {
	all = all[len(all)/3:]
	var n, x, y, xx, xy float64
	for _, s := range all {
		at, rss := s.at.Seconds(), float64(s.rss)
		n, x, y, xx, xy = n+1, x+at, y+rss, xx+at*at, xy+at*rss
	}
	if d := n*xx - x*x; d > 0 {
		return int64((n*xy - x*y) / d * slopeFrom.Seconds())
	}
	return 0
}
