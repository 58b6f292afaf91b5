package mesh

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// Other nodes never ban the address of a member. To keep anyone from protecting an address just by claiming it, the
// address counts only once the member has answered there: a question with a random nonce goes to that address and
// nowhere else, and the answer is signed with the member's key. Where packets do not get through, a TLS handshake on a
// stream to the address proves the same. A node also asks addresses that claim its own id: only a machine with its key
// can answer.

const (
	// askOpen is how long an answer to a question is accepted. Its nonce is remembered as ours for askKept.
	askOpen, askKept = 10 * time.Second, time.Minute
	// maxOpenAsks bounds the remembered questions.
	maxOpenAsks = 2 * MaxMembers
	// cloneAskEvery is the least time between two questions to addresses that claim our id.
	cloneAskEvery = 5 * time.Second
	// cloneWait is how long an address that claims our id has to answer. If it does not, it is taken for a former
	// address of this node.
	cloneWait = time.Second
	// answerRate (per second) and answerBurst (at once) bound the answers to one node.
	answerRate, answerBurst = 2, 8
	// maxHandshakes bounds the concurrent TLS handshakes that prove members' addresses, and those of strangers.
	maxHandshakes = 4
)

var askForm = form{"question", "meshban ask v1\x00", 256, 6, 1}

// ask is a question to the node at an address, or the answer to one.
type ask struct {
	signed
	To      frame.ID // who is asked or, in an answer, who asked
	Nonce   [16]byte
	ReplyTo string // where to send the answer; empty in an answer
}

func (a ask) encodeBody() []byte {
	b := wire.AppendBin(askForm.begin(a.signed), a.To[:])
	b = wire.AppendBin(b, a.Nonce[:])
	b = wire.AppendStr(b, a.ReplyTo)
	return wire.AppendBin(b, a.Key)
}

// encode returns the signed message, prefixed with its kind.
func (a ask) encode(id pki.Identity) []byte {
	a.Key = id.Public()
	return append([]byte{wire.KindAsk}, askForm.sign(a.encodeBody(), id)...)
}

// decodeAsk strictly decodes what encode wrote after the kind. It does not check the signature.
func decodeAsk(b []byte) (a ask, err error) {
	r := askForm.open(b, &a.signed)
	r.Fixed(a.To[:])
	r.Fixed(a.Nonce[:])
	a.ReplyTo = r.Str(wire.MaxAddrText)
	return a, askForm.close(r, &a.signed)
}

// asks remembers the questions that this node has sent.
type asks struct {
	wake chan struct{} // capacity 1: suspect sends, proveLoop receives

	mu      sync.Mutex
	open    map[[16]byte]openAsk
	pruned  time.Time
	claimed netip.AddrPort // the next address to ask among those that claim our id
	asked   time.Time      // when such an address was last asked
}

type openAsk struct {
	id   frame.ID
	addr netip.AddrPort
	at   time.Time
	done bool // answered already
}

// begin records a new question to id at addr and returns its nonce.
func (a *asks) begin(now time.Time, id frame.ID, addr netip.AddrPort) (nonce [16]byte, err error) {
	if _, err := rand.Read(nonce[:]); err != nil {
		return nonce, fmt.Errorf("make a nonce: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.pruned) >= time.Second {
		a.pruned = now
		for n, q := range a.open {
			if now.Sub(q.at) > askKept {
				delete(a.open, n)
			}
		}
	}
	if len(a.open) >= maxOpenAsks {
		return nonce, errors.New("too many open questions")
	}
	a.open[nonce] = openAsk{id: id, addr: addr, at: now}
	return nonce, nil
}

// expected reports whether from may answer the question with this nonce now.
func (a *asks) expected(now time.Time, nonce [16]byte, from frame.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, ok := a.open[nonce]
	return ok && !q.done && q.id == from && now.Sub(q.at) <= askOpen
}

// answered closes a question and returns the address it was sent to.
func (a *asks) answered(nonce [16]byte) netip.AddrPort {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.open[nonce]
	q.done = true
	a.open[nonce] = q
	return q.addr
}

// unanswered reports whether a question was sent and not answered.
func (a *asks) unanswered(nonce [16]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, ok := a.open[nonce]
	return ok && !q.done
}

// mine reports whether this node asked with this nonce.
func (a *asks) mine(nonce [16]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.open[nonce]
	return ok
}

// suspect records an address that claims our id. It never blocks: memberlist calls it with its lock held.
func (a *asks) suspect(addr netip.AddrPort) {
	a.mu.Lock()
	a.claimed = addr
	a.mu.Unlock()
	wake(a.wake)
}

// claimant returns an address that claims our id, if it is time to ask one.
func (a *asks) claimant(now time.Time) (netip.AddrPort, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.claimed.IsValid() || now.Sub(a.asked) < cloneAskEvery {
		return netip.AddrPort{}, false
	}
	addr := a.claimed
	a.claimed, a.asked = netip.AddrPort{}, now
	return addr, true
}

// ask asks the node at addr whether it holds id's key, and returns the question's nonce.
func (m *Mesh) ask(id frame.ID, addr netip.AddrPort) [16]byte {
	nonce, err := m.asks.begin(m.now(), id, addr)
	if err != nil {
		m.cfg.Logger.Debug("cannot ask for an address", "addr", addr, "error", err)
		return nonce
	}
	q := ask{signed: signed{MeshID: m.cfg.Secrets.MeshID}, To: id, Nonce: nonce, ReplyTo: m.Addr().String()}
	m.sendTo(addr, q.encode(m.cfg.Identity))
	return nonce
}

// sendTo sends a packet to an address, whichever node is there.
func (m *Mesh) sendTo(addr netip.AddrPort, msg []byte) {
	ml := m.ml.Load()
	if ml == nil {
		return
	}
	if err := ml.SendToAddress(memberlist.Address{Addr: addr.String()}, msg); err != nil {
		m.count.SendErrors.Add(1)
	}
}

// askMessage handles a question, or the answer to one of ours. Only a signed answer has an effect: anyone who has
// received a question can replay it.
func (m *Mesh) askMessage(b []byte) {
	a, err := decodeAsk(b)
	if err != nil {
		m.count.refused[refusedFormat].Add(1)
		return
	}
	if a.MeshID != m.cfg.Secrets.MeshID || a.To != m.id {
		return
	}
	now, from := m.now(), frame.IDOf(a.Key)
	if a.ReplyTo == "" {
		if m.asks.expected(now, a.Nonce, from) && a.verify(askForm) {
			m.addressProved(now, from, m.asks.answered(a.Nonce))
		}
		return
	}
	addr, err := netip.ParseAddrPort(a.ReplyTo)
	if err != nil || m.asks.mine(a.Nonce) || !a.verify(askForm) {
		return
	}
	if from == m.id {
		m.asks.suspect(addr)
	}
	answers := &m.answers
	if from != m.id && !m.trusted(from) {
		answers = &m.strangerAnswers
	}
	if answers.Take(now, from, 1) {
		m.sendTo(addr, ask{signed: signed{MeshID: a.MeshID}, To: from, Nonce: a.Nonce}.encode(m.cfg.Identity))
	}
}

// addressProved records that the holder of id's key receives at addr.
func (m *Mesh) addressProved(now time.Time, id frame.ID, addr netip.AddrPort) {
	if id == m.id {
		m.problems.report(now, ProblemClone, addr.String(), "another machine uses this node's key: "+addr.String(), twoUsers)
		return
	}
	if m.peers.addressProved(now, id, addr) {
		m.tell(replica.UpEvent{Peer: id})
	}
}
