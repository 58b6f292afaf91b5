//go:build long

package mesh

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/spread"
)

// The time that a node needs for a frame, as measured on two cores, and the one-way delay of a LAN.
const (
	modelSign, modelVerify, modelSend = 27 * time.Microsecond, 62 * time.Microsecond, 18 * time.Microsecond
	modelDelay                        = 100 * time.Microsecond
	modelRetry                        = 200 * time.Millisecond // until TCP retransmits: Linux's TCP_RTO_MIN
)

// modelRun models one ban in a large fleet of cores. Pushes, pings and syncs are real; sockets and signatures only take
// time.
type modelRun struct {
	rng    *rand.Rand
	cores  []*replica.Core
	byID   map[frame.ID]int
	dead   []bool
	busy   []time.Duration         // when a node's sender is free again
	got    []time.Duration         // when it had the frame; -1: not yet
	places [spread.TreeCount][]int // a node's place in a tree
	order  [spread.TreeCount][]int // the node at a place
	think  time.Duration           // measured time of one search for children
	loss   float64
	at     time.Duration
	queue  simQueue
	seq    uint64
	copies int
	bytes  int
	frame  frame.Frame
	all    []spread.Target // every node, dead ones too: no failure has been detected yet
}

func (m *modelRun) now() time.Time { return simEpoch.Add(m.at) }

func (m *modelRun) after(d time.Duration, do func()) {
	m.seq++
	heap.Push(&m.queue, simEvent{at: m.at + d, order: m.seq, do: do})
}

// send delivers a packet after the sender's time and the network's delay, unless it is lost.
func (m *modelRun) send(from, to, size int, receive func()) {
	m.busy[from] = max(m.busy[from], m.at) + modelSend
	m.bytes += size
	if m.rng.Float64() >= m.loss && !m.dead[to] {
		m.after(m.busy[from]-m.at+modelDelay, receive)
	}
}

// stream delivers a message in the same time, or modelRetry later if a segment is lost.
func (m *modelRun) stream(from, to, size int, receive func()) {
	m.busy[from] = max(m.busy[from], m.at) + modelSend
	m.bytes += size
	delay := modelDelay
	if m.rng.Float64() < m.loss {
		delay += modelRetry
	}
	if !m.dead[to] {
		m.after(m.busy[from]-m.at+delay, receive)
	}
}

// push passes the frame on to a node's children, or from the origin to all nodes in a small fleet.
func (m *modelRun) push(from int) {
	if m.direct() {
		for to := 1; to < len(m.cores); to++ {
			m.pushTo(from, to)
		}
		return
	}
	var done []int
	for i := range spread.TreeCount {
		for _, to := range m.children(i, from) {
			if !slices.Contains(done, to) {
				done = append(done, to)
				m.pushTo(from, to)
			}
		}
	}
}

func (m *modelRun) direct() bool { return len(m.cores)-1 <= spread.MaxDirect }

func (m *modelRun) way() replica.Via {
	if m.direct() {
		return replica.ViaPush
	}
	return replica.ViaTree
}

func (m *modelRun) children(tree, node int) []int {
	first := m.places[tree][node]*spread.TreeFan + 1
	return m.order[tree][min(first, len(m.cores)):min(first+spread.TreeFan, len(m.cores))]
}

func (m *modelRun) pushTo(from, to int) {
	m.send(from, to, len(m.frame.Raw)+3, func() {
		m.copies++
		if m.cores[to].Holds(m.frame.Ref()) {
			return // known before its signature is checked
		}
		m.after(modelVerify, func() { m.take(to, m.way()) })
	})
}

func (m *modelRun) take(n int, by replica.Via) int {
	out := m.cores[n].Step(m.now(), replica.FramesEvent{Via: by, Frames: []frame.Frame{m.frame}})
	if len(out.Admitted) > 0 {
		m.got[n] = m.at
	}
	if len(out.Relay) > 0 {
		m.after(m.think, func() { m.push(n) })
	}
	if len(out.Pass) > 0 && m.direct() && len(m.cores)-1 > spread.PassAbove {
		m.pushTo(n, m.byID[spread.Successor(m.frame.Hash(), m.frame.Origin, m.cores[n].Last().Origin, m.all)])
	}
	m.carry(n, out)
	return len(out.Admitted)
}

