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
	"github.com/meshban/meshban/mesh/internal/wire"
)

// hole is a loss of UDP between node 0 and all others.
type hole struct {
	name       string
	to, from   bool // packets to, from node 0 are lost
	above      int  // only packets of more bytes
	wayTo      udpWay
	wayFrom    udpWay
	wantTextOn string // what node 1 says of node 0
}

var holes = []hole{
	{"no UDP", true, true, 0, udpNone, udpNone, "UDP to and from n0 does not arrive; bans go over TCP"},
	{"no UDP to it", true, false, 0, udpNone, udpOpen, "UDP to n0 does not arrive; bans go over TCP"},
	{"no UDP from it", false, true, 0, udpOpen, udpNone, "UDP from n0 does not arrive; bans go over TCP"},
	{"no large UDP", true, true, 1300, udpSmall, udpSmall, "large UDP packets to and from n0 do not arrive; bans go over TCP"},
	{"no large UDP to it", true, false, 700, udpSmall, udpOpen, "large UDP packets to n0 do not arrive; bans go over TCP"},
	{"no large UDP from it", false, true, 1200, udpOpen, udpSmall, "large UDP packets from n0 do not arrive; bans go over TCP"},
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
						if n.paths.some.Load() {
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

// However many peers seem to lose UDP, or say so, a node compares over streams with only a few at a time; each gets one
// report a second.
func TestUDPPathsAreFew(t *testing.T) {
	paths, now := newUDPPaths(), time.Now()
	peer := func(i int) (id frame.ID) { return frame.ID{byte(i >> 8), byte(i), 1} }
	for i := range 1000 {
		paths.suspect(now, peer(i))
		if from := peer(5000 + i); paths.expects(now, from, pathIsReport, true, now) {
			paths.reported(now, from, pathReport{want: true}, now)
		}
	}
	there := func(frame.ID) bool { return true }
	sent := make(map[frame.ID]int)
	for end := now.Add(10 * time.Second); now.Before(end); now = now.Add(50 * time.Millisecond) {
		due, _ := paths.due(now, there)
		for _, d := range due {
			sent[d.id]++
		}
	}
	if len(sent) != 2*maxPaths {
		t.Errorf("reports go to %d peers, want %d", len(sent), 2*maxPaths)
	}
	for id, n := range sent {
		if n > 10 {
			t.Errorf("%d reports in 10 s to %s", n, id)
		}
	}
	for range 60 {
		now = now.Add(pathEvery)
		paths.due(now, there)
	}
	if len(paths.of) != 0 || paths.some.Load() {
		t.Errorf("%d paths are kept whose peer never answers", len(paths.of))
	}
}

// A report over a stream is accepted from the peer itself, once, and no more often than reports are sent.
func TestUDPPathExpects(t *testing.T) {
	paths, now, id := newUDPPaths(), time.Now(), frame.ID{1}
	for _, tt := range []struct {
		name  string
		after time.Duration
		part  pathPart
		want  bool
		ok    bool
	}{
		{"bad: a probe, of nobody", 0, pathIsSmallProbe, false, false},
		{"bad: the last report of somebody who is fine", 0, pathIsReport, false, false},
		{"ok: a report that wants an answer", 0, pathIsReport, true, true},
		{"bad: the same again", 0, pathIsReport, true, false},
		{"bad: another at once", time.Millisecond, pathIsReport, true, false},
		{"ok: a probe", 2 * time.Millisecond, pathIsSmallProbe, false, true},
		{"bad: the same again", 2 * time.Millisecond, pathIsSmallProbe, false, false},
		{"ok: the next report", pathEvery, pathIsReport, false, true},
	} {
		at := now.Add(tt.after)
		ok := paths.expects(at, id, tt.part, tt.want, at)
		if ok != tt.ok {
			t.Errorf("%s: %v", tt.name, ok)
		}
		if ok && tt.part == pathIsReport {
			paths.reported(at, id, pathReport{want: tt.want}, at)
		} else if ok {
			paths.probed(at, id, tt.part, at)
		}
	}
}

// How messages travel while a path is unknown, if packets or only large ones are lost, and if streams fail.
func TestUDPPathRoute(t *testing.T) {
	paths, now, id := newUDPPaths(), time.Now(), frame.ID{1}
	const small, large = wire.FreshSize, wire.MaxPacket
	check := func(what string, size int, push, packet, stream bool) {
		t.Helper()
		if p, s := paths.route(now, id, size, push); p != packet || s != stream {
			t.Errorf("%s, %d bytes, push %v: packet %v, stream %v", what, size, push, p, s)
		}
	}
	check("no sign", large, true, true, false)
	paths.suspect(now, id)
	check("a sign", small, false, false, true)
	check("a sign", small, true, true, true)
	check("a sign", large, true, true, false)
	report := func(small, large time.Duration) {
		now = now.Add(pathSettle)
		paths.reported(now, id, pathReport{want: true, small: small, large: large, watched: pathSettle}, now)
	}
	report(0, pathFresh)
	check("large ones are lost", small, true, true, false)
	check("large ones are lost", large, true, false, true)
	check("large ones are lost", large, false, false, true)
	report(pathFresh, pathFresh)
	check("all are lost", small, false, false, true)
	for range pathPushes {
		check("all are lost", small, true, false, true)
		check("all are lost", large, true, false, true)
	}
	check("too many", small, true, false, false)
	check("too many", large, true, false, false)
	paths.streamed(now, id, false)
	check("no TCP", small, true, true, false)
	if !paths.tcpFailed(now, id) {
		t.Error("it is not known that streams fail")
	}
	paths.streamed(now, id, true)
	check("TCP again", small, false, false, true)
	report(0, 0)
	check("UDP again", large, true, true, false)
}
