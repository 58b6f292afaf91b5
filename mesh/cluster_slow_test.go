//go:build long || race

// Each of these fleets takes a second or more of processor time; the steps simulate and race run them.

package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/rotate"
	"github.com/meshban/meshban/mesh/pki"
)

// powerCut ends every node at the same time, without a goodbye.
func (c *cluster) powerCut(t *testing.T) {
	t.Helper()
	c.hub.setCut(func(_, _ netip.AddrPort) bool { return true })
	defer c.hub.setCut(nil)
	done := make(chan error, len(c.nodes))
	for _, n := range c.nodes {
		go func() { done <- n.stop() }()
	}
	for range c.nodes {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestClusterMassRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, clusterSize, nil)
		c.settled(t)
		c.powerCut(t)
		c.move(0)
		for i, old := range c.nodes {
			c.again(t, i, old.remember)
		}
		start := time.Now()
		eventually(t, 60*time.Second, "one mesh again", c.oneMesh)
		t.Logf("one mesh after %v", time.Since(start))
	})
}

// Half of the fleet never comes back, half of the rest has moved, and each disk also remembers a hundred machines that are
// long gone: all those entries are newer than the true ones, and none of them answers.
func TestClusterHalfGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, clusterSize, nil)
		c.settled(t)
		c.powerCut(t)
		var stale []Peer
		for i := range 100 {
			stale = append(stale, Peer{
				ID: newIdentity(t).ID(), Name: "gone", Seen: time.Now(),
				Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, 0, byte(i)}), 7946),
			})
		}
		c.nodes = c.nodes[:clusterSize/2]
		for i, old := range c.nodes {
			if i%2 == 0 {
				c.move(i)
			}
			c.again(t, i, append(stale, old.remember...))
		}
		start := time.Now()
		eventually(t, time.Minute, "the rest is one mesh", c.oneMesh)
		t.Logf("one mesh of %d after %v", len(c.nodes), time.Since(start))
		publish(t, c.nodes[1], "after", time.Hour)
		eventually(t, time.Second, "a fresh frame is everywhere", func() bool { return sameDigest(c.nodes) })
		if c.nodes[1].Stats().Held != clusterSize+1 {
			t.Errorf("%d frames are held, want those of the gone ones too", c.nodes[1].Stats().Held)
		}
	})
}

// Frames published every 100 ms while the key turns reach every member at once; none needs a sync.
func TestRotationHasNoGap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newTurning(t, 6)
		<-time.After(5 * time.Second)
		published := make([]int, len(c.nodes))
		synced := func() (n uint64) {
			for _, node := range c.nodes {
				n += node.Stats().Synced
			}
			return n
		}
		before := synced()
		speak := func(until func() bool, within time.Duration) {
			t.Helper()
			for end := time.Now().Add(within); !until(); {
				if time.Now().After(end) {
					t.Fatalf("not within %v", within)
				}
				from := len(published) - 1
				for i := range published {
					if published[i] < published[from] {
						from = i
					}
				}
				f := publish(t, c.nodes[from], fmt.Sprint(from, published[from]), time.Hour)
				published[from]++
				<-time.After(100 * time.Millisecond)
				for i, n := range c.nodes {
					n.mu.Lock()
					has := i == from || slices.ContainsFunc(n.delivered, func(g frame.Frame) bool { return g.Ref() == f.Ref() })
					n.mu.Unlock()
					if !has {
						t.Errorf("node %d lacks a frame of node %d after 100 ms; keys %+v and %+v", i, from, n.KeyStatus(), c.nodes[from].KeyStatus())
					}
				}
			}
		}
		old := c.nodes[0].secrets().GossipKey
		c.rotate(t, 1)
		used := func() bool {
			return !slices.ContainsFunc(c.nodes, func(n *testNode) bool { return n.KeyStatus().InUse != 1 })
		}
		begin := time.Now()
		speak(used, 30*time.Second)
		t.Logf("all encrypt with the new key after %v", time.Since(begin))
		speak(turned(1, c.nodes...), 2*rotate.KeepFor)
		t.Logf("all have let go of the old one after %v", time.Since(begin))
		speak(func() bool { return published[0] > 400 }, time.Hour)
		if got := synced() - before; got != 0 {
			t.Errorf("%d frames came by sync only", got)
		}
		for i, f := range c.files {
			if s := f.load(); s.Rotated() && (s.GossipKey == old || s.Other != [pki.MaxGossipKeys - 1]pki.GossipKey{}) || s.Generation != 1 {
				t.Errorf("node %d stores generation %d", i, s.Generation)
			}
			if len(f.told) != 3 || f.told[0].Stage != KeyReceived || f.told[1].Stage != KeyUsed || f.told[2].Stage != KeyDropped {
				t.Errorf("node %d told %v", i, f.told)
			}
		}
	})
}

// Answers to pings carry no name. A captured member could make another one that is down look alive, by answering for it
// and by saying that it is back.
func TestMemberThatIsDownIsNotAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 4, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 30*time.Second, "settled", func() bool { return sameDigest(c.nodes) })
		<-time.After(10 * time.Second) // all addresses are proved
		const captured, victim = 1, 3
		stranger := &hubPort{hub: c.hub, addr: netip.MustParseAddrPort("198.51.100.77:7946")}
		about, down := c.nodes[victim].ml.Load().LocalNode(), c.addrs[victim]
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == down || to == down })
		tell := func(msg []byte, to int) {
			b := meshtest.Sealed(t, c.secrets.GossipKey[:], 1, msg, nil)
			at := memberlist.Address{Addr: c.addrs[to].String(), Name: c.nodes[to].id.ID().String()}
			if _, err := c.nodes[captured].tr.Load().WriteToAddress(b, at); err != nil { // with its proof
				t.Fatal(err)
			}
			if _, err := stranger.WriteTo(b, at.Addr); err != nil {
				t.Fatal(err)
			}
		}
		const most, usual, synced = 100 * 4, 30 * 4, 90 * 4 // in quarters of a second
		for i := range uint32(most) {
			for _, to := range []int{0, 2} {
				for seq := range i/8 + 20 { // one ping every two seconds, some of rejoining
					tell(meshtest.OfMemberlist(t, mlwire.Ack, mlwire.AckMessage{SeqNo: seq}), to)
				}
				tell(meshtest.OfMemberlist(t, mlwire.Alive, mlwire.AliveMessage{Incarnation: min(i, meta.FirstCeiling), Node: about.Name, Addr: about.Addr, Port: about.Port, Meta: about.Meta, Vsn: mlwire.Versions[:]}), to)
			}
			<-time.After(time.Second / 4)
			for _, n := range []*testNode{c.nodes[0], c.nodes[2]} {
				m := findMember(n, c.nodes[victim].id.ID())
				if i >= usual && m.State != StateSuspect && m.State != StateDead || i >= synced && m.InSync {
					t.Fatalf("%v after its end it is %v, in sync %v", time.Duration(i)*time.Second/4, m.State, m.InSync)
				}
			}
		}
		c.hub.setCut(nil)
		eventually(t, 30*time.Second, "it is alive once it answers itself", c.allAlive)
	})
}
