package mesh

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// told counts the events of a kind that the nodes were told about a member.
func (c *cluster) told(of frame.ID, kind string) (n int) {
	for _, other := range c.nodes {
		other.mu.Lock()
		for _, e := range other.events {
			if e.Kind == kind && e.Member.ID == of {
				n++
			}
		}
		other.mu.Unlock()
	}
	return n
}

// A holder of the mesh's key claims, under a member's present incarnation, that the member is dead or has left: nobody
// believes it. A member that does crash is dead for all, and one that leaves has left.
func TestClusterForgedDeath(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 5, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		port, err := c.hub.open(netip.MustParseAddrPort("10.6.6.6:7946"))
		if err != nil {
			t.Fatal(err)
		}
		key, victim := c.secrets.GossipKey[:], c.nodes[4]
		present := victim.ceiling.HeardMost
		byPacket := func(to netip.AddrPort, from frame.ID) {
			b := meshtest.OfMemberlist(t, mlwire.Dead, mlwire.Accusation{Incarnation: present(), Node: victim.id.ID().String(), From: from.String()})
			if _, err := port.(*hubPort).WriteTo(meshtest.Sealed(t, key, 1, b, nil), to.String()); err != nil {
				t.Fatal(err)
			}
		}
		byStream := func(to netip.AddrPort, state int) {
			conn, err := port.DialTimeout(to.String(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			n := victim.ml.Load().LocalNode()
			b := meshtest.ExchangeOf(t, key, mlwire.NodeState{Name: n.Name, Addr: n.Addr, Port: n.Port, Meta: n.Meta, Incarnation: present(), State: state, Vsn: mlwire.Versions[:]})
			if _, err := conn.Write(b); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, conn) // until the node has read it
		}
		for range 20 {
			for i, to := range c.addrs {
				byPacket(to, c.nodes[(i+1)%5].id.ID())
				byPacket(to, victim.id.ID())
				byStream(to, mlwire.StateDead)
				byStream(to, mlwire.StateLeft)
			}
			<-time.After(time.Second)
		}
		<-time.After(time.Minute)
		if fails, leaves := c.told(victim.id.ID(), memberFail), c.told(victim.id.ID(), memberLeave); fails+leaves > 0 || !c.allAlive() {
			t.Errorf("taken for dead %d times, for gone %d times", fails, leaves)
		}
		if err := port.Shutdown(); err != nil {
			t.Fatal(err)
		}

		left := c.nodes[3]
		if err := left.stop(); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes[:3:3], victim)
		eventually(t, 5*time.Second, "all know that it has left", func() bool { return c.told(left.id.ID(), memberLeave) == 4 })
		if n := c.told(left.id.ID(), memberFail); n > 0 {
			t.Errorf("who left was dead %d times", n)
		}
		crashed := c.addrs[4]
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == crashed || to == crashed })
		c.nodes = c.nodes[:3]
		begun := time.Now()
		eventually(t, time.Minute, "all know that it is dead", func() bool { return c.told(victim.id.ID(), memberFail) == 3 })
		t.Logf("dead for all after %v", time.Since(begun))
		c.hub.setCut(nil)
	})
}

// Somebody with the mesh's key sends packets from a member's address. That member's bans went by sync only, and it was
// accused of the flood.
func TestForgedSourceHarmsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 30*time.Second, "settled", func() bool { return sameDigest(c.nodes) })
		<-time.After(10 * time.Second) // all addresses are proved
		victim, innocent := c.nodes[0], c.nodes[1]
		forger := &hubPort{hub: c.hub, addr: c.addrs[1]}
		var flood sync.WaitGroup
		ended := make(chan struct{})
		flood.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-ended:
					return
				case <-time.After(2 * time.Millisecond):
				}
				for range 20 { // 10,000 frames a second, half of them in the member's name
					raw := meshtest.RawOf(i, 100)
					if i%2 == 0 {
						copy(raw[frame.KeyAt:], innocent.id.Public())
					}
					b := meshtest.Sealed(t, c.secrets.GossipKey[:], 1, wire.AppendPacked([]byte{mlwire.User, wire.KindPush}, raw), nil)
					if _, err := forger.WriteTo(b, c.addrs[0].String()); err != nil {
						t.Error(err)
					}
				}
			}
		})
		stop := sync.OnceFunc(func() {
			close(ended)
			flood.Wait()
		})
		defer stop()
		<-time.After(time.Second)
		for i := range 20 {
			had := victim.deliveredCount()
			publish(t, innocent, fmt.Sprint(i), time.Hour)
			eventually(t, time.Second, "the ban arrives", func() bool { return victim.deliveredCount() > had })
			<-time.After(200 * time.Millisecond)
		}
		stop()
		if n := victim.Stats().Synced; n > 0 {
			t.Errorf("%d of 20 bans came by sync only", n)
		}
		if victim.Stats().Limited == 0 {
			t.Error("nothing was too much")
		}
		told := false
		for _, p := range victim.problemsSeen() {
			if strings.HasPrefix(p, string(ProblemFlood)) {
				t.Errorf("accused: %s", p)
			}
			told = told || strings.HasPrefix(p, string(ProblemForged)) && strings.Contains(p, "as if from "+c.addrs[1].Addr().String())
		}
		if !told {
			t.Errorf("nothing tells of forged addresses: %q", victim.problemsSeen())
		}
	})
}
