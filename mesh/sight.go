package mesh

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/roster"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// A node that others cannot reach at its advertised address, for example behind NAT, hears nothing from them and cannot
// tell why. So while no packets arrive, or a member does not answer reports, the node asks some members how they see it,
// and believes what most of them say. In a healthy mesh nobody asks.

const (
	// sightEvery is the time between two checks, and sightQuiet how long nothing must have arrived before members are
	// asked.
	sightEvery, sightQuiet = 5 * time.Second, 15 * time.Second
	// sightPanel is how many members are asked at once: most of these are honest if most members are.
	sightPanel = 5
	// sightGood is how many times in a row they must say that this node is reached before the fault is over.
	sightGood = 3
	// askSight is the question.
	askSight = "where am I?"
)

// sightOf returns how this node sees the node behind a stream.
func (m *Mesh) sightOf(id frame.ID, remote net.Addr) roster.Sight {
	s := roster.Sight{From: netip.IPv6Unspecified()}
	if a, ok := remote.(*net.TCPAddr); ok {
		s.From = a.AddrPort().Addr().Unmap().WithZone("")
	}
	m.peers.update(id, func(p *peer) { s.Reached = (p.isProved(p.Addr) || p.viaAlso) && p.State == StateAlive })
	return s
}

// sightLoop asks members how they see this node while nothing arrives from some of them.
func (m *Mesh) sightLoop(ctx context.Context) {
	tick := time.NewTicker(sightEvery)
	defer tick.Stop()
	packets, since := m.count.Packets.Load(), m.now()
	told := false // of a fault
	for good, turn := 0, 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if n := m.count.Packets.Load(); n != packets {
			packets, since = n, m.now()
		}
		ids := m.aliveIDs()
		if quiet := m.now().Sub(since) >= sightQuiet; len(ids) == 0 || !told && !quiet && len(m.paths.Unanswered(m.now(), sightQuiet)) == 0 {
			told = false
			m.setFault(ProblemSeen, "")
			m.place.unreached.Store(false)
			continue
		}
		said := m.seenBy(ctx, ids, turn)
		own := m.Addr()
		if len(said) < min(2, len(ids)) || !own.IsValid() { // one of many may lie
			turn++
			continue
		}
		s := roster.MostSee(said)
		if text := s.Fault(s.By.String(), own, cmp.Or(m.cfg.Bind.Port(), own.Port())); text != "" {
			told, good = true, 0 // the same are asked again, so that the text stays the same
			m.setFault(ProblemSeen, text)
			m.place.unreached.Store(s.From != own.Addr())
			continue
		}
		turn++
		if good++; good >= sightGood {
			told = false
			m.setFault(ProblemSeen, "")
			m.place.unreached.Store(false)
		}
	}
}

// aliveIDs returns the trusted members that are alive, or all if none is trusted: while nothing arrives, that may not be
// known yet.
func (m *Mesh) aliveIDs() (ids []frame.ID) {
	for _, t := range m.peers.alive() {
		ids = append(ids, t.ID)
	}
	trusted := slices.DeleteFunc(slices.Clone(ids), func(id frame.ID) bool { return !m.trusted(id) })
	if len(trusted) > 0 {
		return trusted
	}
	return ids
}

// seenBy asks up to sightPanel of the members how they see this node, others at each turn, and returns the answers.
func (m *Mesh) seenBy(ctx context.Context, ids []frame.ID, turn int) (said []roster.Sighted) {
	if !m.cfg.Secrets.HasAuthority() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	answers := make([]roster.Sighted, min(sightPanel, len(ids)))
	good := make([]bool, len(answers))
	var asking sync.WaitGroup
	for i := range answers {
		id := ids[(turn*sightPanel+i)%len(ids)]
		asking.Go(func() {
			s, ok := m.sightBy(ctx, id)
			answers[i], good[i] = roster.Sighted{By: id, Sight: s}, ok
		})
	}
	asking.Wait()
	for i, s := range answers {
		if good[i] {
			said = append(said, s)
		}
	}
	return said
}

// sightBy asks a member how it sees this node.
func (m *Mesh) sightBy(ctx context.Context, id frame.ID) (roster.Sight, bool) {
	node := m.peers.node(id)
	if node == nil {
		return roster.Sight{}, false
	}
	b, err := m.question(ctx, id, node, []byte(askSight))
	if err != nil {
		m.cfg.Logger.Debug("a member does not say how it sees this node", "id", id.String(), "error", wire.Escape(err.Error(), wire.MaxLogText))
		return roster.Sight{}, false
	}
	return roster.DecodeSight(b)
}
