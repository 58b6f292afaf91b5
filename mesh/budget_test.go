//go:build long

package mesh

import (
	"crypto/rand"
	"testing"
	"time"
)

// The bytes that ten nodes put on the wire while idle, and for one ban.
func TestWireBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const (
			nodes   = 10
			maxIdle = 400  // B/s per node, both directions
			maxBan  = 5000 // B in all, sent
			ban     = 55   // payload that makes a frame of about 200 B
		)
		c := newCluster(t, nodes, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		<-time.After(2 * time.Minute)
		const idle = time.Hour
		before, checks := c.hub.wire(), c.checks()
		for range int(idle / time.Second) {
			<-time.After(time.Second)
			for i, n := range c.nodes {
				for _, m := range n.Members() {
					if !m.InSync {
						t.Fatalf("node %d takes %s to be out of sync, in sync last at %v", i, m.Name, m.Confirmed)
					}
				}
			}
		}
		if c.checks() != checks {
			t.Error("pings alone did not settle the comparisons")
		}
		perNode := float64(c.hub.wire()-before) / nodes / idle.Seconds()
		t.Logf("idle: %.0f B/s per node", perNode)
		if perNode > maxIdle {
			t.Errorf("idle: %.0f B/s per node, want at most %d", perNode, maxIdle)
		}

		const bans, apart = 100, 5 * time.Second
		payload := make([]byte, ban)
		_, _ = rand.Read(payload)
		before = c.hub.wire()
		size := 0
		for i := range bans {
			size = len(publish(t, c.nodes[i%nodes], string(payload), time.Hour).Raw)
			<-time.After(apart)
		}
		rest := perNode * nodes * bans * apart.Seconds()
		perBan := (float64(c.hub.wire()-before) - rest) / 2 / bans
		t.Logf("a frame of %d B: %.0f B on the wire", size, perBan)
		if perBan > maxBan {
			t.Errorf("%.0f B on the wire per ban, want at most %d", perBan, maxBan)
		}
		for i, n := range c.nodes {
			if s := n.Stats(); s.Synced > 0 || s.Syncs > 0 {
				t.Errorf("node %d: %d syncs though nothing was lost", i, s.Syncs)
			}
		}
	})
}

// checks returns how many checks the nodes have sent.
func (c *cluster) checks() (sum uint64) {
	for _, n := range c.nodes {
		n.mu.Lock()
		sum += n.core.Usage().Checks
		n.mu.Unlock()
	}
	return sum
}
