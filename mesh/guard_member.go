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

// checkAlive says what is wrong with a packet's news of a member.
func checkAlive(b []byte) error {
	var a mlAliveMessage
	if err := mlDecode(b, &a); err != nil {
		return err
	}
	return checkMember(a.Node, a.Addr, a.Port, a.Meta, a.Vsn)
}

// checkMember says why no member is like that.
func checkMember(name string, addr []byte, port uint16, about, versions []byte) error {
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
	return nil
}

// checkMembership looks at each member in an exchange of n of them, behind its head.
func checkMembership(dec *codec.Decoder, n int) error {
	for range n {
		var s mlNodeState
		if err := dec.Decode(&s); err != nil {
			return fmt.Errorf("%w: %w", errStreamKind, err)
		}
		if err := checkMember(s.Name, s.Addr, s.Port, s.Meta, s.Vsn); err != nil {
			return err
		}
	}
	return nil
}
