package roster

import (
	"fmt"
	"net/netip"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// sightLen is the length of an answer in bytes: whether the node is reached at its advertised address, and its address.
const sightLen = 1 + 16

// Sight is how a member sees this node.
type Sight struct {
	Reached bool       // it answers at its advertised address
	From    netip.Addr // source address of its streams
}

// Encode returns an answer.
func (s Sight) Encode() []byte {
	a := s.From.As16()
	return append([]byte{byte(wire.Flag(s.Reached))}, a[:]...)
}

// DecodeSight decodes what Encode wrote.
func DecodeSight(b []byte) (s Sight, ok bool) {
	if len(b) != sightLen || b[0] > 1 {
		return s, false
	}
	return Sight{b[0] == 1, netip.AddrFrom16([16]byte(b[1:])).Unmap()}, true
}

// Fault returns what is wrong with how a member sees this node, which advertises own and is bound to a port; "" if
// nothing is.
func (s Sight) Fault(member string, own netip.AddrPort, port uint16) string {
	at := netip.AddrPortFrom(s.From, port)
	switch {
	case s.Reached:
		return ""
	case s.From.IsUnspecified(), at == own:
		return fmt.Sprintf("%s gets no answer from this node at %v, which it advertises: let that port in, for TCP and UDP", member, own)
	}
	return fmt.Sprintf("%s sees this node at %v, and gets no answer at %v, which it advertises: write `advertise: %v` into meshban.yaml and restart the agent; "+
		"behind NAT, forward that port to this machine for TCP and UDP", member, s.From, own, at)
}

// Sighted is how a member sees this node.
type Sighted struct {
	By frame.ID
	Sight
}

// MostSee returns how most members see this node: that they reach it unless more than half do not, and then at the
// address that most of those name.
func MostSee(said []Sighted) (most Sighted) {
	votes, unreached := make(map[netip.Addr]int), 0
	for _, s := range said {
		if !s.Reached {
			votes[s.From]++
			unreached++
		}
	}
	if 2*unreached <= len(said) {
		return Sighted{Sight: Sight{Reached: true}}
	}
	for _, s := range said {
		if !s.Reached && votes[s.From] > votes[most.From] {
			most = s
		}
	}
	return most
}
