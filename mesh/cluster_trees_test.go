//go:build long

package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/internal/spread"
)

// Above spread.MaxDirect members, frames go along trees: each node passes a frame on at most once, and no node sends it
// to all.
func TestClusterTrees(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const nodes, frames = spread.MaxDirect + 20, 20
		c := newCluster(t, nodes, nil)
		eventually(t, 2*time.Minute, "everybody knows everybody", c.allAlive)
		eventually(t, time.Minute, "settled", func() bool { return sameDigest(c.nodes) })
		for i := range frames {
			publish(t, c.nodes[i], fmt.Sprint("from ", i), time.Hour)
		}
		start := time.Now()
		eventually(t, 5*time.Second, "every frame is everywhere", func() bool { return sameDigest(c.nodes) })
		took := time.Since(start)
		var sent, forwarded, synced, most uint64
		for _, n := range c.nodes {
			s := n.Stats()
			sent, forwarded, synced = sent+s.Sent, forwarded+s.Forwarded, synced+s.Synced
			most = max(most, s.Sent)
		}
		copies := float64(sent) / frames / (nodes - 1)
		t.Logf("everywhere after %v; %.2f copies per node, %d of %d passed on, %d by sync, the busiest sent %d", took, copies, forwarded, sent, synced, most)
		if copies > 1.1*spread.TreeCount || forwarded == 0 || synced > frames*nodes/100 {
			t.Errorf("%.2f copies per node, %d passed on, %d by sync", copies, forwarded, synced)
		}
	})
}

// The sizes at which a frame goes directly to everybody, once each. With more than spread.PassAbove members, each
// member passes a frame on to one other.
func TestClusterSizes(t *testing.T) {
	for _, nodes := range []int{10, 50, 100} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const frames = 10
				c := newCluster(t, nodes, nil)
				eventually(t, 2*time.Minute, "everybody knows everybody", c.allAlive)
				eventually(t, time.Minute, "settled", func() bool { return sameDigest(c.nodes) })
				start := time.Now()
				for i := range frames {
					publish(t, c.nodes[i], fmt.Sprint("from ", i), time.Hour)
				}
				eventually(t, 5*time.Second, "every frame is everywhere", func() bool { return sameDigest(c.nodes) })
				took := time.Since(start)
				<-time.After(10 * time.Second) // memberlist's queue runs dry
				var sent, received, synced, passed uint64
				for _, n := range c.nodes {
					s := n.Stats()
					sent, received, synced, passed = sent+s.Sent, received+s.Received, synced+s.Synced, passed+s.Forwarded
				}
				wanted := float64(frames * (nodes - 1))
				pushed, on, all := float64(sent-passed)/wanted, float64(passed)/wanted, float64(received)/wanted
				t.Logf("everywhere after %v; copies per node: %.2f by direct push, %.2f passed on, %.2f with everything", took, pushed, on, all)
				if pushed > 1.2 || on > 1 || on > 0 != (nodes-1 > spread.PassAbove) || all > 3 || synced > 0 {
					t.Errorf("copies per node: %.2f by direct push, %.2f passed on, %.2f with everything; %d by sync", pushed, on, all, synced)
				}
			})
		})
	}
}
