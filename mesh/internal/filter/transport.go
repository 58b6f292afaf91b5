package filter

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// MaxDial bounds the time to open a stream.
	MaxDial = 2 * time.Second
	// StreamTimeout bounds the reading and writing of one stream.
	StreamTimeout = 10 * time.Second
	// helloTimeout bounds the time from accepting a stream to its first byte and, if that begins a TLS hello, to the
	// end of the handshake and the request.
	helloTimeout = 2 * time.Second
	// tlsRecord is the first byte of a TLS ClientHello; memberlist's streams begin with 10 or 244.
	tlsRecord = 0x16
)

var errShutdown = errors.New("the transport is shut down")

// Config is what a Transport needs. Its functions must not block.
type Config struct {
	Identity pki.Identity
	MeshID   [16]byte
	Keys     func() [][]byte // gossip keys; the first encrypts
	Now      func() time.Time
	Members  Members
	Ceiling  *meta.Ceiling // this node's own
	Raised   func()        // Ceiling was raised: it is to be announced
	Count    *Count
	// Dial opens a stream; nil: as the inner transport does.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Enrol takes over a stream that begins like TLS, and closes it. It runs on a goroutine of its own, and the
	// stream's deadline is the end of helloTimeout.
	Enrol func(net.Conn)
	// Flooded is called with an address that sends accuseFactor times its limit. forged says that a member is at that
	// address but did not send this.
	Flooded func(from netip.Addr, forged bool)
	// Unsent is called with a node to which the system refused to send a packet.
	Unsent func(frame.ID)
}

// Members tells who is there. Its methods must not block.
type Members interface {
	// At returns the trusted members that have answered at an address; the caller must not change the slice.
	At(netip.Addr) []frame.ID
	// Key returns a node's key; nil: it is unknown.
	Key(frame.ID) ed25519.PublicKey
	// States reports whether a node has signed that it is at an address.
	States(frame.ID, netip.AddrPort) bool
	// Knows reports whether a node was checked at this address with this metadata.
	Knows(id frame.ID, at netip.AddrPort, about []byte) bool
	// Ceiling returns the highest incarnation that news of another node may have.
	Ceiling(frame.ID) uint32
	// Leaving reports whether a member has recently signed that it is leaving.
	Leaving(now time.Time, id frame.ID) bool
	// Detour returns where the node with a name is reached if not at the address that memberlist knows.
	Detour(name string) (netip.AddrPort, bool)
}

// Count counts what arrives.
type Count struct {
	Packets    atomic.Uint64 // that passed
	Strangers  atomic.Uint64 // packets and streams without the mesh's key
	Limited    atomic.Uint64 // what was dropped because its source exceeded its limit
	Refused    atomic.Uint64 // what no member sends
	SendErrors atomic.Uint64 // packets that the system refused to send
}

// Transport sits between memberlist and the sockets. It hands accepted streams that begin like TLS to enrolment and all
// others to memberlist, checks everything that memberlist gets, and ends every stream and dial at Shutdown, which
// memberlist's own transport does not.
type Transport struct {
	memberlist.NodeAwareTransport
	cfg    Config
	guard  *guard
	prover *prover

	packets chan *memberlist.Packet // filter sends, memberlist receives; nobody closes it
	streams chan net.Conn           // sorter goroutines send, memberlist receives; nobody closes it
	ctx     context.Context
	cancel  context.CancelFunc
	drained chan struct{}
	wg      sync.WaitGroup

	mu    sync.Mutex
	ended bool
	open  map[net.Conn]struct{}
}

