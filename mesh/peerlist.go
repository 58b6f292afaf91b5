package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
)

// members lists the peers by name, then id.
func (t *peerTable) members(now time.Time) []Member {
	t.mu.Lock()
	all, confirmed := make([]Member, 0, len(t.peers)+1), replica.ConfirmFor(len(t.targets)+1)
	for _, p := range t.peers {
		if (p.State != StateLeft || now.Sub(p.Since) < hideLeft) && !t.hidden(now, p) {
			m := p.Member
			m.InSync = m.InSync && now.Sub(m.Confirmed) < confirmed
			all = append(all, m)
		}
	}
	t.mu.Unlock()
	sortMembers(all)
	return all
}

// known lists the addresses where the trusted peers have answered, whatever state they are said to be in: each one's
// together, the last first.
func (t *peerTable) known(now time.Time) []Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Peer, 0, len(t.peers))
	for id, p := range t.peers {
		if !t.trusted(id) || t.unprotected(now, p) {
			continue
		}
		for _, proof := range p.recent(now) {
			list = append(list, Peer{ID: id, Name: p.Name, Addr: proof.Addr, Seen: proof.At})
		}
	}
	return list
}

func sortMembers(all []Member) {
	slices.SortFunc(all, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), slices.Compare(a.ID[:], b.ID[:]))
	})
}

// take returns the waiting events, and whether the stored list and the known addresses have changed.
func (t *peerTable) take() (events []MemberEvent, dirty, known bool, dropped uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	events, t.events = t.events, nil
	dropped, t.dropped = t.dropped, 0
	known, t.knownChanged = t.knownChanged, false
	return events, t.dirty, known, dropped
}

// remember returns the list to store for the next start, newest first, and clears its dirty mark.
func (t *peerTable) remember(now time.Time) []Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dirty = false
	list := make([]Peer, 0, len(t.peers))
	for _, p := range t.peers {
		if !t.trusted(p.ID) {
			continue
		}
		list = append(list, Peer{ID: p.ID, Name: p.Name, Addr: p.Addr, Seen: p.seen, Proved: p.recent(now), Forgotten: p.word.Said, ForgottenBy: p.word.By, ForgottenSure: p.word.Sure})
	}
	slices.SortFunc(list, func(a, b Peer) int { return cmp.Or(b.Seen.Compare(a.Seen), slices.Compare(a.ID[:], b.ID[:])) })
	return list[:min(len(list), maxPeers)]
}

// lostPeer is a peer that fell silent, and where it may be.
type lostPeer struct {
	id   frame.ID
	addr netip.AddrPort
}

// lost lists the peers to search for, and returns how many peers are alive and known. Peers that left are listed only
// if nobody is alive or they were heard from within hearsay; recent reports whether any dead or left peer was.
func (t *peerTable) lost(now time.Time) (peers []lostPeer, alive, known int, recent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.peers {
		if !t.trusted(id) && len(t.pushTo) > 0 {
			continue
		}
		known++
		gone := p.State == StateDead || p.State == StateLeft
		fresh := gone && p.reachable(now)
		recent = recent || fresh
		if !gone || p.State == StateLeft && len(t.targets) > 0 && !fresh {
			continue
		}
		peers = append(peers, lostPeer{id, p.Addr})
		if p.alt.IsValid() {
			peers = append(peers, lostPeer{id, p.alt})
		}
		if p.also.IsValid() {
			peers = append(peers, lostPeer{id, p.also})
		}
	}
	return peers, len(t.targets), known, recent
}

// aliveAt reports whether a live peer has this address.
func (t *peerTable) aliveAt(addr netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		if p.Addr == addr && (p.State == StateAlive || p.State == StateSuspect) {
			return true
		}
	}
	return false
}

// leftAt reports whether a peer that said goodbye had this address.
func (t *peerTable) leftAt(addr netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		if p.Addr == addr && p.State == StateLeft {
			return true
		}
	}
	return false
}

// lossCount returns how many peers have left or failed so far, and how many are alive.
func (t *peerTable) lossCount() (losses uint64, alive int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.losses, len(t.targets)
}
