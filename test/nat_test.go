//go:build linux && netns

package test

import (
	"net/netip"
	"testing"
	"time"
)

// pingLimit is how long a connection that is cut or refused must stay silent.
const pingLimit = 500 * time.Millisecond

// A ban also protects hosts that a node forwards to, such as containers, and cuts
// established connections.
func TestContainersAndConnections(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	n := m.nodes[1]
	c := must(m.AddContainer(n.Node, map[uint16]uint16{8080: 80, 8081: 81}))(t)
	c.Echo(t, netip.AddrPortFrom(c.Addr, 80))
	own := netip.AddrPortFrom(n.Probe, 7)
	n.Echo(t, own)

	src, good := fresh(), fresh()
	inside := m.watchNode(t, src, n, 8081) // the container's own kernel answers
	other := m.watchNode(t, good, n, 8081)
	through := m.Connect(t, src, netip.AddrPortFrom(n.Probe, 8080))
	direct := m.Connect(t, src, own)
	stays := m.Connect(t, good, netip.AddrPortFrom(n.Probe, 8080))

	enforced(t, inside, m.nodes[0].write(t, src, "22"))
	if err := through.Ping(pingLimit); err == nil {
		t.Error("the connection into the container still talks")
	}
	if err := direct.Ping(pingLimit); err == nil {
		t.Error("the connection to the node still talks")
	}
	if _, err := m.Attacker.DialWithin(src, netip.AddrPortFrom(n.Probe, 8080), pingLimit); err == nil {
		t.Error("the attacker connects to the container")
	}
	answering(t, other)
	check(t, stays.Ping(banLimit))

	start := time.Now()
	m.nodes[2].run(t, "unban", src.String())
	open(t, inside, start, banLimit)
	again := m.Connect(t, src, netip.AddrPortFrom(n.Probe, 8080))
	check(t, again.Ping(banLimit))
}
