package mesh

import (
	"slices"
	"time"
)

const (
	// rootKept is for how long after it changed a digest of ours still counts when a peer's is compared: what changed it may
	// be on its way there.
	rootKept = 5 * time.Second
	// maxRoots bounds the digests that are kept. When more change within rootKept, the oldest go.
	maxRoots = 4096
	// ackFresh is how old the digest of an answered ping may be, by a clock that the last session with the peer has set.
	ackFresh = 5 * time.Second
	// confirmLeast and confirmRounds bound how long a comparison counts: confirmLeast, or so many rounds of pings to all members
	// where that is longer.
	confirmLeast, confirmRounds = 15 * time.Second, 3
)

// confirmFor returns how long a comparison counts in a mesh of so many members that are alive.
func confirmFor(members int) time.Duration {
	return max(confirmLeast, confirmRounds*probeInterval*time.Duration(members))
}

// pastRoots is the digests that this node had within rootKept.
type pastRoots struct {
	current [32]byte
	past    []pastRoot // the oldest first
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

// find returns the digest with these first bytes that this node had last, if that is within rootKept.
func (r *pastRoots) find(now time.Time, first [rootShort]byte) (root [32]byte, ok bool) {
	if [rootShort]byte(r.current[:]) == first {
		return r.current, true
	}
	for _, p := range slices.Backward(r.past) {
		if now.Sub(p.until) > rootKept {
			break
		}
		if [rootShort]byte(p.root[:]) == first {
			return p.root, true
		}
	}
	return root, false
}

// had reports whether this node had a digest within rootKept.
func (r *pastRoots) had(now time.Time, root [32]byte) bool {
	found, ok := r.find(now, [rootShort]byte(root[:]))
	return ok && found == root
}

// clockOf writes a time as milliseconds since 1970.
func clockOf(now time.Time) uint64 { return min(uint64(max(now.UnixMilli(), 0)), maxMillis) }

// peerClock is how far a peer's clock is ahead of ours, as its last answer in a session told. A signed digest can be sent
// again by whoever heard it, so it must be fresh by that clock, and no older than the last one.
type peerClock struct {
	known bool
	ahead int64  // ms; at most slack too low
	slack int64  // ms
	last  uint64 // the latest time of its clock that counted
}

// set takes a peer's clock from an answer to what it was asked at a time.
func (p *peerClock) set(now, asked time.Time, clock uint64) {
	clock = min(clock, maxMillis)
	*p = peerClock{true, int64(clock) - int64(clockOf(now)), max(now.Sub(asked).Milliseconds(), 0) + 1, clock}
}

// skew returns by how much at least the peer's clock is ahead of ours, below 0: behind.
func (p *peerClock) skew() time.Duration {
	ahead := p.ahead
	if ahead < 0 {
		ahead = min(ahead+p.slack, 0)
	}
	return time.Duration(ahead) * time.Millisecond
}

// fresh reports whether what the peer has signed at this time of its clock counts now.
func (p *peerClock) fresh(now time.Time, clock uint64) bool {
	if !p.known || clock < p.last || clock > maxMillis {
		return false
	}
	age, most := int64(clockOf(now))+p.ahead-int64(clock), ackFresh.Milliseconds()
	return age <= most && age >= -most
}
