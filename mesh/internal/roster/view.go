package roster

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// memberlist spreads the membership by gossip, which may miss a node, and repairs that by exchanging everything with
// one peer now and then. Here pings carry the digest of the membership, so that the exchange happens soon where it is
// needed, and hardly ever elsewhere. (When twenty nodes joined at once, in one of eight runs a node missed another for
// good.)

const (
	// viewSettle is how long our own view must have been unchanged before a difference counts.
	viewSettle = 3 * time.Second
	// viewPauseMin..viewPauseMax is the pause between two exchanges; it doubles while the same two views differ.
	viewPauseMin, viewPauseMax = 5 * time.Second, 5 * time.Minute
)

// Mark returns a member's part in the digest of a view, which is the sum over all live members, including this
// node. Two nodes have equal digests if they see the same members at the same addresses, with the same gossip keys and
// ceilings: so news of these that gossip has missed is repaired too. Before the first rotation the keys are left out.
func Mark(id frame.ID, addr netip.AddrPort, has, uses pki.KeyVersion, ceiling uint32) uint64 {
	ip := addr.Addr().As16()
	b := binary.BigEndian.AppendUint16(append(id[:], ip[:]...), addr.Port())
	if has.Generation() > 0 || uses.Generation() > 0 {
		b = binary.BigEndian.AppendUint64(b, uint64(has))
		b = binary.BigEndian.AppendUint64(b, uint64(uses))
	}
	b = binary.BigEndian.AppendUint32(b, ceiling)
	h := sha256.Sum256(b)
	return binary.BigEndian.Uint64(h[:])
}

// Views decides when to exchange membership.
type Views struct {
	Exchange chan netip.AddrPort // capacity 1: the member to exchange with; Request sends

	mu           sync.Mutex
	next         time.Time
	pause        time.Duration
	mine, theirs uint64 // the views that last differed
}

// NewViews returns a Views that has compared none.
func NewViews() *Views { return &Views{Exchange: make(chan netip.AddrPort, 1)} }

// differ reports whether it is time to exchange with a member whose view differs.
func (c *Views) differ(now time.Time, mine, theirs uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.next) {
		return false
	}
	if c.mine == mine && c.theirs == theirs {
		c.pause = min(2*c.pause, viewPauseMax)
	} else {
		c.mine, c.theirs, c.pause = mine, theirs, viewPauseMin
	}
	c.next = now.Add(c.pause)
	return true
}

// Seen compares this node's view, which has been the same since changed, with that of the member at addr.
func (c *Views) Seen(now, changed time.Time, mine, theirs uint64, addr netip.AddrPort) {
	if mine != theirs && now.Sub(changed) >= viewSettle && c.differ(now, mine, theirs) {
		c.Request(addr)
	}
}

// Request asks for a membership exchange with the member at addr, unless one is already waiting.
func (c *Views) Request(addr netip.AddrPort) {
	select {
	case c.Exchange <- addr:
	default:
	}
}
