package mesh

import (
	"crypto/rand"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// cloneAskEvery is the least time between two questions to an address that claims our id.
	cloneAskEvery = 5 * time.Second
	cloneFields   = 3
	maxAddrText   = 64 // of an address and port, in bytes
)

// clones finds out whether another machine uses our key. memberlist tells when our id is claimed at another address, but
// that may be where we were ourselves before a restart, or ourselves behind another address. So the address is asked: a
// question carries a nonce, and only a node with our key that did not make the nonce answers.
type clones struct {
	mu    sync.Mutex
	nonce [16]byte       // of the open question; made new with each
	asked netip.AddrPort // whom
	at    time.Time      // when the last question was sent
	todo  netip.AddrPort // whom to ask next
	wake  chan struct{}  // capacity 1: todo is set
}

// suspect notes that an address claims our id. It is called under memberlist's lock.
func (c *clones) suspect(addr netip.AddrPort) {
	c.mu.Lock()
	c.todo = addr
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// question gives what to ask whom, if it is time.
func (c *clones) question(now time.Time) (netip.AddrPort, [16]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.todo.IsValid() || now.Sub(c.at) < cloneAskEvery {
		return netip.AddrPort{}, [16]byte{}, false
	}
	if _, err := rand.Read(c.nonce[:]); err != nil {
		return netip.AddrPort{}, [16]byte{}, false
	}
	c.asked, c.at, c.todo = c.todo, now, netip.AddrPort{}
	return c.asked, c.nonce, true
}

// answered tells whose address an answer to our question came from.
func (c *clones) answered(nonce [16]byte) (netip.AddrPort, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if nonce != c.nonce || !c.asked.IsValid() {
		return netip.AddrPort{}, false
	}
	addr := c.asked
	c.asked = netip.AddrPort{}
	return addr, true
}

// mine tells whether the nonce is our own question.
func (c *clones) mine(nonce [16]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return nonce == c.nonce && c.asked.IsValid()
}

// cloneMessage asks (Answer false, ReplyTo says where to answer) or answers.
type cloneMessage struct {
	ID      ID
	Nonce   [16]byte
	ReplyTo string // empty: this is an answer
}

func (q cloneMessage) encode() []byte {
	b := appendArray([]byte{kindClone}, cloneFields)
	b = appendBin(b, q.ID[:])
	b = appendBin(b, q.Nonce[:])
	return appendStr(b, q.ReplyTo)
}

func decodeClone(b []byte) (q cloneMessage, err error) {
	r := reader{b: b}
	r.arrayOf(cloneFields)
	r.fixed(q.ID[:])
	r.fixed(q.Nonce[:])
	q.ReplyTo = r.str(maxAddrText)
	return q, r.end()
}

// askClone sends the question that is due.
func (m *Mesh) askClone() {
	addr, nonce, ok := m.clones.question(time.Now())
	if !ok {
		return
	}
	m.sendTo(addr, cloneMessage{ID: m.id, Nonce: nonce, ReplyTo: m.Addr().String()}.encode())
}

// sendTo sends a packet to whoever is at an address.
func (m *Mesh) sendTo(addr netip.AddrPort, msg []byte) {
	ml := m.ml.Load()
	if ml == nil {
		return
	}
	if err := ml.SendToAddress(memberlist.Address{Addr: addr.String()}, msg); err != nil {
		m.count.sendErrors.Add(1)
	}
}

// cloneMessage handles a question about our key, or the answer to ours.
func (m *Mesh) cloneMessage(b []byte) {
	q, err := decodeClone(b)
	if err != nil || q.ID != m.id {
		return
	}
	if q.ReplyTo == "" {
		if addr, ok := m.clones.answered(q.Nonce); ok {
			m.problems.report(time.Now(), ProblemClone, addr.String(),
				"another machine uses this node's key: "+addr.String())
		}
		return
	}
	addr, err := netip.ParseAddrPort(q.ReplyTo)
	if err != nil || m.clones.mine(q.Nonce) {
		return // malformed, or we asked ourselves
	}
	m.sendTo(addr, cloneMessage{ID: m.id, Nonce: q.Nonce}.encode())
	m.problems.report(time.Now(), ProblemClone, addr.String(),
		"another machine uses this node's key: "+addr.String())
}
