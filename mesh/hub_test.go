package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/pki"
)

// hub is an in-memory network for clusters in a synctest bubble: packets arrive after a delay, streams are pipes.
type hub struct {
	mu      sync.Mutex
	ports   map[string]*hubPort
	cut     func(from, to netip.AddrPort) bool            // reports whether the link is down
	lose    func(from, to netip.AddrPort, bytes int) bool // reports whether a packet is lost
	packets uint64
	bytes   uint64
	streams uint64
}

const (
	hubDelay = 200 * time.Microsecond
	// The headers of Ethernet, IPv4 and UDP; and those of a stream: seven segments without data, two with.
	packetHeaders = 14 + 20 + 8
	streamHeaders = 9 * (14 + 20 + 32)
)

// wire returns the bytes on the wire since the hub began, including headers, counted once per link end.
func (h *hub) wire() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return 2 * (h.bytes + h.packets*packetHeaders + h.streams*streamHeaders)
}

func newHub() *hub { return &hub{ports: make(map[string]*hubPort)} }

var errUnreachable = errors.New("unreachable")

func (h *hub) setCut(cut func(from, to netip.AddrPort) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut = cut
}

func (h *hub) setLose(lose func(from, to netip.AddrPort, bytes int) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lose = lose
}

func (h *hub) loses(from, to netip.AddrPort, bytes int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lose != nil && h.lose(from, to, bytes)
}

func (h *hub) route(from netip.AddrPort, to string) *hubPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.ports[to]
	if p == nil || (h.cut != nil && h.cut(from, netip.MustParseAddrPort(to))) {
		return nil
	}
	return p
}

// open takes an address; it is free again after Shutdown.
func (h *hub) open(addr netip.AddrPort) (memberlist.Transport, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ports[addr.String()] != nil {
		return nil, fmt.Errorf("%v is in use", addr)
	}
	p := &hubPort{hub: h, addr: addr, packets: make(chan *memberlist.Packet, 4096), streams: make(chan net.Conn), done: make(chan struct{})}
	h.ports[addr.String()] = p
	return p, nil
}

// alias makes what is sent to the second address arrive at the first too.
func (h *hub) alias(addr, also netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ports[also.String()] = h.ports[addr.String()]
}

// hubPort is one node's place on a hub.
type hubPort struct {
	hub     *hub
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
}

func (p *hubPort) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IP(p.addr.Addr().AsSlice()), int(p.addr.Port()), nil
}

func (p *hubPort) WriteTo(b []byte, to string) (time.Time, error) {
	p.hub.mu.Lock()
	p.hub.packets++
	p.hub.bytes += uint64(len(b))
	p.hub.mu.Unlock()
	now := time.Now()
	b = append([]byte(nil), b...)
	time.AfterFunc(hubDelay, func() {
		if q := p.hub.route(p.addr, to); q != nil && !p.hub.loses(p.addr, q.addr, len(b)) {
			select {
			case q.packets <- &memberlist.Packet{Buf: b, From: net.UDPAddrFromAddrPort(p.addr), Timestamp: time.Now()}:
			default:
			}
		}
	})
	return now, nil
}

func (p *hubPort) PacketCh() <-chan *memberlist.Packet { return p.packets }
func (p *hubPort) StreamCh() <-chan net.Conn           { return p.streams }

func (p *hubPort) DialTimeout(to string, timeout time.Duration) (net.Conn, error) {
	<-time.After(hubDelay)
	q := p.hub.route(p.addr, to)
	if q == nil {
		select {
		case <-time.After(timeout):
		case <-p.done:
		}
		return nil, errUnreachable
	}
	near, far := net.Pipe()
	select {
	case q.streams <- hubConn{far, p.hub, p.addr}:
		p.hub.mu.Lock()
		p.hub.streams++
		p.hub.mu.Unlock()
		return hubConn{near, p.hub, q.addr}, nil
	case <-q.done:
	case <-p.done:
	case <-time.After(timeout):
	}
	return nil, errUnreachable
}

func (p *hubPort) Shutdown() error {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	if p.hub.ports[p.addr.String()] == p {
		delete(p.hub.ports, p.addr.String())
		close(p.done)
	}
	return nil
}

// hubConn is a pipe with an address.
type hubConn struct {
	net.Conn
	hub  *hub
	peer netip.AddrPort
}

func (c hubConn) Write(b []byte) (int, error) {
	c.hub.mu.Lock()
	c.hub.bytes += uint64(len(b))
	c.hub.mu.Unlock()
	return c.Conn.Write(b)
}

func (c hubConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.peer) }

// cluster is a set of nodes on one hub.
type cluster struct {
	hub     *hub
	secrets pki.Secrets
	nodes   []*testNode
	addrs   []netip.AddrPort
}

// newCluster starts n nodes; each joins the first one. edit may change a configuration.
func newCluster(t *testing.T, n int, edit func(i int, c *Config)) *cluster {
	c := &cluster{hub: newHub(), secrets: newSecrets(t)}
	// Runs after all nodes have stopped: memberlist's last pings wait for their timers, and nothing else may be left.
	t.Cleanup(func() { <-time.After(2 * maxAwareness * replica.ProbeInterval) })
	for i := range n {
		c.addrs = append(c.addrs, hubAddr(i))
		c.nodes = append(c.nodes, c.start(t, i, newIdentity(t), edit))
	}
	return c
}

// hubAddr returns the address of node i.
func hubAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 7946)
}

// start runs node i.
func (c *cluster) start(t *testing.T, i int, id pki.Identity, edit func(i int, c *Config)) *testNode {
	return newNode(t, c.secrets, id, c.config(i, edit)).run(t)
}

func (c *cluster) config(i int, edit func(i int, c *Config)) func(*Config) {
	return func(cfg *Config) {
		cfg.Name = fmt.Sprintf("n%d", i)
		cfg.newTransport = func() (memberlist.Transport, error) { return c.hub.open(c.addrs[i]) }
		if i > 0 {
			cfg.Join = []string{c.addrs[0].String()}
		}
		if edit != nil {
			edit(i, cfg)
		}
	}
}

func (c *cluster) allAlive() bool {
	for _, n := range c.nodes {
		if n.aliveCount() != len(c.nodes) {
			return false
		}
	}
	return true
}

var bubbles = make(chan struct{}, 2)

// bubble is synctest.Test, but on one processor under the race detector: with two, a bubble's timer goroutine crashed the
// process inside the detector (sanitizer StackDepot) once in five runs of all cluster tests. The detector finds races by
// the happens-before order, for which one processor is enough.
//
// Otherwise bubbles run beside other tests, because they have a clock of their own. Only as many run at once as the
// channel bubbles has room for, so that tests that wait for the real clock get their turn.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if bubbleProcs == 0 {
		t.Parallel()
		bubbles <- struct{}{}
		defer func() { <-bubbles }()
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(bubbleProcs))
	synctest.Test(t, f)
}
