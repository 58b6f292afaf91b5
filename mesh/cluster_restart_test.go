package mesh

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// restore loads a starting node's store.
func restore(t *testing.T, n *testNode, stored map[frame.Ref][]byte) {
	t.Helper()
	if err := n.Restore(maps.Values(stored)); err != nil {
		t.Fatal(err)
	}
}

// again restarts the stopped node i from its disk. It no longer has a join list, only the peers that it remembers.
func (c *cluster) again(t *testing.T, i int, peers []Peer) *testNode {
	t.Helper()
	old := c.nodes[i]
	n := newNode(t, c.secrets, old.id, c.config(i, func(_ int, cfg *Config) {
		cfg.Epoch, cfg.Join, cfg.Peers = old.cfg.Epoch+1, nil, peers
	}))
	restore(t, n, old.stored)
	c.nodes[i] = n.run(t)
	return n
}

// move gives node i another address.
func (c *cluster) move(i int) {
	c.addrs[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, byte(i)}), 7946)
}

// settled waits until all nodes know each other and hold a frame from each.
func (c *cluster) settled(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
	for i, n := range c.nodes {
		publish(t, n, fmt.Sprint("from ", i), time.Hour)
	}
	eventually(t, 10*time.Second, "everywhere", func() bool { return sameDigest(c.nodes) })
	<-time.After(2 * rememberEvery)
}

func (c *cluster) oneMesh() bool { return c.allAlive() && sameDigest(c.nodes) }

// The nodes restart one after another, each at a new address, as when machines are replaced, while the others go on
// banning: in the end no node is where it was first known to be.
func TestClusterRollingRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const nodes = 8
		c := newCluster(t, nodes, nil)
		c.settled(t)
		for i, n := range c.nodes {
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
			missed := publish(t, c.nodes[(i+1)%nodes], fmt.Sprint("missed by ", i), time.Hour)
			<-time.After(3 * time.Second)
			c.move(i)
			back := c.again(t, i, n.remember)
			eventually(t, 30*time.Second, fmt.Sprint("node ", i, " is back"), c.oneMesh)
			if back.deliveredCount() != 1 || back.delivered[0].Ref() != missed.Ref() {
				t.Errorf("node %d was given %d frames, want the one that it missed", i, back.deliveredCount())
			}
		}
		eventually(t, time.Second, "one mesh", c.oneMesh)
		if got := c.nodes[0].Stats().Held; got != 2*nodes {
			t.Errorf("%d frames are held, want %d", got, 2*nodes)
		}
		for i, n := range c.nodes {
			if p := n.problemsSeen(); len(p) > 0 {
				t.Errorf("node %d reports %q", i, p)
			}
		}
	})
}
