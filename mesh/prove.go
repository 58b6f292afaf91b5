package mesh

import (
	"context"
	"crypto/ed25519"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// maxProofs bounds the proved addresses of a member: where it is and where it was recently.
	maxProofs = 4
	// askFresh is the least time between the first questions to two addresses of one member.
	askFresh = 10 * time.Second
	// upPatience is how many questions to an address are sent before anti-entropy begins without proof. Until then it
	// waits, so that no ban that covers the address arrives before the proof.
	upPatience = 3
)

// askWaits are the pauses after each question to an address that does not answer. The last one repeats.
var askWaits = [...]time.Duration{250 * time.Millisecond, 750 * time.Millisecond, 3 * time.Second, 10 * time.Second, time.Minute}

// AddrProof is an address at which a member has answered.
type AddrProof struct {
	Addr netip.AddrPort
	At   time.Time // when it was last known there
}

// asking is the progress of proving a member's address.
type asking struct {
	addr  netip.AddrPort
	since time.Time // the first question to an address
	tries int       // questions so far
	next  time.Time // when the next one is due
}

// dueAsk is a question that is due.
type dueAsk struct {
	id    frame.ID
	addr  netip.AddrPort
	tries int // questions before this one
}

// isProved reports whether a peer has answered at addr.
func (p *peer) isProved(addr netip.AddrPort) bool {
	return slices.ContainsFunc(p.proofs, func(proof AddrProof) bool { return proof.Addr == addr })
}

// unproved returns an address of the peer that should be asked.
func (p *peer) unproved(now time.Time) (netip.AddrPort, bool) {
	if !p.reachable(now) {
		return netip.AddrPort{}, false
	}
	for _, addr := range []netip.AddrPort{p.Addr, p.alt} {
		astray := addr == p.Addr && (p.silent || p.viaAlso && p.also.IsValid())
		if addr.IsValid() && addr.Port() != 0 && (astray || !p.isProved(addr)) {
			return addr, true
		}
	}
	return netip.AddrPort{}, false
}

// recent returns the proofs that count, newest first. The proof of the current address counts for as long as the peer
// is remembered.
func (p *peer) recent(now time.Time) []AddrProof {
	var list []AddrProof
	for _, proof := range p.proofs {
		if proof.Addr == p.Addr && proof.At.Before(p.seen) {
			proof.At = p.seen
		}
		if proof.Addr == p.Addr || now.Sub(proof.At) < forgetDead {
			list = append(list, proof)
		}
	}
	slices.SortStableFunc(list, func(a, b AddrProof) int { return b.At.Compare(a.At) })
	return list
}

// moves records that a peer is about to be known at addr.
func (p *peer) moves(now time.Time, addr netip.AddrPort) {
	if p.Addr != addr {
		p.proofs = p.recent(now) // keeps when it was last seen at its old address
	}
}

// addressProved records that a peer has answered at addr, and reports whether the core waits for that. An address that the
// peer has not signed proves nothing: whoever is there may have passed a TLS handshake on to the peer.
func (t *peerTable) addressProved(now time.Time, id frame.ID, addr netip.AddrPort) (up bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil || addr != p.Addr && addr != p.also && addr != p.alt {
		return false
	}
	p.proofs = slices.DeleteFunc(p.recent(now), func(proof AddrProof) bool { return proof.Addr == addr })
	p.proofs = slices.Insert(p.proofs, 0, AddrProof{addr, now})
	p.proofs = p.proofs[:min(len(p.proofs), maxProofs)]
	switch addr {
	case p.Addr:
		p.viaAlso, p.silent = false, false
	case p.also:
		p.viaAlso, p.silent = p.viaAlso || p.silent || !p.isProved(p.Addr), false
	}
	t.dirty, t.knownChanged = true, true
	t.targetsLocked(now)
	wake(t.wake)
	if there := addr == p.Addr || addr == p.also; there {
		p.seen, p.word = now, forgotten{}
		up = p.upWaits || p.State == StateSuspect // a suspect may have missed frames
		p.upWaits = false
		if p.State == StateSuspect {
			p.State, p.Since = StateAlive, now
		}
	}
	return up
}

