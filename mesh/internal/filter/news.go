package filter

import (
	"fmt"
	"net/netip"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// News of members is checked before memberlist takes it: one member that memberlist rejects, in any node's table, makes
// every membership exchange with that node fail.

// newsRate is how many new or changed members one address may report in a second, and newsBurst at once: a whole mesh.
// Verifying the signatures of each takes up to 0.2 ms, partly under memberlist's lock.
const newsRate, newsBurst = 200, wire.MaxMembers

// checkAlive returns what is wrong with a packet's news that a member is alive.
func (g *guard) checkAlive(b []byte, from netip.Addr) error {
	var a mlwire.AliveMessage
	if err := decode(b, &a); err != nil {
		return err
	}
	return g.checkMember(a.State(mlwire.StateAlive), from)
}

// checkAccusation decodes a packet's news that a member is suspect or dead, and returns what is wrong with it.
// memberlist ignores accusations of members that it does not know.
func (g *guard) checkAccusation(b []byte) (a mlwire.Accusation, err error) {
	if err := decode(b, &a); err != nil {
		return a, err
	}
	id, err := frame.ParseID(a.Node)
	if err != nil {
		return a, fmt.Errorf("%w: %w", errStreamKind, err)
	}
	most, self := g.ceiling(id)
	if a.Incarnation > most {
		return a, fmt.Errorf("%w: incarnation %d, want at most %d", errStreamKind, a.Incarnation, most)
	}
	if self {
		g.heard(a.Incarnation)
	}
	return a, nil
}

// doubt reports whether news that a member is dead should only make it suspect. Anyone with the mesh's key can send
// such news, and memberlist would believe it at once. A suspect has time to refute it; if it does not, each node
// declares it dead by itself. News that a member leaves is believed if it comes in the member's name and the member has
// signed a goodbye.
func (g *guard) doubt(a mlwire.Accusation) bool {
	return a.From != a.Node || !g.leaves(a.Node)
}

func (g *guard) leaves(name string) bool {
	id, err := frame.ParseID(name)
	return err == nil && g.leaving != nil && g.leaving(id)
}

func (g *guard) ceiling(id frame.ID) (most uint32, self bool) {
	if g.ceilingOf == nil {
		return meta.FirstCeiling, false
	}
	return g.ceilingOf(id)
}

// checkCeiling returns an error if news of a member has an incarnation above the member's ceiling. News that a member
// is alive brings its own metadata, whose signature is verified before the news counts. For other states, and for this
// node itself, memberlist keeps the metadata that it has, so a higher ceiling must be proven here.
func (g *guard) checkCeiling(id frame.ID, s mlwire.NodeState, m meta.Data) error {
	most, self := g.ceiling(id)
	above := s.Incarnation > most
	switch {
	case s.Incarnation > min(max(most, m.Ceiling), meta.MostCeiling), s.State == mlwire.StateAlive && s.Incarnation > m.Ceiling,
		above && (self || s.State != mlwire.StateAlive) && !m.Proven():
		return fmt.Errorf("%w: incarnation %d is above the member's ceiling", errStreamKind, s.Incarnation)
	case self:
		g.heard(s.Incarnation)
	}
	return nil
}

// checkMember returns why no member can be like s, or why from may not report it now.
func (g *guard) checkMember(s mlwire.NodeState, from netip.Addr) error {
	name, addr, port, about, versions := s.Name, s.Addr, s.Port, s.Meta, s.Vsn
	if string(versions) != string(mlwire.Versions[:]) {
		return fmt.Errorf("%w: a member of versions %v, want %v", errStreamKind, versions, mlwire.Versions)
	}
	a, ok := netip.AddrFromSlice(addr)
	if !ok || a.IsUnspecified() || a.IsMulticast() || port == 0 {
		return fmt.Errorf("%w: a member at address %x, port %d", errStreamKind, addr, port)
	}
	id, m, err := meta.Of(name, about)
	if err != nil {
		return fmt.Errorf("%w: %w", errStreamKind, err)
	}
	known := g.knows != nil && g.knows(id, netip.AddrPortFrom(a.Unmap(), port), about)
	if !known && !g.news.Take(g.now(), from, 1) {
		g.count.Limited.Add(1)
		return errStreamBudget
	}
	return g.checkCeiling(id, s, m)
}

// checkMembership checks each member in an exchange of n of them, which dec reads from b after its kind. If a member is
// said to have left but has not signed that, milder is the exchange with that member marked as dead: memberlist makes
// such a member suspect, as doubt requires. milder is nil if nothing was changed.
func (g *guard) checkMembership(dec *codec.Decoder, b []byte, n int, from netip.Addr) (milder []byte, err error) {
	kept := 0 // bytes of b that milder already covers
	for range n {
		at := 1 + dec.NumBytesRead()
		var s mlwire.NodeState
		if err := dec.Decode(&s); err != nil {
			return nil, fmt.Errorf("%w: %w", errStreamKind, err)
		}
		if err := g.checkMember(s, from); err != nil {
			return nil, err
		}
		if s.State != mlwire.StateLeft || g.leaves(s.Name) {
			continue
		}
		s.State = mlwire.StateDead
		text, err := mlwire.Encode(s)
		if err != nil {
			return nil, err
		}
		milder = append(append(milder, b[kept:at]...), text...)
		kept = 1 + dec.NumBytesRead()
	}
	if milder == nil {
		return nil, nil
	}
	return append(milder, b[kept:]...), nil
}
