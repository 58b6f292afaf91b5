package mesh

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/transport"
)

// hole is a loss of UDP between node 0 and all others.
type hole struct {
	name       string
	to, from   bool // packets to, from node 0 are lost
	above      int  // only packets of more bytes
	wayTo      transport.UDPWay
	wayFrom    transport.UDPWay
	wantTextOn string // what node 1 says of node 0
}

var holes = []hole{
	{"no UDP", true, true, 0, transport.UDPNone, transport.UDPNone, "UDP to and from n0 does not arrive; bans go over TCP"},
	{"no UDP to it", true, false, 0, transport.UDPNone, transport.UDPOpen, "UDP to n0 does not arrive; bans go over TCP"},
	{"no UDP from it", false, true, 0, transport.UDPOpen, transport.UDPNone, "UDP from n0 does not arrive; bans go over TCP"},
	{"no large UDP", true, true, 1300, transport.UDPSmall, transport.UDPSmall, "large UDP packets to and from n0 do not arrive; bans go over TCP"},
	{"no large UDP to it", true, false, 700, transport.UDPSmall, transport.UDPOpen, "large UDP packets to n0 do not arrive; bans go over TCP"},
	{"no large UDP from it", false, true, 1200, transport.UDPOpen, transport.UDPSmall, "large UDP packets from n0 do not arrive; bans go over TCP"},
}

// open applies the hole to a cluster.
func (h hole) open(c *cluster) {
	zero := c.addrs[0]
	c.hub.setLose(func(from, to netip.AddrPort, bytes int) bool {
		return bytes > h.above && (h.to && to == zero || h.from && from == zero)
	})
}

// If UDP is lost between one node and all others, in either direction and from any size on, bans cross over streams, and
// both sides say what is lost. When UDP is back, nobody says so any more, and bans go by UDP.
func TestClusterUDPHoles(t *testing.T) {
	for _, h := range holes {
		t.Run(h.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				log := &lockedText{}
				c := newCluster(t, 3, func(i int, cfg *Config) {
					if i == 1 {
						cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
					}
				})
				eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
				eventually(t, 30*time.Second, "settled", func() bool { return sameDigest(c.nodes) })
				h.open(c)
				// A loss of large packets only is noticed with the first import.
				size := 40
				if h.above > 0 {
					size = frame.MaxPayload
				}
				text := strings.Repeat("x", size)
				for i, n := range c.nodes {
					publish(t, n, fmt.Sprint(i, text)[:size], time.Hour)
					eventually(t, 5*time.Second, fmt.Sprintf("the first of node %d is everywhere", i), func() bool { return sameDigest(c.nodes) })
				}
				eventually(t, 10*time.Second, "both sides say what is lost", func() bool {
					for _, n := range c.nodes[1:] {
						there, here := findMember(c.nodes[0], n.id.ID()), findMember(n, c.nodes[0].id.ID())
						if here.udpTo != h.wayTo || here.udpFrom != h.wayFrom || there.udpTo != h.wayFrom || there.udpFrom != h.wayTo {
							return false
						}
					}
					return true
				})
				if got := findMember(c.nodes[1], c.nodes[0].id.ID()).UDPTrouble("n0"); !strings.HasPrefix(got, h.wantTextOn+"; ") {
					t.Errorf("says %q, want %q", got, h.wantTextOn)
				}
				if other := findMember(c.nodes[1], c.nodes[2].id.ID()); other.UDPTrouble("n2") != "" {
					t.Errorf("says %q, of a node to which UDP passes", other.UDPTrouble("n2"))
				}
				for range 3 {
					for i, n := range c.nodes {
						publish(t, n, fmt.Sprint(i, text)[:size], time.Hour)
						eventually(t, 2*time.Second, fmt.Sprintf("a later one of node %d is everywhere", i), func() bool { return sameDigest(c.nodes) })
					}
					before := c.streams()
					<-time.After(20 * time.Second)
					// Two pairs, two directions, a report a second; and memberlist's pings.
					if n := c.streams() - before; n > 2*2*21+2*20 {
						t.Errorf("%d streams in 20 quiet seconds", n)
					}
				}
				for _, n := range c.nodes {
					if n.aliveCount() != 3 {
						t.Errorf("%s sees %d alive", n.cfg.Name, n.aliveCount())
					}
				}
				if said := strings.Count(log.String(), "over TCP but"); said > 0 {
					t.Errorf("logged %d times in memberlist's words", said)
				}
				c.hub.setLose(nil)
				eventually(t, 15*time.Second, "UDP is fine again", func() bool {
					for _, n := range c.nodes {
						if n.paths.Some() {
							return false
						}
					}
					return true
				})
				before := c.streams()
				publish(t, c.nodes[0], "by UDP", time.Hour)
				eventually(t, 100*time.Millisecond, "by UDP", func() bool { return sameDigest(c.nodes) })
				if c.streams() != before {
					t.Error("a stream was opened for it")
				}
			})
		})
	}
}

func (c *cluster) streams() uint64 {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	return c.hub.streams
}

// lockedText collects what is logged.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
