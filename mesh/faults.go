package mesh

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// maxNamedHosts bounds the join list entries that a fault names.
const maxNamedHosts = 3

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

// joinFault returns why no entry of the join list could be joined; "" if one was, or if not all have been tried. hosts
// are the entries except this node's own address; tries maps each to the result of its last try.
func joinFault(hosts []string, tries map[string]string) string {
	var said []string
	more := 0
	for _, host := range hosts {
		why, tried := tries[host]
		switch {
		case why == triedSelf, why == triedLeft:
		case !tried || why == triedJoined:
			return ""
		case len(said) < maxNamedHosts:
			said = append(said, host+" ("+why+")")
		default:
			more++
		}
	}
	if len(said) == 0 {
		return ""
	}
	if more > 0 {
		said = append(said, fmt.Sprintf("and %d more", more))
	}
	return "nobody on the join list answers: " + strings.Join(said, ", ") +
		"; see that the agent runs there and its port is open for TCP and UDP, or correct join in meshban.yaml"
}

// Results of trying to join an entry of the join list, besides those of whyNotJoined.
const (
	triedJoined     = ""
	triedSelf       = "this node itself"
	triedLeft       = "it has left" // its agent was stopped, which is not this node's problem
	triedUnresolved = "the name does not resolve"
)

// whyNotJoined sums up an error of memberlist's Join, which is only text, in a few words.
func whyNotJoined(err error) string {
	text := err.Error()
	for _, known := range []struct{ in, why string }{
		{"connection refused", "connection refused"},
		{"unreachable", "no route to it"},
		{"no route to host", "no route to it"},
		{"timeout", "no answer"},
		{"EOF", "another program, or a node with another mesh's key"},
		{"connection reset", "another program, or a node with another mesh's key"},
	} {
		if strings.Contains(text, known.in) {
			return known.why
		}
	}
	return "it could not be joined"
}
