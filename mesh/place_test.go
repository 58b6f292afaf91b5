package mesh

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/pki"
)

// placed makes a node that listens on all addresses and has the address that the test sets: one of loopback, or none.
func placed(t *testing.T, secrets pki.Secrets, at string, join ...string) (*testNode, func(string)) {
	t.Helper()
	n := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Bind, c.Join = netip.MustParseAddrPort("0.0.0.0:0"), join })
	var now atomic.Value
	now.Store(at)
	n.place.find = func() (netip.AddrPort, string) {
		if at := now.Load().(string); at != "" {
			return netip.AddrPortFrom(netip.MustParseAddr(at), 0), ""
		}
		return netip.AddrPort{}, "no address here"
	}
	return n, func(at string) { now.Store(at) }
}

// sees reports whether a node lists another one as alive at an address.
func (n *testNode) sees(other *testNode, at string) bool {
	return slices.ContainsFunc(n.Members(), func(m Member) bool {
		return m.ID == other.id.ID() && m.State == StateAlive && m.Addr.Addr() == netip.MustParseAddr(at)
	})
}

// crosses checks that a frame of each node reaches all others.
func crosses(t *testing.T, text string, nodes ...*testNode) {
	t.Helper()
	for _, n := range nodes {
		publish(t, n, text, time.Hour)
	}
	eventually(t, 30*time.Second, text+": all frames are everywhere", func() bool { return sameDigest(nodes) })
}

// memberlist takes the node's own address when it is created, so a node whose address changed used to be lost until its
// restart.
func TestANewAddressIsFollowed(t *testing.T) {
	t.Parallel()
	secrets := newSecrets(t)
	first := newNode(t, secrets, newIdentity(t), nil).run(t)
	second := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Join = []string{first.Addr().String()} }).run(t)
	n, move := placed(t, secrets, "127.0.0.21", first.Addr().String())
	n.run(t)
	settled := func(at string) {
		t.Helper()
		eventually(t, 30*time.Second, "all see the node at "+at, func() bool {
			return first.sees(n, at) && second.sees(n, at) && n.aliveCount() == 3
		})
	}
	settled("127.0.0.21")
	crosses(t, "before", first, second, n)
	port, epoch := n.Addr().Port(), n.Epoch()
	for _, at := range []string{"127.0.0.22", "127.0.0.21"} {
		move(at)
		settled(at)
		if got := n.Addr(); got.String() != netip.AddrPortFrom(netip.MustParseAddr(at), port).String() {
			t.Errorf("at %v", got)
		}
		crosses(t, "at "+at, first, second, n)
	}
	if n.Epoch() != epoch {
		t.Errorf("epoch %d, was %d: it began anew", n.Epoch(), epoch)
	}
}

// Without an address there is no mesh yet, but the node works and says what is missing. The mesh starts once there is an
// address. When the address goes, the node keeps what it has and waits.
func TestANodeWithoutAnAddressWaits(t *testing.T) {
	t.Parallel()
	secrets := newSecrets(t)
	first := newNode(t, secrets, newIdentity(t), nil).run(t)
	n, move := placed(t, secrets, "", first.Addr().String())
	n.run(t)
	if got := n.fault(ProblemAddress); got != "no address here" {
		t.Errorf("fault %q", got)
	}
	if _, err := n.NewInvite(1, time.Hour, pki.Caps{}); err == nil || !strings.Contains(err.Error(), "no address here") {
		t.Errorf("an invitation: %v", err)
	}
	publish(t, n, "alone", time.Hour)
	move("127.0.0.24")
	eventually(t, 30*time.Second, "the node has come", func() bool { return first.sees(n, "127.0.0.24") && n.fault(ProblemAddress) == "" })
	eventually(t, 30*time.Second, "what it said alone has come", func() bool { return sameDigest([]*testNode{first, n}) })
	move("")
	eventually(t, 30*time.Second, "the fault is told", func() bool { return n.fault(ProblemAddress) != "" })
	move("127.0.0.24")
	eventually(t, 30*time.Second, "the fault is over", func() bool { return n.fault(ProblemAddress) == "" })
	crosses(t, "after", first, n)
}

// A bind address that the machine does not have used to end the agent.
func TestBindWithoutItsAddress(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), func(c *Config) { c.Bind = netip.MustParseAddrPort("192.0.2.77:0") }).run(t)
	if got := n.fault(ProblemAddress); !strings.Contains(got, "bind (192.0.2.77)") || !strings.Contains(got, "restart") {
		t.Errorf("fault %q", got)
	}
	publish(t, n, "alone", time.Hour)
}

// One member that says that it does not reach this node does not move it to where this node reaches nobody else.
func TestOneMemberDoesNotMoveANode(t *testing.T) {
	v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	for i, at := range []netip.Addr{v6, v6, v4} { // the last one sorts before the others
		id := newIdentity(t)
		node := (&peer{Member: Member{ID: id.ID(), Addr: netip.AddrPortFrom(at, uint16(7001+i))}}).node()
		node.Meta = meta.Data{Protocol: meta.Protocol, Key: id.Public(), Name: "member", Version: "1"}.Encode()
		n.peers.joined(n.now(), node, memberJoin)
		n.peers.addressProved(n.now(), id.ID(), nodeAddr(node))
	}
	n.place.unreached.Store(true)
	for _, now := range []netip.Addr{v6, {}, v4} {
		if got := n.pickAddr(now, []netip.Addr{v4, v6}); got != v6 {
			t.Errorf("from %v to %v, want %v, from where it reaches most", now, got, v6)
		}
	}
}
