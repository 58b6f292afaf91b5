package mesh

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/pki"
)

// bothFamilies gives node i an address of the other family too, and makes it announce that.
func (c *cluster) bothFamilies(i int) netip.AddrPort {
	n := c.nodes[i]
	also := netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i + 1)}), 7946)
	c.hub.alias(c.addrs[i], also)
	n.place.also.Store(&signedAddr{also, n.id.SignText(placeText(n.cfg.Secrets.MeshID, also))})
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

// Nobody else can say where a member is reached, and what a member says fits.
func TestOtherAddressIsSigned(t *testing.T) {
	id, mesh := signers[0], [16]byte{1}
	addr, also := netip.MustParseAddrPort("192.0.2.1:7946"), netip.MustParseAddrPort("[2001:db8::1]:7946")
	m := meta{Protocol: protocolVersion, Key: id.Public(), Name: string(slices.Repeat([]byte("n"), pki.MaxName)), Version: string(slices.Repeat([]byte("v"), maxVersion)),
		Place: id.SignText(placeText(mesh, addr)), Also: also, AlsoProof: id.SignText(placeText(mesh, also))}
	m.say(id, 1<<63, 1<<63, 1<<31)
	b := m.encode()
	got, err := decodeMeta(b)
	if err != nil || got.Also != also || !got.isAt(mesh, addr) {
		t.Fatalf("decoded from %d bytes: %+v, %v", len(b), got, err)
	}
	for name, change := range map[string]func(*meta){
		"another address": func(m *meta) { m.Also = netip.MustParseAddrPort("[2001:db8::2]:7946") },
		"another port":    func(m *meta) { m.Also = netip.AddrPortFrom(also.Addr(), 22) },
		"another signer":  func(m *meta) { m.AlsoProof = signers[1].SignText(placeText(mesh, also)) },
	} {
		forged := got
		change(&forged)
		if again, err := decodeMeta(forged.encode()); err != nil || again.isAt(mesh, addr) {
			t.Errorf("%s is believed: %v", name, err)
		}
	}
	if _, err := decodeMeta(append(b, 0)); err == nil {
		t.Error("a byte too many is taken")
	}
}
