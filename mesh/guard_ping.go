package mesh

import (
	"fmt"
	"net/netip"

	"github.com/meshban/meshban/mesh/frame"
)

// A ping says where to send the answer and in whose name it was sent, and memberlist believes that. A captured node
// could have the answers, which are proven to be this node's, flood another member, or a third party.

// mlPingMessage is memberlist's ping, and its request to ping another node and to report that. Source: memberlist
// v0.7.0, net.go (ping, indirectPingReq).
type mlPingMessage struct {
	SeqNo      uint32
	Target     []byte
	Port       uint16
	Node       string
	SourceAddr []byte
	SourcePort uint16
	SourceNode string
}

// checkPing returns why a ping should not be answered, or not be made for another node. from is the account of the
// packet.
func (g *guard) checkPing(kind byte, b []byte, from netip.Addr) error {
	var p mlPingMessage
	if err := mlDecode(b, &p); err != nil {
		return err
	}
	proven := g.sender != frame.ID{}
	if proven && p.SourceNode != g.sender.String() {
		return fmt.Errorf("%w: a ping in another's name", errStreamKind)
	}
	if a, ok := netip.AddrFromSlice(p.SourceAddr); ok && g.isMember != nil {
		a = a.Unmap()
		switch { // a member may send from another address than it states, as behind NAT, and then proves nothing
		case sourceAddr(a) == sourceAddr(g.source), proven && g.answers(g.sender, a), !proven && g.isMember(a):
		default:
			return fmt.Errorf("%w: a ping that wants its answer elsewhere", errStreamKind)
		}
	}
	now := g.now()
	if kind == mlPingFor {
		if a, ok := netip.AddrFromSlice(p.Target); !ok || g.isElsewhere(a.Unmap()) {
			return fmt.Errorf("%w: a ping to where no member has answered", errStreamKind)
		}
	}
	if g.isElsewhere(from) && !g.strays.take(now, struct{}{}, 1) || kind == mlPingFor && !g.relays.take(now, from, 1) {
		g.count.limited.Add(1)
		return errStreamBudget
	}
	return nil
}
