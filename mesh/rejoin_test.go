package mesh

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/internal/roster"
)

// A member that accepts a stream and says nothing used to keep all others from being joined, for ten seconds a try and
// more.
func TestClusterStalledJoin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 1, nil)
		c.addrs = append(c.addrs, hubAddr(1), hubAddr(2))
		stalled, err := c.hub.open(c.addrs[1])
		if err != nil {
			t.Fatal(err)
		}
		go hold(stalled)
		defer func() { _ = stalled.Shutdown() }()
		if err := c.nodes[0].SetJoin([]string{c.addrs[1].String(), c.addrs[2].String()}); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second) // the stalled node is tried
		late := c.start(t, 2, newIdentity(t), func(_ int, cfg *Config) { cfg.Join = nil })
		begin := time.Now()
		eventually(t, time.Minute, "the other one is joined", func() bool { return late.aliveCount() == 2 })
		if took := time.Since(begin); took > joinWait+2*roster.AloneMax {
			t.Errorf("it took %v", took)
		}
	})
}

// hold accepts streams and keeps them open until the port is shut down.
func hold(tr memberlist.Transport) {
	var open []net.Conn
	for {
		select {
		case conn := <-tr.StreamCh():
			open = append(open, conn)
		case <-tr.(*hubPort).done:
			for _, conn := range open {
				_ = conn.Close()
			}
			return
		}
	}
}
