package mesh

import (
	"math"
	"sync"
)

// memberlist numbers what is said of a member: the higher incarnation wins, and only the member itself is to raise its own,
// by denying what others say. But any holder of the gossip key can name any number, and the number is a uint32 that wraps:
// nobody can deny what is said under 2^32-1. So each member signs, in its metadata, a ceiling that stays somewhat above its
// incarnation. News of a member above its ceiling is dropped, so the member can always deny what is left, and raises its
// ceiling when that comes near. Source: memberlist v0.7.0, state.go (refute, aliveNode, suspectNode, deadNode).

const (
	// firstCeiling is the ceiling of a member of which nothing is known, and of one that says none.
	firstCeiling = 512
	// ceilingRoom is how far above its incarnation a member puts its ceiling. It makes a new one once half of that is used:
	// with one each announcePause at most, it takes an attacker three weeks of raising without a break to use up a uint32.
	ceilingRoom = 512
	// mostCeiling leaves room for the denial of what is said under it.
	mostCeiling = math.MaxUint32 - 1
)

// ceiling is this node's own.
type ceiling struct {
	mu   sync.Mutex
	most uint32 // at most this is our incarnation, which memberlist keeps to itself
	says uint32
}

// heard notes that memberlist will see news of this node under an incarnation, and may deny it with the next one. It reports
// whether there is a new ceiling to announce.
func (c *ceiling) heard(incarnation uint32) (raised bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most = max(c.most, min(incarnation, mostCeiling)+1)
	return c.raiseLocked()
}

// next records that memberlist is about to use the next incarnation, and returns the ceiling to announce with it.
func (c *ceiling) next() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.most < math.MaxUint32 {
		c.most++
	}
	c.raiseLocked()
	return c.says
}

func (c *ceiling) raiseLocked() bool {
	if uint64(c.most)+ceilingRoom/2 <= uint64(c.says) || c.says == mostCeiling {
		return false
	}
	c.says = uint32(min(uint64(c.most)+ceilingRoom, mostCeiling))
	return true
}

// now returns what was said last.
func (c *ceiling) now() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.says, firstCeiling)
}
