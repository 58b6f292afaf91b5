package mesh

import (
	"fmt"
	"net/netip"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// What is said of members is looked at before memberlist takes it: one member that memberlist cannot bear, in the table of any
// node, fails every exchange of the membership with that node.

// mlVersions are the protocol versions that a member speaks: least, most and current of memberlist's protocol, and the same
// of ours inside it, which is not used. memberlist exchanges no membership with a node unless all members that both know
// understand one another's. Source: memberlist v0.7.0, net.go (ProtocolVersionMin, ProtocolVersionMax,
// ProtocolVersion2Compatible) and memberlist.go (verifyProtocol).
var mlVersions = [...]byte{1, 5, 2, 0, 0, 0}

// mlStateAlive is the state of a member that is alive. Source: memberlist v0.7.0, state.go.
const mlStateAlive = 0

// mlAliveMessage is what memberlist says of a member that has come. Source: memberlist v0.7.0, net.go (alive).
type mlAliveMessage struct {
	Incarnation uint32
	Node        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Vsn         []byte
}

// mlNodeState is a member in an exchange of the membership. Source: memberlist v0.7.0, net.go (pushNodeState).
type mlNodeState struct {
	Name        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Incarnation uint32
	State       int
	Vsn         []byte
}

// mlAccusation is what memberlist says of a member that is suspect, dead or has left. Source: memberlist v0.7.0, net.go
// (suspect, dead).
type mlAccusation struct {
	Incarnation uint32
	Node        string
	From        string
}

// checkAlive says what is wrong with a packet's news of a member.
func (g *guard) checkAlive(b []byte) error {
	var a mlAliveMessage
	if err := mlDecode(b, &a); err != nil {
		return err
	}
	return g.checkMember(mlNodeState{a.Node, a.Addr, a.Port, a.Meta, a.Incarnation, mlStateAlive, a.Vsn})
}

// checkAccusation says what is wrong with a packet's word that a member is suspect or dead. memberlist takes none of members
// that it does not know.
func (g *guard) checkAccusation(b []byte) error {
	var a mlAccusation
	if err := mlDecode(b, &a); err != nil {
		return err
	}
	id, err := ParseID(a.Node)
	if err != nil {
		return fmt.Errorf("%w: %w", errStreamKind, errRefuseName)
	}
	most, self := g.ceiling(id)
	if a.Incarnation > most {
		return fmt.Errorf("%w: incarnation %d, want at most %d", errStreamKind, a.Incarnation, most)
	}
	if self {
		g.heard(a.Incarnation)
	}
	return nil
}

func (g *guard) ceiling(id ID) (most uint32, self bool) {
	if g.ceilingOf == nil {
		return firstCeiling, false
	}
	return g.ceilingOf(id)
}

// checkCeiling says why a member with this metadata cannot be spoken of like that. Who is alive is taken at its own word,
// whose signature is looked at before it counts. For others memberlist keeps the word that it has.
func (g *guard) checkCeiling(id ID, s mlNodeState, m meta) error {
	most, self := g.ceiling(id)
	above := s.Incarnation > most
	switch {
	case s.Incarnation > min(max(most, m.Ceiling), mostCeiling), s.State == mlStateAlive && s.Incarnation > m.Ceiling,
		above && (self || s.State != mlStateAlive) && !m.proven():
		return fmt.Errorf("%w: incarnation %d is above the member's ceiling", errStreamKind, s.Incarnation)
	case self:
		g.heard(s.Incarnation)
	}
	return nil
}

// checkMember says why no member is like that.
func (g *guard) checkMember(s mlNodeState) error {
	name, addr, port, about, versions := s.Name, s.Addr, s.Port, s.Meta, s.Vsn
	if string(versions) != string(mlVersions[:]) {
		return fmt.Errorf("%w: a member of versions %v, want %v", errStreamKind, versions, mlVersions)
	}
	id, err := ParseID(name)
	if err != nil {
		return fmt.Errorf("%w: %w", errStreamKind, errRefuseName)
	}
	if a, ok := netip.AddrFromSlice(addr); !ok || a.IsUnspecified() || a.IsMulticast() || port == 0 {
		return fmt.Errorf("%w: a member at address %x, port %d", errStreamKind, addr, port)
	}
	m, err := decodeMeta(about)
	if err != nil {
		return fmt.Errorf("%w: %w", errStreamKind, err)
	}
	if IDOf(m.Key) != id {
		return fmt.Errorf("%w: %w", errStreamKind, errRefuseKey)
	}
	return g.checkCeiling(id, s, m)
}

// checkMembership looks at each member in an exchange of n of them, behind its head.
func (g *guard) checkMembership(dec *codec.Decoder, n int) error {
	for range n {
		var s mlNodeState
		if err := dec.Decode(&s); err != nil {
			return fmt.Errorf("%w: %w", errStreamKind, err)
		}
		if err := g.checkMember(s); err != nil {
			return err
		}
	}
	return nil
}