// New wraps inner and starts to receive.
func New(inner memberlist.Transport, cfg Config) *Transport {
	t := &Transport{
		NodeAwareTransport: asNodeAware(inner),
		cfg:                cfg,
		guard:              newGuard(cfg.Keys, cfg.Now, cfg.Count, cfg.Flooded),
		prover:             newProver(cfg.Identity, cfg.MeshID, cfg.Members),
		packets:            make(chan *memberlist.Packet),
		streams:            make(chan net.Conn),
		drained:            make(chan struct{}),
		open:               make(map[net.Conn]struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.guard.know(cfg, t.prover)
	t.wg.Go(t.filter)
	go t.accept()
	return t
}

// know sets whom the guard asks about members.
func (g *guard) know(cfg Config, p *prover) {
	g.isMember = func(a netip.Addr) bool { return len(cfg.Members.At(a)) > 0 }
	g.answers = func(id frame.ID, a netip.Addr) bool { return slices.Contains(cfg.Members.At(a), id) }
	g.knows, g.leaving = cfg.Members.Knows, func(id frame.ID) bool { return cfg.Members.Leaving(cfg.Now(), id) }
	g.proven, g.acked = p.check, p.acked
	self := cfg.Identity.ID()
	g.ceilingOf = func(id frame.ID) (most uint32, own bool) {
		if id == self {
			return cfg.Ceiling.Now(), true
		}
		return cfg.Members.Ceiling(id), false
	}
	g.heard = func(incarnation uint32) {
		if cfg.Ceiling.Heard(incarnation) {
			cfg.Raised()
		}
	}
}

// Context ends with Shutdown.
func (t *Transport) Context() context.Context { return t.ctx }

// Slow makes an origin's frames cost more for ten seconds.
func (t *Transport) Slow(origin frame.ID) { t.guard.slow(origin) }

// Slowed returns how many origins Slow slows now.
func (t *Transport) Slowed() int { return t.guard.slowedNow() }

// Strangers returns how many streams of strangers are open, and how many bytes were read of them.
func (t *Transport) Strangers() (streams int, bytes int64) {
	t.guard.mu.Lock()
	defer t.guard.mu.Unlock()
	return len(t.guard.strangers), t.guard.strange
}

// SayLeft tells a node that this one has left, under an incarnation.
func (t *Transport) SayLeft(incarnation uint32, to memberlist.Address) error {
	name := t.cfg.Identity.ID().String()
	packet, err := t.guard.seal(mlwire.Dead, mlwire.Accusation{Incarnation: incarnation, Node: name, From: name})
	if err != nil {
		return err
	}
	_, err = t.WriteToAddress(packet, to)
	return err
}

// UntilMultiple returns the time until the clock shows a multiple of every. All periodic work of the agent runs at such
// moments, because waking an idle processor takes 0.13 ms of CPU time, more than most of that work.
func UntilMultiple(every time.Duration) time.Duration {
	now := time.Now()
	return now.Truncate(every).Add(every).Sub(now)
}

// filter passes on the packets that the guard accepts.
func (t *Transport) filter() {
	pulse := time.NewTimer(pulseEvery)
	defer pulse.Stop()
	for packets := 0; ; {
		select {
		case <-pulse.C:
			t.guard.pauses.note(t.guard.now())
			pulse.Reset(UntilMultiple(t.guard.pauses.adapt(packets)))
			packets = 0
		case p := <-t.NodeAwareTransport.PacketCh():
			packets++
			if !t.guard.packet(p.Buf, SourceOf(p.From, t.guard.isMember)) {
				continue
			}
			t.guard.count.Packets.Add(1)
			select {
			case t.packets <- p:
			case <-t.ctx.Done():
				return
			}
		case <-t.ctx.Done():
			return
		}
	}
}

func (t *Transport) accept() {
	defer close(t.drained)
	for {
		select {
		case conn := <-t.NodeAwareTransport.StreamCh():
			if conn = t.track(conn); conn == nil {
				continue
			}
			at, ok := t.guard.enter(conn)
			if !ok {
				_ = conn.Close()
				continue
			}
			t.wg.Go(func() { t.sort(conn, at) })
		case <-t.ctx.Done():
			return
		}
	}
}

// sort decides by a stream's first byte who gets it.
func (t *Transport) sort(conn net.Conn, at *openStream) {
	first := make([]byte, 1)
	_ = conn.SetDeadline(time.Now().Add(helloTimeout))
	n, err := conn.Read(first)
	if err != nil || n == 0 {
		at.leave()
		_ = conn.Close()
		return
	}
	conn = &peeked{Conn: conn, first: first, keep: at.keep}
	if first[0] == tlsRecord {
		t.cfg.Enrol(conn)
		at.leave()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	conn = t.guard.wrap(conn, at)
	select {
	case t.streams <- conn:
	case <-t.ctx.Done():
		_ = conn.Close()
	}
}

// WriteToAddress sends a packet, with a proof if a is a member's. A packet that the system refuses to send, for example
// because this machine's firewall drops it, counts as lost like any other: if memberlist saw the error, it would not go
// on to ask the node by TCP.
func (t *Transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	a = t.via(a)
	buf := packetBuffers.Get().(*packetBuffer)
	defer packetBuffers.Put(buf)
	b = t.prover.prove(buf, t.guard, b, a)
	at, err := t.NodeAwareTransport.WriteToAddress(b, a)
	if err == nil {
		return at, nil
	}
	t.guard.count.SendErrors.Add(1)
	if id, err := frame.ParseID(a.Name); err == nil {
		t.cfg.Unsent(id)
	}
	return time.Now(), nil
}

// via returns where to send what is meant for a node.
func (t *Transport) via(a memberlist.Address) memberlist.Address {
	if a.Name != "" {
		if addr, ok := t.cfg.Members.Detour(a.Name); ok {
			a.Addr = addr.String()
		}
	}
	return a
}

// PacketCh returns the packets that passed the guard.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh returns memberlist's share of the accepted streams.
func (t *Transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout opens a stream.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream, within timeout and MaxDial. The stream ends after StreamTimeout: memberlist writes
// our messages without a deadline, so a receiver that does not read would hold the stream forever.
func (t *Transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	conn, err := t.DialUnchecked(a, timeout)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(StreamTimeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return t.guard.wrap(conn, t.guard.dialled(conn)), nil
}

// DialUnchecked opens a stream whose messages are not checked.
func (t *Transport) DialUnchecked(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, min(timeout, MaxDial))
	defer cancel()
	var conn net.Conn
	var err error
	if a = t.via(a); t.cfg.Dial != nil {
		conn, err = t.cfg.Dial(ctx, a.Addr)
	} else {
		conn, err = t.NodeAwareTransport.DialAddressTimeout(a, MaxDial)
	}
	if err != nil {
		return nil, err
	}
	if conn = t.track(conn); conn == nil {
		return nil, errShutdown
	}
	return conn, nil
}

// Shutdown closes the sockets and every stream, and waits for everything it started.
func (t *Transport) Shutdown() error {
	t.mu.Lock()
	t.ended = true
	open := t.open
	t.open = nil
	t.mu.Unlock()
	for conn := range open {
		_ = conn.Close()
	}
	// The sockets' own goroutines may be waiting to hand over a stream: keep accepting until they have ended.
	err := t.NodeAwareTransport.Shutdown()
	t.cancel()
	<-t.drained
	t.wg.Wait()
	return err
}

// track records a stream until it is closed; after Shutdown it closes the stream at once and returns nil.
func (t *Transport) track(conn net.Conn) net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		_ = conn.Close()
		return nil
	}
	c := &tracked{Conn: conn, t: t}
	t.open[c] = struct{}{}
	return c
}

type tracked struct {
	net.Conn
	t *Transport
}

func (c *tracked) Close() error {
	c.t.mu.Lock()
	delete(c.t.open, c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}

// peeked returns the byte that was read ahead.
type peeked struct {
	net.Conn
	first []byte
	keep  func() // see openStream
}

func (c *peeked) Read(b []byte) (int, error) {
	if len(c.first) > 0 && len(b) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// Keep saves a stream given to Enrol from making room for others, unless all are kept.
func Keep(conn net.Conn) {
	if c, ok := conn.(*peeked); ok {
		c.keep()
	}
}

// asNodeAware lets a plain transport, such as tests use, take addresses with names.
func asNodeAware(t memberlist.Transport) memberlist.NodeAwareTransport {
	if n, ok := t.(memberlist.NodeAwareTransport); ok {
		return n
	}
	return plainTransport{t}
}

type plainTransport struct{ memberlist.Transport }

func (p plainTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return p.WriteTo(b, a.Addr)
}

func (p plainTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return p.DialTimeout(a.Addr, timeout)
}