// unheard makes this node ask a peer again, at all its addresses.
func (t *peerTable) unheard(id frame.ID) {
	t.update(id, func(p *peer) {
		if !p.silent {
			p.askAgain()
			wake(t.unproved)
		}
	})
}

func (p *peer) askAgain() { p.silent, p.asking.tries, p.asking.next = true, 1, time.Time{} }

// awaitProof reports whether a new peer must prove its address first. If so, dueAsks or addressProved later report when
// to tell the core of it.
func (t *peerTable) awaitProof(id frame.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil || p.isProved(p.Addr) {
		return false
	}
	p.upWaits = true
	return true
}

// dueAsks returns the questions that are due, the peers for which the core has waited long enough, and when the next
// question is due; zero: none is.
func (t *peerTable) dueAsks(now time.Time) (due []dueAsk, ups []frame.ID, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.peers {
		addr, ok := p.unproved(now)
		if !ok {
			continue
		}
		q := &p.asking
		if q.addr != addr {
			*q = asking{addr: addr, since: q.since, next: now}
			if again := q.since.Add(askFresh); again.After(now) {
				q.next = again
			}
		}
		if !q.next.After(now) {
			if q.tries == 0 {
				q.since = now
			}
			due = append(due, dueAsk{id, addr, q.tries})
			if q.tries > 0 && p.also.IsValid() && !p.viaAlso {
				due = append(due, dueAsk{id, p.also, q.tries})
			}
			q.next = now.Add(askWaits[min(q.tries, len(askWaits)-1)])
			q.tries++
		}
		if p.upWaits && q.tries >= upPatience {
			p.upWaits = false
			ups = append(ups, id)
		}
		if next.IsZero() || q.next.Before(next) {
			next = q.next
		}
	}
	return due, ups, next
}

// proveLoop asks members to prove their addresses, and asks addresses that claim our id.
func (m *Mesh) proveLoop(ctx context.Context) {
	var streams sync.WaitGroup
	defer streams.Wait()
	free := map[bool]chan struct{}{true: make(chan struct{}, maxHandshakes), false: make(chan struct{}, maxHandshakes)} // by trust
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-m.peers.unproved:
		case <-m.asks.wake:
			if addr, ok := m.asks.claimant(m.now()); ok {
				nonce := m.ask(m.id, addr)
				time.AfterFunc(cloneWait, func() {
					if m.asks.unanswered(nonce) {
						wake(m.place.former)
					}
				})
			}
			continue
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		due, ups, next := m.peers.dueAsks(m.now())
		for _, id := range ups {
			m.tell(replica.UpEvent{Peer: id})
		}
		for _, q := range due {
			m.ask(q.id, q.addr)
			if q.tries == 0 {
				continue
			}
			slots := free[m.trusted(q.id)]
			select { // it has not answered an earlier question
			case slots <- struct{}{}:
				streams.Go(func() {
					m.askByStream(ctx, q.id, q.addr)
					<-slots
				})
			default:
			}
		}
		if !next.IsZero() {
			timer.Reset(next.Sub(m.now()))
		}
	}
}

// askByStream proves a member's address by a TLS handshake with it.
func (m *Mesh) askByStream(ctx context.Context, id frame.ID, addr netip.AddrPort) {
	conn, err := m.dialMember(ctx, addr, func(key ed25519.PublicKey) error {
		if frame.IDOf(key) != id {
			return errOtherNode
		}
		return nil
	})
	if err != nil {
		m.cfg.Logger.Debug("an address of a member does not answer", "id", id.String(), "addr", addr, "error", wire.Escape(err.Error(), wire.MaxLogText))
		return
	}
	_ = conn.Close()
}
