//go:build long

package mesh

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestClusterPartitionHeals(t *testing.T) {
	for _, tt := range []struct {
		nodes  int
		cut    time.Duration
		inSync time.Duration // limit, from when the link is back
	}{
		{3, 5 * time.Second, 10 * time.Second},
		{3, 60 * time.Second, 10 * time.Second},
		{clusterSize, 30 * time.Second, 15 * time.Second},
		{clusterSize, 60 * time.Second, 15 * time.Second},
		{10, time.Hour, 15 * time.Second},
	} {
		t.Run(fmt.Sprintf("%d nodes, %v", tt.nodes, tt.cut), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newCluster(t, tt.nodes, nil)
				eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
				left := func(a netip.AddrPort) bool { return int(a.Addr().As4()[3]) < (tt.nodes+1)/2 }
				c.hub.setCut(func(from, to netip.AddrPort) bool { return left(from) != left(to) })
				<-time.After(tt.cut / 2)
				for i, n := range c.nodes {
					publish(t, n, fmt.Sprint("from ", i), 2*time.Hour)
				}
				<-time.After(tt.cut / 2)
				c.hub.setCut(nil)
				start := time.Now()
				eventually(t, tt.inSync, "frames cross", func() bool { return sameDigest(c.nodes) })
				inSync := time.Since(start)
				eventually(t, time.Minute, "everybody knows everybody again", c.allAlive)
				t.Logf("in sync %v, all alive %v after the link is back", inSync, time.Since(start))
				for i, n := range c.nodes {
					if got := n.deliveredCount(); got != tt.nodes-1 {
						t.Errorf("node %d got %d frames, want %d", i, got, tt.nodes-1)
					}
				}
			})
		})
	}
}

// No frame of an agent that publishes at its fastest is dropped, though gossip repeats some in its name: a drop delays a
// fresh ban by up to two seconds.
func TestClusterLimitsNoAgent(t *testing.T) {
	const atOnce, rest = 20, 250 * time.Millisecond // see daemon/pace.go
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 10, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 60*time.Second, "settled", func() bool { return sameDigest(c.nodes) })
		for round := range 200 {
			for i := range atOnce {
				publish(t, c.nodes[0], fmt.Sprint(round, " ", i), time.Hour)
			}
			<-time.After(rest)
		}
		for i, n := range c.nodes {
			if s := n.Stats(); s.Limited > 0 || s.Synced > 0 {
				t.Errorf("node %d dropped %d packets, and got %d frames by sync", i, s.Limited, s.Synced)
			}
		}
	})
}

// One seed has one history, byte for byte, including what is sent and the order in which frames are dropped.
func TestSimulatorRepeats(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		a, b := simulate(seed, nil), simulate(seed, nil)
		if x, y := a.history.Sum(nil), b.history.Sum(nil); string(x) != string(y) {
			t.Errorf("seed %d has two histories: %x and %x", seed, x[:8], y[:8])
		}
	}
}
