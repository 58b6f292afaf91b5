package mesh

import (
	"container/heap"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"sync"
	"time"
	"unsafe"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// simWorld is a fleet on a simulated network, with simulated clocks and disks. Each node is a whole Mesh except for sockets
// and goroutines: the simulation calls memberlist's callbacks and empties the Mesh's queues, one event at a time. All
// randomness comes from the seed, so a seed has one history.
type simWorld struct {
	seed  uint64
	rng   *rand.Rand
	plan  simPlan
	at    time.Duration // since simEpoch
	queue simQueue
	order uint64 // breaks ties among simultaneous events
	nodes []*simNode
	links map[[2]int]bool // blocked, by sender and receiver
	calm  bool            // healing: no new faults

	secrets pki.Secrets
	trust   *simTrust // nil: everybody is trusted

	faults    [faultKinds]int
	published map[frame.Ref][]string // every frame that a key signed, by its name
	copies    uint64                 // frames that arrived
	wanted    uint64                 // frames times nodes that could have them
	lastIssue time.Time
	history   hash.Hash // of every event, packet and dropped frame
	trace     io.Writer
	failure   error
}

// simEpoch is when the wall clocks start.
var simEpoch = time.UnixMilli(1_800_000_000_000).UTC()

// simKeys are identities that are the same in every run.
var simKeys = sync.OnceValue(func() []pki.Identity {
	ids := make([]pki.Identity, 96)
	for i := range ids {
		seed := sha256.Sum256([]byte(fmt.Sprint("simulated node ", i)))
		ids[i] = pki.IdentityOf(ed25519.NewKeyFromSeed(seed[:]))
	}
	return ids
})

// maxSimNodes leaves identities for nodes that replace others, and the last one for the attacker.
const maxSimNodes = 20

var simSecrets = pki.Secrets{MeshID: [16]byte{1, 2, 3}, GossipKey: [32]byte{4}}

// simTime returns a time like time.Now's: a wall clock that can be stepped, and a monotonic one that cannot. It uses the
// layout that package time documents in its source (hasMonotonic); TestSimTime checks it.
func simTime(wall time.Time, mono time.Duration) time.Time {
	const since1885 = 31045 * 24 * 60 * 60 // seconds from 1885 to 1970
	t := struct {
		wall uint64
		ext  int64
		loc  *time.Location
	}{1<<63 | uint64(wall.Unix()+since1885)<<30 | uint64(wall.Nanosecond()), int64(mono) + 1, nil}
	return *(*time.Time)(unsafe.Pointer(&t))
}

type simEvent struct {
	at    time.Duration
	order uint64
	node  int // -1: of the world
	run   int // of the node when it was planned; -1: any
	what  string
	do    func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = simEvent{}
	*q = old[:len(old)-1]
	return e
}

func newSimWorld(seed uint64, trace io.Writer) *simWorld {
	w := &simWorld{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 0x5eed)), links: make(map[[2]int]bool),
		published: make(map[frame.Ref][]string), history: sha256.New(), trace: trace, secrets: simSecrets,
	}
	w.plan = newSimPlan(seed, w.rng)
	w.note(-1, "plan", w.plan)
	return w
}

// after schedules an event of the world.
func (w *simWorld) after(d time.Duration, what string, do func()) {
	w.order++
	heap.Push(&w.queue, simEvent{w.at + d, w.order, -1, -1, what, do})
}

// after schedules an event that happens only if the node still runs and has not restarted.
func (n *simNode) after(d time.Duration, what string, do func()) {
	n.w.order++
	heap.Push(&n.w.queue, simEvent{n.w.at + d, n.w.order, n.slot, n.run, what, do})
}

// run advances the simulation by d.
func (w *simWorld) run(d time.Duration) {
	end := w.at + d
	for w.failure == nil && len(w.queue) > 0 && w.queue[0].at <= end {
		e := heap.Pop(&w.queue).(simEvent)
		w.at = e.at
		if e.node >= 0 && (w.nodes[e.node].run != e.run || w.nodes[e.node].mesh == nil) {
			continue
		}
		w.note(e.node, e.what, nil)
		e.do()
		if e.node >= 0 {
			w.nodes[e.node].process()
		}
	}
	w.at = max(w.at, end)
}

// note writes one line of history.
func (w *simWorld) note(node int, what string, detail any) {
	var b [24]byte
	binary.BigEndian.PutUint64(b[:], uint64(w.at))
	binary.BigEndian.PutUint64(b[8:], uint64(node))
	if node >= 0 && node < len(w.nodes) && w.nodes[node].mesh != nil {
		root := w.nodes[node].mesh.Digest()
		copy(b[16:], root[:8])
	}
	w.history.Write(b[:])
	io.WriteString(w.history, what)
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%12v n%-2d %x %s", w.at, node, b[16:20], what)
		if detail != nil {
			fmt.Fprintf(w.trace, " %+v", detail)
		}
		fmt.Fprintln(w.trace)
	}
}

// fail ends the history. Only the first failure counts.
func (w *simWorld) fail(node int, format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("after %v, node %d: %s", w.at, node, fmt.Sprintf(format, args...))
		w.note(node, "FAILED", w.failure)
	}
}

// chance reports whether something of this probability happens.
func (w *simWorld) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// between returns a random duration from a to b.
func (w *simWorld) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)+1))
}

// slotOf returns the node that a packet is for.
func (w *simWorld) slotOf(to *memberlist.Node) (*simNode, bool) {
	for _, n := range w.nodes {
		if n.node.Name == to.Name {
			return n, true
		}
	}
	return nil, false
}

// open reports whether packets pass from one node to another, and counts those that a partition holds back.
func (w *simWorld) open(from, to int) bool {
	if !w.links[[2]int{from, to}] {
		return true
	}
	if w.links[[2]int{to, from}] {
		w.faults[faultPartition]++
	} else {
		w.faults[faultOneWay]++
	}
	return false
}

// delay returns how long a packet is in flight.
func (w *simWorld) delay() time.Duration {
	switch {
	case w.calm:
	case w.chance(w.plan.delay):
		w.faults[faultDelay]++
		return w.between(time.Second, 3*time.Minute)
	case w.chance(w.plan.reorder):
		w.faults[faultReorder]++
		return w.between(5*time.Millisecond, 800*time.Millisecond)
	}
	return w.between(50*time.Microsecond, 2*time.Millisecond)
}

// send is the network: it carries a packet, or the only message of a stream, to another node or loses it.
func (n *simNode) send(to *memberlist.Node, b []byte, stream bool) bool {
	w := n.w
	if n.dying {
		return false
	}
	other, ok := w.slotOf(to)
	if !ok || !w.open(n.slot, other.slot) || stream && (other.mesh == nil || !w.open(other.slot, n.slot)) {
		return false
	}
	n.checkSent(b)
	n.overhear(other, b)
	w.history.Write(b)
	loss, copies := w.plan.loss, 1
	if stream {
		loss /= 4 // TCP retransmits; what is lost here is what the receiver never read
	}
	switch {
	case w.calm:
	case w.chance(loss):
		w.faults[faultLoss]++
		return true
	case !stream && w.chance(w.plan.dup):
		w.faults[faultDup]++
		copies = 2
	}
	b = append([]byte(nil), b...)
	for range copies {
		w.after(w.delay(), "packet", func() { other.receive(b) })
	}
	return true
}