// know makes a core know a peer, as if it had for long.
func (m *modelRun) know(n, other int) {
	m.cores[n].Meet(m.now(), m.cores[other].Last().Origin)
}

// carry sends a core's sync messages and wakes the core when it is due.
func (m *modelRun) carry(n int, out replica.Actions) {
	for _, o := range out.Send {
		to := m.byID[o.To]
		m.stream(n, to, len(o.Msg), func() {
			msg, err := replica.DecodeMessage(o.Msg)
			if err != nil {
				return
			}
			m.know(to, n)
			fresh := 0
			for range msg.Frames {
				m.copies++
				fresh += m.take(to, replica.ViaSync)
			}
			for part := range msg.Split {
				m.carry(to, m.cores[to].Step(m.now(), replica.MessageEvent{Msg: part, Fresh: fresh}))
			}
		})
	}
	if at, ok := m.cores[n].Next(); ok {
		m.after(max(at.Sub(m.now()), leastWake), func() {
			if at, ok := m.cores[n].Next(); ok && !at.After(m.now()) {
				m.carry(n, m.cores[n].Step(m.now(), replica.TickEvent{}))
			}
		})
	}
}

// answer is a node's signed answer to a ping.
func (m *modelRun) answer(n int) replica.RootEvent {
	root := m.cores[n].Digest()
	return replica.RootEvent{
		Peer: m.cores[n].Last().Origin, Root: [replica.RootLen]byte(root[:]), Clock: replica.ClockOf(m.now()),
		Signed: func(r [32]byte) bool { return r == root },
	}
}

// ping compares the digests of two nodes, every replica.ProbeInterval.
func (m *modelRun) ping(n int) {
	m.after(replica.ProbeInterval, func() { m.ping(n) })
	if other := m.rng.IntN(len(m.cores)); other != n && !m.dead[other] && m.rng.Float64() >= m.loss {
		m.know(n, other)
		m.carry(n, m.cores[n].Step(m.now(), m.answer(other)))
	}
}

// fastest is the shortest measured search for children, by number of nodes.
var fastest = make(map[int]time.Duration)

func newModel(tb testing.TB, nodes int, seed uint64, loss, dead float64) *modelRun {
	m := &modelRun{rng: rand.New(rand.NewPCG(seed, 7)), byID: make(map[frame.ID]int), loss: loss}
	m.frame = testFrame(tb, simKeys()[0], 1, 1+seed, simEpoch, time.Hour, strings.Repeat("b", 55))
	ids := make([]frame.ID, nodes)
	for i := range nodes {
		id := simKeys()[0].ID()
		if i > 0 {
			for j := range id {
				id[j] = byte(m.rng.Uint32())
			}
		}
		ids[i], m.byID[id] = id, i
		m.cores = append(m.cores, replica.New(id, frame.ID{}, 1, rand.New(rand.NewPCG(seed, uint64(i)))))
		m.dead = append(m.dead, i > 0 && m.rng.Float64() < dead)
		m.all = append(m.all, spread.Target{ID: id})
		m.got = append(m.got, -1)
		m.busy = append(m.busy, 0)
	}
	// Build the tree of treeChildren once for all nodes: each call of treeChildren sorts the members.
	hash := m.frame.Hash()
	slices.SortFunc(ids, func(a, b frame.ID) int { return slices.Compare(a[:], b[:]) })
	m.layOut(hash)
	const looks = 25
	// Use the fastest search of all models of that size, because others may use the processor. Collecting ten thousand
	// cores meanwhile, or touching memory for the first time, would take seven times as long.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	m.think = cmp.Or(fastest[nodes], time.Hour)
	defer func() { fastest[nodes] = m.think }()
	for i := range looks {
		if i%5 == 0 {
			runtime.GC()
		}
		n := m.order[0][i*(nodes-1)/(2*spread.TreeFan*looks)]
		self := m.cores[n].Last().Origin
		start := time.Now()
		children := spread.Children(hash, m.frame.Origin, self, ids)
		m.think = min(m.think, time.Since(start))
		for j, id := range children {
			if want := m.children(0, n); j < len(want) && want[j] != m.byID[id] {
				tb.Fatalf("the model's tree is not that of treeChildren")
			}
		}
	}
	return m
}

