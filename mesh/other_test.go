package mesh

import (
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/internal/meta"
)

// bothFamilies gives node i an address of the other family too, and makes it announce that.
func (c *cluster) bothFamilies(i int) netip.AddrPort {
	n := c.nodes[i]
	also := netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i + 1)}), 7946)
	c.hub.alias(c.addrs[i], also)
	n.place.also.Store(&signedAddr{also, n.id.SignText(meta.PlaceText(n.cfg.Secrets.MeshID, also))})
	wake(n.keys.say)
	return also
}

// sendsTo returns the address to which a node sends what is meant for another.
func (n *testNode) sendsTo(other *testNode) (at netip.AddrPort) {
	n.peers.update(other.id.ID(), func(p *peer) { at = p.addrInUse() })
	return at
}

// A node that has only IPv6 is a full member among nodes that advertise IPv4 and have both: it advertised to them, heard
// from them, and could answer nobody. Nodes with both go on by the other family when one fails, and return.
func TestMembersOfOneFamily(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 2, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		first, second := c.bothFamilies(0), c.bothFamilies(1)
		<-time.After(2 * time.Second)
		if at := c.nodes[1].sendsTo(c.nodes[0]); at != c.addrs[0] {
			t.Errorf("%v is used while %v answers", at, c.addrs[0])
		}

		only := netip.MustParseAddrPort("[fd00::99]:7946")
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == only && to.Addr().Is4() })
		c.addrs = append(c.addrs, only)
		c.nodes = append(c.nodes, c.start(t, 2, newIdentity(t), func(_ int, cfg *Config) { cfg.Join = []string{first.String()} }))
		same := func() bool { return c.allAlive() && sameDigest(c.nodes) }
		eventually(t, 10*time.Second, "the one with IPv6 is a member", same)
		<-time.After(time.Minute)
		if !same() {
			t.Error("a minute later it is not")
		}
		for i, addr := range []netip.AddrPort{first, second} {
			if at := c.nodes[2].sendsTo(c.nodes[i]); at != addr {
				t.Errorf("it sends to %v, want %v", at, addr)
			}
		}
		publish(t, c.nodes[0], "by the first", time.Hour)
		publish(t, c.nodes[2], "by the one with IPv6", time.Hour)
		<-time.After(50 * time.Millisecond) // pushed: a sync takes longer
		if !same() {
			t.Error("its bans, or those for it, are not pushed")
		}

		// Then nothing gets through by IPv4.
		c.hub.setCut(func(_, to netip.AddrPort) bool { return to.Addr().Is4() })
		publish(t, c.nodes[0], "lost by IPv4", time.Hour)
		publish(t, c.nodes[1], "lost too", time.Hour)
		eventually(t, 10*time.Second, "the others use IPv6 too", func() bool {
			return c.nodes[0].sendsTo(c.nodes[1]) == second && c.nodes[1].sendsTo(c.nodes[0]) == first
		})
		<-time.After(time.Minute)
		if !same() {
			t.Error("a minute without IPv4, and the mesh is not whole")
		}
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == only && to.Addr().Is4() })
		eventually(t, 2*askWaits[len(askWaits)-1], "they return to the addresses that they advertise", func() bool {
			return c.nodes[0].sendsTo(c.nodes[1]) == c.addrs[1] && c.nodes[1].sendsTo(c.nodes[0]) == c.addrs[0]
		})
		if !same() {
			t.Error("the mesh is not whole in the end")
		}
	})
}
