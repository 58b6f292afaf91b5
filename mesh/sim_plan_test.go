package mesh

import (
	"math/rand/v2"
	"time"

	"github.com/meshban/meshban/mesh/internal/replica"
)

// The kinds of fault.
const (
	faultLoss = iota
	faultDup
	faultReorder
	faultDelay
	faultPartition
	faultOneWay
	faultCrash
	faultCrashWrite
	faultTorn
	faultLostWrite
	faultRollback
	faultClock
	faultJoin
	faultLeave
	faultReplace
	faultForged
	faultStale
	faultHarm
	faultEquivocation
	faultLie
	faultRevocation
	faultRenewal
	faultKinds
)

var faultNames = [faultKinds]string{
	"packet lost", "packet sent twice", "packet reordered", "packet delayed for minutes", "packet held by a partition",
	"packet held one way", "crash", "crash at a write", "torn store", "lost write", "rolled back snapshot", "clock step",
	"join", "leave", "replaced node", "forged frame", "stale or early frame", "harmful frame", "equivocation", "lie in a sync",
	"revocation", "renewed certificate",
}

// simPlan is what a seed does to its fleet. Zero means never.
type simPlan struct {
	nodes  int
	trees  bool // push along trees
	trust  bool // the mesh has an authority
	floor  bool // the wall clock is a floor for epochs, as in the daemon
	probe  time.Duration
	length time.Duration // how long the troubles last
	says   int           // how often somebody says something

	loss, dup, reorder, delay                        float64 // per packet
	crashWrite                                       float64 // per write boundary
	torn, lostWrite, rollback                        float64 // per crash
	partitions, crashes, clock, churn, attacks, lies int     // totals
	revocations, renewals                            int
}

// trustedSeeds is the N of "one seed in N has an authority".
const trustedSeeds = 5

func newSimPlan(seed uint64, rng *rand.Rand) simPlan {
	some := func(p, most float64) float64 { // up to most, in a fraction p of all seeds
		if rng.Float64() < p {
			return most * rng.Float64()
		}
		return 0
	}
	times := func(p float64, most int) int {
		if rng.Float64() < p {
			return 1 + rng.IntN(most)
		}
		return 0
	}
	p := simPlan{
		trust: seed%trustedSeeds == 2,
		nodes: 3 + rng.IntN(5), trees: rng.IntN(4) == 0, floor: rng.IntN(3) > 0, probe: replica.ProbeInterval,
		length: time.Duration(30+rng.IntN(240)) * time.Second, says: 6 + rng.IntN(24),
	}
	if rng.IntN(8) == 0 {
		p.nodes = 8 + rng.IntN(maxSimNodes-7)
	}
	if p.trust {
		p.revocations, p.renewals = times(0.9, 3), times(0.5, 4)
	}
	if rng.IntN(10) == 0 {
		return p // nothing goes wrong
	}
	p.loss, p.dup = some(0.6, 0.5), some(0.4, 0.5)
	p.reorder, p.delay = some(0.5, 0.5), some(0.3, 0.1)
	p.crashWrite = some(0.3, 0.05)
	p.torn, p.lostWrite, p.rollback = some(0.4, 0.5), some(0.4, 0.8), some(0.4, 0.8)
	p.partitions, p.crashes = times(0.5, 5), times(0.5, 6)
	p.clock, p.churn = times(0.3, 4), times(0.4, 5)
	p.attacks, p.lies = times(0.4, 8), times(0.3, 20)
	return p
}

// begin starts the fleet and schedules its troubles.
func (w *simWorld) begin() {
	if w.plan.trust {
		w.found()
		insider := w.certify(attacker())
		w.after(w.between(time.Second, 10*time.Second), "certify", func() { w.decree(insider.Frame) })
	}
	keys := simKeys()
	for i := range w.plan.nodes {
		n := w.addNode(keys[i])
		w.after(w.between(0, time.Second), "start", func() { n.startOnce() })
	}
	many := func(times int, what string, do func()) {
		for range times {
			w.after(w.between(2*time.Second, w.plan.length), what, do)
		}
	}
	many(w.plan.says, "say", w.say)
	many(w.plan.partitions, "partition", w.partition)
	many(w.plan.crashes, "crash", w.crash)
	many(w.plan.clock, "clock step", w.stepClock)
	many(w.plan.churn, "churn", w.churn)
	many(w.plan.attacks, "attack", w.attack)
	many(w.plan.lies, "lie", w.lie)
	many(w.plan.revocations, "revoke", w.revoke)
	many(w.plan.renewals, "renew", w.renew)
	many(3, "snapshot", func() {
		n := w.nodes[w.rng.IntN(len(w.nodes))]
		n.disk.copied = n.disk.state.clone()
	})
}

func (n *simNode) startOnce() {
	if n.mesh == nil && !n.gone {
		n.start()
	}
}

func (n *simNode) restartLater() {
	if !n.gone {
		n.w.after(n.w.between(100*time.Millisecond, 40*time.Second), "restart", n.startOnce)
	}
}

// up picks a running node, or returns nil.
func (w *simWorld) up() *simNode {
	first := w.rng.IntN(len(w.nodes))
	for i := range w.nodes {
		if n := w.nodes[(first+i)%len(w.nodes)]; n.mesh != nil {
			return n
		}
	}
	return nil
}

func (w *simWorld) say() {
	if n := w.up(); n != nil {
		n.expire()
		n.bans.Say(n.now(), w.rng, n.publish)
		n.process()
	}
}

func (w *simWorld) crash() {
	if n := w.up(); n != nil && !w.calm {
		w.faults[faultCrash]++
		n.stop()
		n.restartLater()
	}
}

func (w *simWorld) stepClock() {
	if n := w.up(); n != nil && !w.calm {
		w.faults[faultClock]++
		n.skew = w.between(-time.Hour, time.Hour)
		if w.rng.IntN(3) == 0 {
			n.skew = 0
		}
	}
}

// partition cuts some links, in one direction or both, for a while.
func (w *simWorld) partition() {
	if w.calm {
		return
	}
	var cut [][2]int
	oneWay := w.rng.IntN(2) == 0
	side := w.rng.Uint64()
	partial := w.rng.IntN(3) == 0
	for i := range w.nodes {
		for j := range w.nodes {
			if side>>i&1 == 0 && side>>j&1 == 1 && !(partial && w.rng.IntN(2) == 0) {
				cut = append(cut, [2]int{i, j})
				if !oneWay {
					cut = append(cut, [2]int{j, i})
				}
			}
		}
	}
	for _, link := range cut {
		w.links[link] = true
	}
	w.after(w.between(3*time.Second, 2*time.Minute), "partition ends", func() {
		for _, link := range cut {
			delete(w.links, link)
		}
	})
}

// churn makes a node join, leave for good, or be replaced by one that knows nothing.
func (w *simWorld) churn() {
	if w.calm {
		return
	}
	kind := w.rng.IntN(3)
	if kind > 0 {
		if n := w.up(); n != nil && w.running() > 2 {
			w.faults[faultLeave]++
			n.gone = true
			n.stop()
		} else {
			return
		}
	}
	if kind != 1 && len(w.nodes) < 3*maxSimNodes {
		w.faults[faultJoin]++
		if kind == 2 {
			w.faults[faultReplace]++
		}
		w.addNode(simKeys()[len(w.nodes)]).start()
	}
}

func (w *simWorld) running() (up int) {
	for _, n := range w.nodes {
		if n.mesh != nil {
			up++
		}
	}
	return up
}