func (m *modelRun) layOut(hash [32]byte) {
	for tree := range spread.TreeCount {
		a, b := binary.LittleEndian.Uint64(hash[16*tree:]), binary.LittleEndian.Uint64(hash[16*tree+8:])
		order := make([]int, len(m.cores))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order[1:], func(x, y int) int {
			return cmp.Compare(spread.Rank(a, b, m.cores[x].Last().Origin), spread.Rank(a, b, m.cores[y].Last().Origin))
		})
		m.order[tree], m.places[tree] = order, make([]int, len(order))
		for place, n := range order {
			m.places[tree][n] = place
		}
	}
}

// run publishes at the first node and advances the clock by d.
func (m *modelRun) run(d time.Duration) {
	for i := range m.cores {
		for range 3 {
			if other := m.rng.IntN(len(m.cores)); other != i {
				m.know(i, other)
			}
		}
		if !m.dead[i] {
			m.carry(i, m.cores[i].Step(m.now(), replica.TickEvent{}))
			m.after(time.Duration(m.rng.Int64N(int64(replica.ProbeInterval))), func() { m.ping(i) })
		}
	}
	m.after(modelSign, func() {
		m.cores[0].Step(m.now(), replica.FramesEvent{Via: replica.ViaOwn, Frames: []frame.Frame{m.frame}})
		m.got[0] = m.at
		if m.direct() {
			m.push(0)
		} else {
			m.after(m.think, func() { m.push(0) })
		}
	})
	for len(m.queue) > 0 && m.queue[0].at <= d {
		e := heap.Pop(&m.queue).(simEvent)
		m.at = e.at
		e.do()
	}
}

// within returns the fraction of the live nodes that had the frame after d.
func (m *modelRun) within(d time.Duration) float64 {
	had, all := 0, 0
	for i, at := range m.got {
		if !m.dead[i] {
			all++
			if at >= 0 && at <= d {
				had++
			}
		}
	}
	return float64(had) / float64(all)
}

// The model prints how bans reach a whole fleet, each ban in a fleet of its own: bash test/run model.
func TestModel(t *testing.T) {
	table := "\n| nodes | loss, dead | last node | 99.9 % | within 15 ms | copies per node | bytes per ban and node |\n|---|---|---|---|---|---|---|\n"
	for _, c := range []struct {
		nodes int
		wrong float64 // fraction of packets lost, and of nodes dead
		most  time.Duration
	}{
		{100, 0, 2 * time.Millisecond},
		{1000, 0, 4 * time.Millisecond},
		{10000, 0, 10 * time.Millisecond},
		{100, 0.01, modelRepair},
		{1000, 0.01, modelRepair},
		{10000, 0.01, modelRepair},
	} {
		bans := max(10, 30_000/c.nodes) // enough to tell 99.9 % from less
		var got []time.Duration         // of the live nodes; -1: not yet
		var near, copies, bytes float64
		for seed := range bans {
			m := newModel(t, c.nodes, uint64(seed), c.wrong, c.wrong)
			m.run(c.most)
			for i, at := range m.got {
				if !m.dead[i] {
					got = append(got, at)
				}
			}
			near += m.within(modelNear) / float64(bans)
			copies += float64(m.copies) / float64(c.nodes) / float64(bans)
			bytes += float64(m.bytes) / float64(c.nodes) / float64(bans)
		}
		slices.Sort(got)
		last := got[len(got)-1]
		table += fmt.Sprintf("| %d | %g %% | %v | %v | %.2f %% | %.2f | %.0f |\n", c.nodes, 100*c.wrong, last.Round(10*time.Microsecond),
			got[len(got)*999/1000].Round(10*time.Microsecond), 100*near, copies, bytes)
		if near < 0.999 {
			t.Errorf("%d nodes, %g %% lost and dead: after %v %.4f have it, want 0.999", c.nodes, 100*c.wrong, modelNear, near)
		}
		if got[0] < 0 {
			t.Errorf("%d nodes, %g %% lost and dead: not all have it after %v", c.nodes, 100*c.wrong, c.most)
		}
	}
	t.Log(table)
}

const (
	// modelNear is when nearly all nodes have a ban although packets are lost and nodes dead; modelRepair is when the rest
	// have it: digests are compared every 2 s, and if the network loses a comparison, the next one repairs the difference.
	modelNear, modelRepair = 15 * time.Millisecond, 3 * time.Second
)
