package meta

import (
	"math"
	"sync"
)

// memberlist numbers the news of a member: the higher incarnation wins, and only the member itself should raise its
// own, by refuting what others say. But any holder of the gossip key can send any number, and the number is a uint32
// that wraps: nobody can refute news with incarnation 2^32-1. So each member signs, in its metadata, a ceiling somewhat
// above its incarnation. News of a member above its ceiling is dropped, so the member can always refute the rest, and
// it raises the ceiling before its incarnation gets there. Source: memberlist v0.7.0, state.go (refute, aliveNode,
// suspectNode, deadNode).

const (
	// FirstCeiling is the ceiling of an unknown member, and of one that states none.
	FirstCeiling = 512
	// ceilingRoom is how far above its incarnation a member sets its ceiling. It sets a new one once half of that is
	// used, at most four times a second: an attacker would need three weeks of constant raising to use up a uint32.
	ceilingRoom = 512
	// MostCeiling leaves room to refute news at the ceiling.
	MostCeiling = math.MaxUint32 - 1
)

// Ceiling is this node's own ceiling.
type Ceiling struct {
	mu   sync.Mutex
	most uint32 // upper bound of our incarnation, which memberlist does not expose
	says uint32
}

// Heard records that memberlist will see news of this node with an incarnation, and may refute it with the next one. It
// reports whether there is a new ceiling to announce.
func (c *Ceiling) Heard(incarnation uint32) (raised bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most = max(c.most, min(incarnation, MostCeiling)+1)
	return c.raiseLocked()
}

// Next records that memberlist is about to use the next incarnation, and returns the ceiling to announce with it.
func (c *Ceiling) Next() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.most < math.MaxUint32 {
		c.most++
	}
	c.raiseLocked()
	return c.says
}

func (c *Ceiling) raiseLocked() bool {
	if uint64(c.most)+ceilingRoom/2 <= uint64(c.says) || c.says == MostCeiling {
		return false
	}
	c.says = uint32(min(uint64(c.most)+ceilingRoom, MostCeiling))
	return true
}

// HeardMost returns an upper bound of the incarnations of this node that were heard of, and of its own.
func (c *Ceiling) HeardMost() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most
}

// Now returns the ceiling that was announced last.
func (c *Ceiling) Now() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.says, FirstCeiling)
}
