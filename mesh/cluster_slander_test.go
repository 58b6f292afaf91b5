package mesh

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/mlwire"
)

// slanderer holds the mesh's key but no certificate. It claims that a member is dead, in a way that the member cannot
// refute: memberlist counts refutations in 32 bits, and the counter wraps to 0.
type slanderer struct {
	t    *testing.T
	c    *cluster
	port *hubPort
	of   int // node
}

func (s *slanderer) say() {
	key := s.c.secrets.GossipKey[:]
	me := s.c.nodes[s.of].ml.Load().LocalNode()
	addr := s.c.addrs[s.of]
	ip := addr.Addr().As4()
	alive := meshtest.OfMemberlist(s.t, mlwire.Alive, mlwire.AliveMessage{Incarnation: math.MaxUint32, Node: me.Name, Addr: ip[:], Port: addr.Port(), Meta: me.Meta, Vsn: mlwire.Versions[:]})
	dead := meshtest.OfMemberlist(s.t, 5, struct {
		Incarnation uint32
		Node, From  string
	}{math.MaxUint32, me.Name, me.Name})
	for _, to := range s.c.addrs {
		for _, msg := range [][]byte{alive, dead} {
			if _, err := s.port.WriteTo(meshtest.Sealed(s.t, key, 1, msg, nil), to.String()); err != nil {
				s.t.Error(err)
			}
		}
	}
}

// A member falsely said to be dead still gets bans while it answers, and what it lacks by sync.
func TestClusterSlander(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 4, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 30*time.Second, "settled", func() bool { return sameDigest(c.nodes) })
		inner, err := c.hub.open(netip.MustParseAddrPort("10.9.9.9:7946"))
		if err != nil {
			t.Fatal(err)
		}
		s := &slanderer{t: t, c: c, port: inner.(*hubPort), of: 3}
		ctx, stop := context.WithCancel(t.Context())
		var attack sync.WaitGroup
		attack.Go(func() {
			for ctx.Err() == nil {
				s.say()
				<-time.After(100 * time.Millisecond)
			}
		})
		<-time.After(3 * time.Minute)
		victim := c.nodes[3]
		for i := range 4 {
			before := victim.deliveredCount()
			publish(t, c.nodes[i%3], fmt.Sprint(i), time.Hour)
			eventually(t, time.Second, "a ban reaches who is said to be dead", func() bool { return victim.deliveredCount() > before })
			<-time.After(time.Minute)
		}
		for i := range 4 {
			c.hub.setCut(func(_, to netip.AddrPort) bool { return to == c.addrs[3] })
			publish(t, c.nodes[0], fmt.Sprint("missed ", i), time.Hour)
			<-time.After(time.Millisecond)
			c.hub.setCut(nil)
			eventually(t, 10*time.Second, "what it missed comes by sync", func() bool { return sameDigest(c.nodes) })
		}
		stop()
		attack.Wait()
		if err := inner.Shutdown(); err != nil {
			t.Error(err)
		}
	})
}
