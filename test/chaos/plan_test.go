//go:build linux && netns

package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Actions of a worker in a step.
const (
	doBan     = "ban"
	doUnban   = "unban"
	doRace    = "race"   // ban or unban what others ban or unban meanwhile
	doImport  = "import" // a list
	doKill    = "kill"   // kill -9 right after an acknowledged ban, then start again
	doRestart = "restart"
	doFreeze  = "freeze" // SIGSTOP, SIGCONT
	doFlush   = "flush"  // another program empties sets or rules
	doFull    = "full"   // the disk is full for a while
	doLocked  = "locked" // the disk is read-only when the agent starts
	doMove    = "move"   // the node gets another address
	doRotate  = "rotate" // of the mesh key
	doRevoke  = "revoke" // of the victim
	doCrash   = "crash"  // kill -9 alone, then start again
)

// step is one thing that a worker does.
type step struct {
	at    time.Duration // since the start of the round; later if the step before takes longer
	do    string
	count int           // addresses
	long  bool          // a ban outlives the round
	pause time.Duration // how long an agent is down or a disk is full
	pick  uint64        // random bits for choices that remain
}

// episode is a fault of the network for a while.
type episode struct {
	from, to time.Duration
	kind     string
	fault    fault
	on       func(from, to int) bool
}

// plan is all that happens in a round.
type plan struct {
	length   time.Duration
	steps    [][]step // of each node
	episodes []episode
	macro    string
}

const (
	// nodes is the size of the mesh. The first has the authority's key, the second is never killed, the third uses nftables,
	// and the last is sometimes revoked and joins again.
	nodes                         = 5
	authority, kept, nft, victim  = 0, 1, 2, nodes - 1
	shortestRound, longestRound   = 12 * time.Second, 25 * time.Second
	shortestPause, longestPause   = 300 * time.Millisecond, 2 * time.Second
	shortestOutage, longestOutage = 200 * time.Millisecond, 6 * time.Second
)

// chances lists the actions of workers; in is the weight.
var chances = []struct {
	do string
	in int
	on func(node int) bool // nil = on every node
}{
	{doBan, 42, nil}, {doUnban, 18, nil}, {doRace, 8, nil}, {doImport, 3, nil},
	{doKill, 5, killable}, {doRestart, 3, killable}, {doFreeze, 4, nil}, {doFlush, 6, nil},
	{doFull, 4, nil}, {doLocked, 2, killable}, {doMove, 3, nil},
}

func killable(node int) bool { return node != kept }

// macros are the themes of whole rounds, used in turn.
var macros = []string{doRevoke, doRotate, "rolling", "whole", "calm"}

func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}

// newPlan draws the plan of a round.
func newPlan(r *rand.Rand, round int) plan {
	p := plan{length: between(r, shortestRound, longestRound), macro: macros[round%len(macros)]}
	for node := range nodes {
		var steps []step
		for at := between(r, 0, longestPause); at < p.length; at += between(r, shortestPause, longestPause) {
			s := newStep(r, node)
			s.at = at
			steps = append(steps, s)
		}
		p.steps = append(p.steps, steps)
	}
	middle := p.length / 2
	add := func(node int, do string, at time.Duration) {
		s := step{at: at, do: do, pause: between(r, shortestOutage, longestOutage), pick: r.Uint64()}
		i, _ := slices.BinarySearchFunc(p.steps[node], s, func(a, b step) int { return int(a.at - b.at) })
		p.steps[node] = slices.Insert(p.steps[node], i, s)
	}
	for node := range nodes {
		switch {
		case p.macro == "rolling" && killable(node):
			add(node, doRestart, p.length*time.Duration(node)/nodes)
		case p.macro == "whole" && killable(node):
			add(node, doCrash, middle)
		case (p.macro == doRevoke || p.macro == doRotate) && node == authority:
			add(node, p.macro, middle)
		}
	}
	for at := between(r, 0, longestPause); at < p.length && p.macro != "calm"; at += between(r, time.Second, 4*time.Second) {
		e := newEpisode(r)
		e.from, e.to = at, min(at+between(r, time.Second, 10*time.Second), p.length)
		p.episodes = append(p.episodes, e)
	}
	return p
}

func newStep(r *rand.Rand, node int) step {
	sum := 0
	for _, c := range chances {
		if c.on == nil || c.on(node) {
			sum += c.in
		}
	}
	s := step{count: 1 + r.IntN(4), long: r.IntN(2) == 0, pause: between(r, shortestOutage, longestOutage), pick: r.Uint64()}
	n := r.IntN(sum)
	for _, c := range chances {
		if c.on != nil && !c.on(node) {
			continue
		}
		if n < c.in {
			s.do = c.do
			break
		}
		n -= c.in
	}
	return s
}

func newEpisode(r *rand.Rand) episode {
	side := r.Perm(nodes)
	cut := 1 + r.IntN(nodes-1)
	first := func(n int) bool { return slices.Index(side, n) < cut }
	all := func(int, int) bool { return true }
	apart := func(from, to int) bool { return first(from) != first(to) }
	oneWay := func(from, to int) bool { return first(from) && !first(to) }
	e := episode{on: all}
	switch kind := r.IntN(10); kind {
	case 0:
		e.kind, e.fault.loss = "loss", 0.05+0.35*r.Float64()
	case 1:
		e.kind, e.fault.delay = "delay", between(r, 5*time.Millisecond, 300*time.Millisecond)
	case 2:
		e.kind, e.fault.double = "duplicates", 0.3
	case 3:
		e.kind, e.fault.reorder = "reordering", 0.5
	case 4:
		e.kind, e.fault.damage = "corruption", 0.02+0.2*r.Float64()
	case 5:
		e.kind, e.fault.cut, e.on = "partition", true, apart
	case 6:
		e.kind, e.fault.cut, e.on = "one way", true, oneWay
	case 7:
		e.kind, e.fault.noTCP, e.on = "UDP only", true, apart
	case 8:
		e.kind, e.fault.noUDP, e.on = "TCP only", true, apart
	case 9:
		e.kind, e.fault.mtu, e.on = "MTU hole", 576+r.IntN(700), apart
	}
	e.kind = fmt.Sprintf("%s, %v from %v", e.kind, side[:cut], e.fault)
	return e
}
