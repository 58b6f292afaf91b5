package filter

import (
	"fmt"
	"net/netip"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/mlwire"
)

// A ping says where to send the answer and in whose name it was sent, and memberlist believes that. A captured node
// could thus flood another member, or a third party, with answers that carry this node's proof.

// memberlist takes any answer with the number of a ping for the answer of the node that it pinged, so anyone who knows
// or guesses the number could make a node that is down look alive. Only the node that was pinged can prove its answer.
// A third node cannot, so no node is asked to ping for another (memberlist's indirect pings).

// checkPing returns why a ping should not be answered. from is the account of the packet.
func (g *guard) checkPing(b []byte, from netip.Addr) error {
	var p mlwire.PingMessage
	if err := decode(b, &p); err != nil {
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
	if g.isElsewhere(from) && !g.strays.Take(g.now(), struct{}{}, 1) {
		g.count.Limited.Add(1)
		return errStreamBudget
	}
	return nil
}

// checkAck reports whether the answer to a ping comes from the node that was pinged.
func (g *guard) checkAck(b []byte) (genuine bool, err error) {
	var a mlwire.AckMessage
	if err := decode(b, &a); err != nil {
		return false, err
	}
	return g.acked == nil || g.acked(a.SeqNo, g.nonce, g.text), nil
}
