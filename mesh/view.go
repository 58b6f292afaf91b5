package mesh

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// memberlist spreads who is there by gossip that may miss a node, and repairs that by exchanging everything with one peer
// now and then. Here the digest of the membership rides on pings, so that the exchange happens soon where it is needed,
// and hardly ever elsewhere. (Twenty nodes that joined at once: one in eight times a node missed another for good.)

const (
	// viewSettle is how long our own view must have stood before a difference counts.
	viewSettle = 3 * time.Second
	// viewPauseMin..viewPauseMax is the pause between two exchanges; it doubles while the same two views differ.
	viewPauseMin, viewPauseMax = 5 * time.Second, 5 * time.Minute
)

// viewMark is a member's part in the digest of a view, which is the sum over all who are alive, this node included. The
// digests of two nodes are equal when they see the same members at the same addresses, with the same gossip keys and
// ceilings: news of these that gossip has missed is repaired, too. Before the first rotation the keys are left out.
func viewMark(id ID, addr netip.AddrPort, has, uses keyVersion, ceiling uint32) uint64 {
	ip := addr.Addr().As16()
	b := binary.BigEndian.AppendUint16(append(id[:], ip[:]...), addr.Port())
	if has.generation() > 0 || uses.generation() > 0 {
		b = binary.BigEndian.AppendUint64(b, uint64(has))
		b = binary.BigEndian.AppendUint64(b, uint64(uses))
	}
	b = binary.BigEndian.AppendUint32(b, ceiling)
	h := sha256.Sum256(b)
	return binary.BigEndian.Uint64(h[:])
}

// viewCompare decides when to exchange the membership.
type viewCompare struct {
	exchange chan netip.AddrPort // capacity 1: request sends whom to exchange with, rejoinLoop receives

	mu           sync.Mutex
	next         time.Time
	pause        time.Duration
	mine, theirs uint64 // the views that differed last
}

// differ reports whether it is time for an exchange with somebody whose view is another one.
func (c *viewCompare) differ(now time.Time, mine, theirs uint64) bool {
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

// viewSeen compares a peer's view with ours. Called by memberlist's goroutine that pings.
func (m *Mesh) viewSeen(now time.Time, n *memberlist.Node, theirs uint64) {
	mine, changed := m.peers.viewDigest()
	if mine == theirs || now.Sub(changed) < viewSettle || !m.views.differ(now, mine, theirs) {
		return
	}
	m.views.request(nodeAddr(n))
}

// request has the membership exchanged with the member at addr, unless an exchange waits already.
func (c *viewCompare) request(addr netip.AddrPort) {
	select {
	case c.exchange <- addr:
	default:
	}
}
