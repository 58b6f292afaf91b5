package replica

import (
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// ProbeInterval is the time between two of our pings, whose answers carry digests.
	ProbeInterval = 2 * time.Second
	// RootLen is how many bytes of a digest such an answer carries.
	RootLen = 8
	// rootKept is how long a former digest of ours still counts when a peer's is compared: the frames that changed it may
	// still be on their way to the peer.
	rootKept = 5 * time.Second
	// maxRoots bounds the digests kept. If more change within rootKept, the oldest are dropped.
	maxRoots = 4096
	// ackFresh is how old the digest in a ping's answer may be, by the peer's clock as the last session with it showed.
	ackFresh = 5 * time.Second
	// confirmLeast and confirmRounds set how long a comparison counts: confirmLeast, or confirmRounds rounds of pings to
	// all members if that is longer.
	confirmLeast, confirmRounds = 15 * time.Second, 3
)

// ConfirmFor returns how long a comparison counts in a mesh with this many live members.
func ConfirmFor(members int) time.Duration {
	return max(confirmLeast, confirmRounds*ProbeInterval*time.Duration(members))
}

// pastRoots holds the digests that this node had within rootKept.
type pastRoots struct {
	current [32]byte
	past    []pastRoot // oldest first
}

type pastRoot struct {
	root  [32]byte
	until time.Time
}

// note records the digest that holds from now on.
func (r *pastRoots) note(now time.Time, root [32]byte) {
	if root == r.current {
		return
	}
	gone := 0
	for gone < len(r.past) && (now.Sub(r.past[gone].until) > rootKept || len(r.past)-gone >= maxRoots) {
		gone++
	}
	r.past = append(r.past[gone:], pastRoot{r.current, now})
	r.current = root
}

// find returns the latest digest with these first bytes that this node had within rootKept.
func (r *pastRoots) find(now time.Time, first [RootLen]byte) (root [32]byte, ok bool) {
	if [RootLen]byte(r.current[:]) == first {
		return r.current, true
	}
	for _, p := range slices.Backward(r.past) {
		if now.Sub(p.until) > rootKept {
			break
		}
		if [RootLen]byte(p.root[:]) == first {
			return p.root, true
		}
	}
	return root, false
}

// had reports whether this node had a digest within rootKept.
func (r *pastRoots) had(now time.Time, root [32]byte) bool {
	found, ok := r.find(now, [RootLen]byte(root[:]))
	return ok && found == root
}

// ClockOf returns a time as milliseconds since 1970.
func ClockOf(now time.Time) uint64 { return min(uint64(max(now.UnixMilli(), 0)), wire.MaxMillis) }

// peerClock is how far a peer's clock is ahead of ours, according to its last answer in a session. Anyone who heard a
// signed digest can replay it, so it must be fresh by that clock, and no older than the last one.
type peerClock struct {
	known bool
	ahead int64  // ms; too low by at most slack
	slack int64  // ms
	last  uint64 // the latest time of its clock that was accepted
}

// set derives the peer's clock from its answer, received now, to a check that was sent at asked.
func (p *peerClock) set(now, asked time.Time, clock uint64) {
	clock = min(clock, wire.MaxMillis)
	*p = peerClock{true, int64(clock) - int64(ClockOf(now)), max(now.Sub(asked).Milliseconds(), 0) + 1, clock}
}

// skew returns the least difference between the clocks that the measurement allows; positive: the peer's is ahead.
func (p *peerClock) skew() time.Duration {
	ahead := p.ahead
	if ahead < 0 {
		ahead = min(ahead+p.slack, 0)
	}
	return time.Duration(ahead) * time.Millisecond
}

// PeerClock returns how far a peer's clock is ahead of ours, at least; negative: behind. known is false until a session
// with the peer has shown it.
func (c *Core) PeerClock(peer frame.ID) (ahead time.Duration, known bool) {
	p := c.peers[peer]
	if p == nil || !p.clock.known {
		return 0, false
	}
	return p.clock.skew(), true
}

// fresh reports whether what the peer signed at this time of its clock is recent enough to count.
func (p *peerClock) fresh(now time.Time, clock uint64) bool {
	if !p.known || clock < p.last || clock > wire.MaxMillis {
		return false
	}
	age, most := int64(ClockOf(now))+p.ahead-int64(clock), ackFresh.Milliseconds()
	return age <= most && age >= -most
}
