//go:build linux && netns

package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// lastEvents is how many events are printed with a violation.
	lastEvents = 25
	// maxViolations is after how many violations a run ends.
	maxViolations = 10
)

// world is the mesh, its network and what is known about them.
type world struct {
	*rig.Fleet
	t      *testing.T
	seed   uint64
	began  time.Time
	nodes  []*node
	net    *network
	oracle *oracle
	pool   []netip.Prefix // what workers ban; in a round, each prefix belongs to one of them
	raced  []netip.Prefix // what all workers ban

	shutOut *node // revoked in this round; set by the authority's worker

	mu         sync.Mutex // guards what follows
	events     []string
	violations int
	late       int // commands that the kernel had not carried out in time
}

// say records an event.
func (w *world) say(n *node, format string, args ...any) {
	where := "all"
	if n != nil {
		where = n.Name
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf("%8.3f %s: %s", time.Since(w.began).Seconds(), where, fmt.Sprintf(format, args...)))
}

// violate reports a violation with the last events and those that name the element.
func (w *world) violate(n *node, element any, format string, args ...any) {
	w.t.Helper()
	w.say(n, "VIOLATION: %v: %s", element, fmt.Sprintf(format, args...))
	name := strings.TrimSuffix(strings.TrimSuffix(fmt.Sprint(element), "/32"), "/128")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations++
	text := &strings.Builder{}
	fmt.Fprintf(text, "seed %d: %s", w.seed, w.events[len(w.events)-1])
	for i, e := range w.events {
		if i >= len(w.events)-lastEvents || name != "" && strings.Contains(e, name) {
			text.WriteString("\n\t" + e)
		}
	}
	w.t.Error(text)
}

// over reports whether the run has seen enough.
func (w *world) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.violations >= maxViolations
}

// newWorld sets the mesh up as a user does, on a network that this process simulates.
func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	f := rig.New(t, rig.Options{Nodes: nodes, Binds: map[string]string{"/usr/local/bin/meshban": program}})
	w := &world{Fleet: f, t: t, seed: seed, began: time.Now(), oracle: newOracle()}
	var taps []*os.File
	for i, n := range f.Nodes {
		n := &node{Node: n, index: i, addr: n.Mesh}
		if i == nft {
			n.args = []string{"--firewall", "nftables"}
		}
		w.nodes = append(w.nodes, n)
		w.check(n.prepare())
		tap, err := n.plug()
		w.check(err)
		taps = append(taps, tap)
	}
	w.net = newNetwork(taps, seed)
	t.Cleanup(func() { w.check(w.net.close()) })
	w.addresses()
	first := w.nodes[authority]
	w.command(first, "init", "--name", first.Name)
	w.up(first)
	for _, n := range w.nodes[1:] {
		w.join(n)
	}
	for _, n := range w.nodes {
		w.check(n.face())
	}
	return w
}

// check ends the test if the rig failed.
func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// command runs the program, which must succeed.
func (w *world) command(n *node, args ...string) string {
	w.t.Helper()
	r, err := n.meshban(args...)
	if err == nil && r.Code != exitDone {
		err = fmt.Errorf("%s: meshban %q: exit code %d: %s", n.Name, args, r.Code, r.Stderr)
	}
	w.check(err)
	return r.Stdout
}

func (w *world) up(n *node) {
	w.t.Helper()
	_, err := n.AppendFile(stateDir+"/meshban.yaml", "\nmetrics: "+metricsAt+"\nfirewall: {check: 5s}\n")
	w.check(err)
	w.check(n.started())
	s, err := n.status()
	w.check(err)
	n.id = s.ID
	w.say(n, "joined as %s", n.id)
}

// join makes a fresh machine a member.
func (w *world) join(n *node) {
	w.t.Helper()
	token := strings.TrimSpace(w.command(w.nodes[authority], "invite"))
	w.command(n, "join", token, "--name", n.Name)
	w.up(n)
}

