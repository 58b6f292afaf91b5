package mesh

import (
	"slices"
	"strings"
	"sync"
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
