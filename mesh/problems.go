package mesh

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshban/meshban/mesh/internal/wire"
)

// Fault is a current problem. It is over once Faults no longer lists it.
type Fault struct {
	Kind Problem
	Text string // what is wrong, and what to do
}

// faults are the problems that keep this node from the others, at most one of each kind.
type faults struct {
	mu sync.Mutex
	of map[Problem]string
}

// Faults returns the current problems, sorted by kind.
func (m *Mesh) Faults() []Fault {
	m.faults.mu.Lock()
	defer m.faults.mu.Unlock()
	list := make([]Fault, 0, len(m.faults.of))
	for kind, text := range m.faults.of {
		list = append(list, Fault{kind, text})
	}
	slices.SortFunc(list, func(a, b Fault) int { return strings.Compare(string(a.Kind), string(b.Kind)) })
	return list
}

// setFault sets the problem of a kind; "" clears it.
func (m *Mesh) setFault(kind Problem, text string) {
	m.faults.mu.Lock()
	was := m.faults.of[kind]
	if text == "" {
		delete(m.faults.of, kind)
	} else {
		m.faults.of[kind] = text
	}
	m.faults.mu.Unlock()
	switch {
	case text == was:
	case text == "":
		m.cfg.Logger.Info("mesh problem is over", "kind", kind)
	default:
		m.warn(kind, text, text, "") // the text says what to do
	}
}

const (
	// problemEvery is the least time between two reports of one kind and culprit.
	problemEvery = time.Minute
	// maxProblems bounds the culprits that are remembered; while that many are, further reports are dropped.
	maxProblems = 256
	// maxDetailText bounds what a report says besides the remedy, in bytes.
	maxDetailText = 512
)

// Remedies of several problems.
const (
	shutOut      = "find the captured machine: `meshban revoke NAME` and then `meshban rotate mesh-key` shut it out"
	twoUsers     = "give one of the two machines an empty state folder and a new token: `meshban join TOKEN`"
	restartAgent = "restart the agent: systemctl restart meshban"
	newStart     = "give this machine an empty state folder and a new token: `meshban join TOKEN`"
)

// problems reports to the daemon, each kind and culprit rarely.
type problems struct {
	tell  func(kind Problem, detail string)
	count *atomic.Uint64

	mu   sync.Mutex
	last map[string]time.Time
}

// report reports a problem unless it was reported recently. If remedy is empty, what contains the remedy. report calls
// p.tell, so no lock may be held.
func (p *problems) report(now time.Time, kind Problem, culprit, what, remedy string) {
	p.count.Add(1)
	key := string(kind) + " " + culprit
	p.mu.Lock()
	for k, t := range p.last {
		if now.Sub(t) >= problemEvery {
			delete(p.last, k)
		}
	}
	_, told := p.last[key]
	told = told || len(p.last) >= maxProblems
	if !told {
		p.last[key] = now
	}
	p.mu.Unlock()
	if !told && p.tell != nil {
		what = wire.Escape(what, maxDetailText)
		if remedy != "" {
			what += "; " + remedy
		}
		p.tell(kind, what)
	}
}
