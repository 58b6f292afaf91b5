package mesh

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/transport"
)

func hasProblem(n *testNode, kind Problem, text string) bool {
	return slices.ContainsFunc(n.problemsSeen(), func(p string) bool {
		return strings.HasPrefix(p, string(kind)+": ") && strings.Contains(p, text)
	})
}

func findMember(n *testNode, id frame.ID) Member {
	for _, m := range n.Members() {
		if m.ID == id {
			return m
		}
	}
	return Member{State: 99}
}

// A copied state folder puts the same key at two addresses. Both machines report it and name the other.
func TestClusterNamesClone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		c.addrs = append(c.addrs, netip.MustParseAddrPort("10.7.7.7:7946"))
		clone := c.start(t, 3, c.nodes[1].id, nil)
		eventually(t, 60*time.Second, "the clone hears of the original", func() bool {
			return hasProblem(clone, ProblemClone, c.addrs[1].String())
		})
		eventually(t, 60*time.Second, "the original hears of the clone", func() bool {
			return hasProblem(c.nodes[1], ProblemClone, c.addrs[3].String())
		})
		if n := len(clone.problemsSeen()); n > 3 {
			t.Errorf("%d reports within a minute", n)
		}
	})
}

// A node that was killed and comes back at another address is no clone, and soon a member again.
func TestClusterNodeMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 5, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		old := c.addrs[4]
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == old || to == old })
		killed := c.nodes[4]
		if err := killed.stop(); err != nil {
			t.Fatal(err)
		}
		c.addrs[4] = netip.MustParseAddrPort("10.8.8.8:7946")
		c.nodes[4] = c.start(t, 4, killed.id, func(_ int, cfg *Config) { cfg.Epoch = 2 })
		start := time.Now()
		eventually(t, 2*time.Minute, "everybody knows its new address", func() bool {
			for _, n := range c.nodes[:4] {
				if m := findMember(n, killed.id.ID()); m.State != StateAlive || m.Addr != c.addrs[4] {
					return false
				}
			}
			return true
		})
		took := time.Since(start)
		t.Logf("known at its new address after %v", took)
		if took > 10*time.Second {
			t.Errorf("known at its new address after %v", took)
		}
		for i, n := range c.nodes {
			if p := n.problemsSeen(); len(p) > 0 {
				t.Errorf("node %d reports %q", i, p)
			}
		}
	})
}

// A node whose disk was rolled back publishes under numbers that it has already used: it must notice and go on with a new
// epoch.
func TestClusterRollsEpoch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		for range 3 {
			publish(t, c.nodes[2], "before the snapshot was restored", time.Hour)
		}
		eventually(t, 5*time.Second, "everywhere", func() bool { return sameDigest(c.nodes) })
		id := c.nodes[2].id
		if err := c.nodes[2].stop(); err != nil {
			t.Fatal(err)
		}
		rolled := uint64(0)
		back := newNode(t, c.secrets, id, c.config(2, func(_ int, cfg *Config) {
			cfg.RollEpoch = func(past uint64) (uint64, error) {
				rolled = past + 5
				return rolled, nil
			}
		})) // epoch 1 again
		c.nodes[2] = back.run(t)
		eventually(t, 30*time.Second, "it notices", func() bool { return hasProblem(back, ProblemEpoch, "epoch 6") })
		if f := publish(t, back, "after", time.Hour); f.Epoch != 6 || f.Seq != 1 {
			t.Errorf("published as %d/%d, want 6/1", f.Epoch, f.Seq)
		}
		eventually(t, 10*time.Second, "all agree", func() bool { return sameDigest(c.nodes) })
		if back.deliveredCount() != 3 {
			t.Errorf("delivered %d of its own frames, want the 3 that it had lost", back.deliveredCount())
		}
	})
}

// A member that does not answer becomes suspect before it is dead, and is not forgotten.
func TestClusterSuspectThenDead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		silent, id := c.addrs[2], c.nodes[2].id.ID()
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == silent || to == silent })
		for _, want := range []State{StateSuspect, StateDead} {
			eventually(t, time.Minute, want.String(), func() bool { return findMember(c.nodes[0], id).State == want })
		}
		c.hub.setCut(nil)
		eventually(t, time.Minute, "alive again", func() bool { return findMember(c.nodes[0], id).State == StateAlive })
		var kinds []string
		c.nodes[0].mu.Lock()
		for _, e := range c.nodes[0].events {
			if e.Member.ID == id {
				kinds = append(kinds, e.Kind)
			}
		}
		c.nodes[0].mu.Unlock()
		if got := strings.Join(kinds, " "); got != "join fail join" {
			t.Errorf("events %q, want join, fail, join", got)
		}
	})
}

// A node without the gossip key, or with an id that is not its key's, does not become a member.
func TestClusterRefusesStrangers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 2, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		c.addrs = append(c.addrs, netip.MustParseAddrPort("10.6.6.6:7946"), netip.MustParseAddrPort("10.6.6.7:7946"))
		outsider := newNode(t, newSecrets(t), newIdentity(t), c.config(2, nil)).run(t)
		for i, name := range []string{newIdentity(t).ID().String(), "web1\x1b[31m", strings.Repeat("A", 32)} {
			tr, err := c.hub.open(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 5, 5, byte(i)}), 7946))
			if err != nil {
				t.Fatal(err)
			}
			conf := memberlist.DefaultLANConfig()
			conf.Name, conf.Transport, conf.SecretKey = name, tr, c.secrets.GossipKey[:]
			conf.Logger = transport.NewLog(c.nodes[0].cfg.Logger, frame.ID{}).Standard()
			conf.Delegate = delegate{outsider.Mesh} // its metadata: a key that does not hash to the name
			ml, err := memberlist.Create(conf)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ml.Shutdown() })
			_, _ = ml.Join([]string{c.addrs[0].String()})
		}
		<-time.After(time.Minute)
		for i, n := range c.nodes {
			if got := len(n.Members()); got != 2 {
				t.Errorf("node %d lists %d members, want 2", i, got)
			}
		}
		if got := outsider.aliveCount(); got != 1 {
			t.Errorf("the outsider sees %d members", got)
		}
	})
}

// A name in the join list that does not resolve at first, and a join list that is set later.
func TestClusterJoinsByName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 1, nil)
		c.addrs = append(c.addrs, netip.MustParseAddrPort("10.0.1.1:7946"), netip.MustParseAddrPort("10.0.1.2:7946"))
		var tries atomic.Int32
		named := c.start(t, 1, newIdentity(t), func(_ int, cfg *Config) {
			cfg.Join = []string{"mesh.example"}
			cfg.Lookup = func(context.Context, string) ([]netip.Addr, error) {
				if tries.Add(1) < 4 {
					return nil, errors.New("no such host")
				}
				return []netip.Addr{c.addrs[0].Addr()}, nil
			}
		})
		late := c.start(t, 2, newIdentity(t), func(_ int, cfg *Config) { cfg.Join = nil })
		eventually(t, 15*time.Second, "the name resolves", func() bool { return named.aliveCount() == 2 })
		if err := late.SetJoin([]string{c.addrs[1].String()}); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, named, late)
		eventually(t, time.Second, "the new join list is tried", func() bool { return late.aliveCount() == 3 })
		eventually(t, 15*time.Second, "all three know each other", c.allAlive)
		if err := late.SetJoin(make([]string, maxJoin+1)); err == nil {
			t.Error("a join list above the bound was accepted")
		}
	})
}
