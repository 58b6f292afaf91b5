package mesh

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

const clusterSize = 20

func TestClusterPublishReachesAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, clusterSize, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 30*time.Second, "settled", func() bool { return sameDigest(c.nodes) })
		start := time.Now()
		for i, n := range c.nodes {
			publish(t, n, fmt.Sprint("from ", i), time.Hour)
		}
		eventually(t, time.Second, "every frame is everywhere", func() bool {
			for _, n := range c.nodes {
				if n.deliveredCount() != clusterSize-1 {
					return false
				}
			}
			return true
		})
		t.Logf("everywhere after %v", time.Since(start))
		for i, n := range c.nodes {
			if s := n.Stats(); s.Forwarded > clusterSize-1 || s.Synced != 0 {
				t.Errorf("node %d passed %d frames on and got %d by sync", i, s.Forwarded, s.Synced)
			}
		}
	})
}

func TestClusterRestartCatchesUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 5, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		for i := range 10 {
			publish(t, c.nodes[i%5], fmt.Sprint("before ", i), time.Hour)
		}
		eventually(t, 5*time.Second, "everywhere", func() bool { return sameDigest(c.nodes) })
		old := c.nodes[4]
		if err := old.stop(); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			publish(t, c.nodes[i%4], fmt.Sprint("missed ", i), time.Hour)
		}
		publish(t, c.nodes[0], "over before it is back", time.Second)
		<-time.After(5 * time.Second)
		back := c.again(t, 4, old.remember)
		start := time.Now()
		eventually(t, 10*time.Second, "it has what it missed", func() bool { return sameDigest(c.nodes) })
		t.Logf("in sync after %v", time.Since(start))
		if got := back.deliveredCount(); got != 10 {
			t.Errorf("delivered %d frames, want the 10 that it missed", got)
		}
		f := publish(t, back, "again", time.Hour)
		if f.Epoch != 2 || f.Seq != 1 {
			t.Errorf("published as %d/%d, want 2/1", f.Epoch, f.Seq)
		}
		eventually(t, 5*time.Second, "the new frame is everywhere", func() bool { return sameDigest(c.nodes) })
	})
}

// A node whose store lost frames of its own gets them back.
func TestClusterGivesBackOwnFrames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		lost := publish(t, c.nodes[2], "lost", time.Hour)
		eventually(t, 5*time.Second, "everywhere", func() bool { return sameDigest(c.nodes) })
		id := c.nodes[2].id
		if err := c.nodes[2].stop(); err != nil {
			t.Fatal(err)
		}
		back := newNode(t, c.secrets, id, c.config(2, func(_ int, cfg *Config) { cfg.Epoch = 2 })).run(t)
		eventually(t, 10*time.Second, "it is back", func() bool { return back.deliveredCount() == 1 })
		if back.delivered[0].Ref() != lost.Ref() {
			t.Errorf("delivered %v, want %v", back.delivered[0].Ref(), lost.Ref())
		}
		if p := back.problemsSeen(); len(p) != 0 {
			t.Errorf("problems %q", p)
		}
	})
}

func TestClusterLosesNoFrameForLong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 10, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 60*time.Second, "settled", func() bool { return sameDigest(c.nodes) })
		worst := time.Duration(0)
		for round := range 10 {
			deaf := c.addrs[1+round%9]
			c.hub.setCut(func(_, to netip.AddrPort) bool { return to == deaf })
			publish(t, c.nodes[0], fmt.Sprint("missed by one ", round), time.Hour)
			<-time.After(time.Millisecond)
			c.hub.setCut(nil)
			start := time.Now()
			eventually(t, 10*time.Second, "repaired", func() bool { return sameDigest(c.nodes) })
			worst = max(worst, time.Since(start))
		}
		t.Logf("worst repair %v", worst)
		if worst > 3*time.Second {
			t.Errorf("a lost frame was repaired only after %v", worst)
		}
	})
}