// addresses fills pool and raced with prefixes of the attacker. No two are adjacent, so the kernel keeps each unmerged.
func (w *world) addresses() {
	add := func(list *[]netip.Prefix, format string, args ...any) {
		p, err := prefix(fmt.Sprintf(format, args...))
		w.check(err)
		*list = append(*list, p)
	}
	for i := range 150 {
		add(&w.pool, "198.18.%d.%d", i/50, 1+i%50*3)
	}
	for i := range 8 {
		add(&w.pool, "203.0.113.%d/28", i*32)
		add(&w.pool, "2001:db8:1:%x::/64", i*2)
	}
	for i := range 34 {
		add(&w.pool, "2001:db8:2::%x", 1+i)
	}
	for i := range 20 {
		add(&w.raced, "192.0.2.%d", 1+i*3)
	}
}

// shares deals the pool out: in a round, each prefix belongs to one node.
func (w *world) shares(r *rand.Rand) [nodes][]netip.Prefix {
	var shares [nodes][]netip.Prefix
	for i, at := range r.Perm(len(w.pool)) {
		shares[i%nodes] = append(shares[i%nodes], w.pool[at])
	}
	return shares
}

// play carries out a plan and returns when all of it is over.
func (w *world) play(p plan, r *rand.Rand) {
	w.say(nil, "round of %v about %q", p.length.Round(time.Millisecond), p.macro)
	start := time.Now()
	var wg sync.WaitGroup
	for i, share := range w.shares(r) {
		wg.Go(func() {
			k := &worker{world: w, node: w.nodes[i], share: share}
			for _, s := range p.steps[i] {
				<-time.After(time.Until(start.Add(s.at)))
				if w.over() || time.Since(start) > p.length { // a slow machine leaves out steps that come too late
					return
				}
				k.do(s)
			}
		})
	}
	wg.Go(func() { w.weather(p.episodes, start) })
	watched := make(chan struct{})
	wg.Go(func() { w.watch(watched) })
	<-time.After(time.Until(start.Add(p.length)))
	close(watched)
	wg.Wait()
	if w.shutOut != nil {
		w.shutOut.revoked, w.shutOut = true, nil
	}
}

// weather turns the faults of the network on and off.
func (w *world) weather(episodes []episode, start time.Time) {
	var turns []time.Duration
	for _, e := range episodes {
		turns = append(turns, e.from, e.to)
	}
	slices.Sort(turns)
	for _, at := range turns {
		<-time.After(time.Until(start.Add(at)))
		var on []episode
		var names []string
		for _, e := range episodes {
			if e.from <= at && at < e.to {
				on, names = append(on, e), append(names, e.kind)
			}
		}
		w.say(nil, "network: %q", names)
		w.net.set(on)
	}
	w.net.set(nil)
}

// watch looks for elements in any kernel that outlast their end, until stop is closed.
func (w *world) watch(stop <-chan struct{}) {
	const every = 3 * time.Second
	for {
		select {
		case <-stop:
			return
		case <-time.After(every):
		}
		for _, n := range w.nodes {
			from := time.Now()
			elements, err := n.kernel()
			if err != nil { // sets may disappear while they are read
				w.say(n, "read the kernel: %v", err)
				continue
			}
			for _, f := range w.oracle.outlived(elements, from) {
				w.violate(n, f.prefix, "in the kernel: %s", f.what)
			}
		}
	}
}

// members are the nodes that are not revoked.
func (w *world) members() []*node {
	return slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return n.revoked })
}

// renew gives a revoked machine a new identity.
func (w *world) renew(n *node) {
	w.t.Helper()
	w.check(n.agent.Kill(false))
	_, err := n.Shell("rm -rf " + stateDir + "/*")
	w.check(err)
	n.revoked = false
	w.join(n)
}

// diverged returns nil if all members have the same digest.
func (w *world) diverged() error {
	digests := map[string][]string{}
	for _, n := range w.members() {
		s, err := n.status()
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		digests[s.Mesh.Digest] = append(digests[s.Mesh.Digest], n.Name)
	}
	if len(digests) != 1 {
		return fmt.Errorf("digests differ: %v", digests)
	}
	return nil
}
