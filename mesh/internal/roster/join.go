package roster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// joinedFor is how long an address that answered is not tried again although no peer has it: it may belong to a
	// peer known by another address. The time ends early when a peer is lost.
	joinedFor = 10 * time.Minute
	// AskEvery is the least time between two requests to one address for a newer gossip key.
	AskEvery = 5 * time.Second
	// muteFor is how long only nodes with another gossip key may answer before the operator is told.
	muteFor = time.Minute
	// maxKept bounds the addresses that are remembered: all remembered peers, and a whole join list.
	maxKept = 2048 + 1024
	// maxNamedHosts bounds the join list entries that a fault names.
	maxNamedHosts = 3
)

// JoinList holds the configured addresses, and which ones answered. Its methods may be called from any goroutine.
type JoinList struct {
	Change chan struct{} // capacity 1: the list has changed, or is worth another try
	// Silent has capacity 1: the address of a member that may have a newer gossip key.
	Silent chan netip.AddrPort

	mu     sync.Mutex
	hosts  []string
	joined map[netip.AddrPort]joinedAt
	asked  map[netip.AddrPort]time.Time // when an address was last asked for the gossip key
	// muteSince is when it began that every peer that answers uses another gossip key; zero: a peer understood us.
	muteSince time.Time
}

type joinedAt struct {
	at     time.Time
	losses uint64
}

// NewJoinList returns a list of HOST[:PORT].
func NewJoinList(hosts []string) *JoinList {
	return &JoinList{
		hosts: slices.Clone(hosts), joined: make(map[netip.AddrPort]joinedAt), asked: make(map[netip.AddrPort]time.Time),
		Change: make(chan struct{}, 1), Silent: make(chan netip.AddrPort, 1),
	}
}

// Set replaces the list.
func (j *JoinList) Set(hosts []string) {
	j.mu.Lock()
	j.hosts = slices.Clone(hosts)
	j.mu.Unlock()
	select {
	case j.Change <- struct{}{}:
	default:
	}
}

// Hosts returns the list.
func (j *JoinList) Hosts() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.hosts)
}

// Joined records that an address has answered. losses is how many peers have been lost so far.
func (j *JoinList) Joined(now time.Time, addr netip.AddrPort, losses uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.muteSince = time.Time{}
	if len(j.joined) < maxKept {
		j.joined[addr] = joinedAt{now, losses}
	}
}

// Answered reports whether an address has answered recently and no peer was lost since.
func (j *JoinList) Answered(now time.Time, addr netip.AddrPort, losses uint64, alive int) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	at, ok := j.joined[addr]
	if ok && (alive == 0 || at.losses != losses || now.Sub(at.at) > joinedFor) {
		delete(j.joined, addr)
		ok = false
	}
	return ok
}

// MayAsk reports whether an address may be asked now and, if so, records the request.
func (j *JoinList) MayAsk(now time.Time, addr netip.AddrPort) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if now.Sub(j.asked[addr]) < AskEvery {
		return false
	}
	if len(j.asked) >= maxKept {
		clear(j.asked)
	}
	j.asked[addr] = now
	return true
}

// MuteLong reports whether no peer has understood this node for at least muteFor. The first call starts that time.
func (j *JoinList) MuteLong(now time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.muteSince.IsZero() {
		j.muteSince = now
	}
	return now.Sub(j.muteSince) >= muteFor
}

// JoinFault returns why no entry of the join list could be joined; "" if one was, or if not all have been tried. hosts
// are the entries except this node's own address; tries maps each to the result of its last try.
func JoinFault(hosts []string, tries map[string]string) string {
	var said []string
	more := 0
	for _, host := range hosts {
		why, tried := tries[host]
		switch {
		case why == TriedSelf, why == TriedLeft:
		case !tried || why == TriedJoined:
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

// Results of trying to join an entry of the join list, besides those of WhyNot.
const (
	TriedJoined     = ""
	TriedSelf       = "this node itself"
	TriedLeft       = "it has left" // its agent was stopped, which is not this node's problem
	TriedUnresolved = "the name does not resolve"
)

// WhyNot sums up an error of memberlist's Join, which is only text, in a few words.
func WhyNot(err error) string {
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
