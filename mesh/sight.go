package mesh

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/meshban/meshban/mesh/frame"
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
	// sightLen is the length of an answer in bytes: whether the node is reached at its advertised address, and its
	// address.
	sightLen = 1 + 16
	// askSight is the question.
	askSight = "where am I?"
)

// sight is how a member sees this node.
type sight struct {
	reached bool       // it answers at its advertised address
	from    netip.Addr // source address of its streams
}

func (s sight) encode() []byte {
	a := s.from.As16()
	return append([]byte{byte(wire.Flag(s.reached))}, a[:]...)
}

func decodeSight(b []byte) (s sight, ok bool) {
	if len(b) != sightLen || b[0] > 1 {
		return s, false
	}
	return sight{b[0] == 1, netip.AddrFrom16([16]byte(b[1:])).Unmap()}, true
}

// sightOf returns how this node sees the node behind a stream.
func (m *Mesh) sightOf(id frame.ID, remote net.Addr) sight {
	s := sight{from: netip.IPv6Unspecified()}
	if a, ok := remote.(*net.TCPAddr); ok {
		s.from = a.AddrPort().Addr().Unmap().WithZone("")
	}
	m.peers.update(id, func(p *peer) { s.reached = (p.isProved(p.Addr) || p.viaAlso) && p.State == StateAlive })
	return s
}

// fault returns what is wrong with how a member sees this node, which advertises own and is bound to a port; "" if
// nothing is.
func (s sight) fault(member string, own netip.AddrPort, port uint16) string {
	at := netip.AddrPortFrom(s.from, port)
	switch {
	case s.reached:
		return ""
	case s.from.IsUnspecified(), at == own:
		return fmt.Sprintf("%s gets no answer from this node at %v, which it advertises: let that port in, for TCP and UDP", member, own)
	}
	return fmt.Sprintf("%s sees this node at %v, and gets no answer at %v, which it advertises: write `advertise: %v` into meshban.yaml and restart the agent; "+
		"behind NAT, forward that port to this machine for TCP and UDP", member, s.from, own, at)
}

// sighted is how a member sees this node.
type sighted struct {
	by frame.ID
	sight
}

// mostSee returns how most members see this node: that they reach it unless more than half do not, and then at the
// address that most of those name.
func mostSee(said []sighted) (most sighted) {
	votes, unreached := make(map[netip.Addr]int), 0
	for _, s := range said {
		if !s.reached {
			votes[s.from]++
			unreached++
		}
	}
	if 2*unreached <= len(said) {
		return sighted{sight: sight{reached: true}}
	}
	for _, s := range said {
		if !s.reached && votes[s.from] > votes[most.from] {
			most = s
		}
	}
	return most
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
		s := mostSee(said)
		if text := s.fault(s.by.String(), own, cmp.Or(m.cfg.Bind.Port(), own.Port())); text != "" {
			told, good = true, 0 // the same are asked again, so that the text stays the same
			m.setFault(ProblemSeen, text)
			m.place.unreached.Store(s.from != own.Addr())
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
func (m *Mesh) seenBy(ctx context.Context, ids []frame.ID, turn int) (said []sighted) {
	if !m.cfg.Secrets.HasAuthority() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	answers := make([]sighted, min(sightPanel, len(ids)))
	good := make([]bool, len(answers))
	var asking sync.WaitGroup
	for i := range answers {
		id := ids[(turn*sightPanel+i)%len(ids)]
		asking.Go(func() {
			s, ok := m.sightBy(ctx, id)
			answers[i], good[i] = sighted{id, s}, ok
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
func (m *Mesh) sightBy(ctx context.Context, id frame.ID) (sight, bool) {
	node := m.peers.node(id)
	if node == nil {
		return sight{}, false
	}
	b, err := m.question(ctx, id, node, []byte(askSight))
	if err != nil {
		m.cfg.Logger.Debug("a member does not say how it sees this node", "id", id.String(), "error", wire.Escape(err.Error(), wire.MaxLogText))
		return sight{}, false
	}
	return decodeSight(b)
}
