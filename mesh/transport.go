package mesh

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/transport"
)

const (
	// maxDial bounds the time to open a stream.
	maxDial = 2 * time.Second
	// helloTimeout bounds the time from accepting a stream to its first byte and, if that begins a TLS hello, to the
	// end of the handshake and the request.
	helloTimeout = 2 * time.Second
	// tlsRecord is the first byte of a TLS ClientHello; memberlist's streams begin with 10 or 244.
	tlsRecord = 0x16
)

var errShutdown = errors.New("the transport is shut down")

// checkedTransport sits between memberlist and the sockets. It hands accepted streams that begin like TLS to enrolment and all
// others to memberlist, makes the guard check everything that memberlist gets, and ends every stream and dial at
// Shutdown, which memberlist's own transport does not.
type checkedTransport struct {
	memberlist.NodeAwareTransport
	dial   func(ctx context.Context, addr memberlist.Address) (net.Conn, error)
	enrol  func(net.Conn)
	guard  *guard
	prover *prover // nil: packets go as memberlist makes them
	// unsent is called with a node to which the system refused to send a packet. It must not block. nil: not called.
	unsent func(frame.ID)
	// detour returns where the node with a name is reached if not at the address that memberlist knows. nil: always there.
	detour func(name string) (netip.AddrPort, bool)

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

// startTransport wraps inner; enrol takes over a stream and closes it.
func startTransport(inner memberlist.Transport, g *guard, prover *prover, enrol func(net.Conn)) *checkedTransport {
	t := &checkedTransport{
		enrol:   enrol,
		guard:   g,
		prover:  prover,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		drained: make(chan struct{}),
		open:    make(map[net.Conn]struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.NodeAwareTransport = asNodeAware(inner)
	if _, ok := inner.(*transport.Sockets); ok {
		t.dial = func(ctx context.Context, a memberlist.Address) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", a.Addr)
		}
	} else {
		t.dial = func(_ context.Context, a memberlist.Address) (net.Conn, error) {
			return t.NodeAwareTransport.DialAddressTimeout(a, maxDial)
		}
	}
	t.wg.Go(t.filter)
	go t.accept()
	return t
}

// filter passes on the packets that the guard accepts.
func (t *checkedTransport) filter() {
	pulse := time.NewTimer(pulseEvery)
	defer pulse.Stop()
	for packets := 0; ; {
		select {
		case <-pulse.C:
			t.guard.pauses.note(t.guard.now())
			pulse.Reset(untilMultiple(t.guard.pauses.adapt(packets)))
			packets = 0
		case p := <-t.NodeAwareTransport.PacketCh():
			packets++
			if !t.guard.packet(p.Buf, sourceOf(p.From, t.guard.isMember)) {
				continue
			}
			t.guard.count.packets.Add(1)
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

func (t *checkedTransport) accept() {
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
func (t *checkedTransport) sort(conn net.Conn, at *openStream) {
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
		t.enrol(conn)
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
func (t *checkedTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	a = t.via(a)
	if t.prover != nil {
		buf := packetBuffers.Get().(*packetBuffer)
		defer packetBuffers.Put(buf)
		b = t.prover.prove(buf, t.guard, b, a)
	}
	at, err := t.NodeAwareTransport.WriteToAddress(b, a)
	if err == nil {
		return at, nil
	}
	t.guard.count.sendErrors.Add(1)
	if id, err := frame.ParseID(a.Name); err == nil && t.unsent != nil {
		t.unsent(id)
	}
	return time.Now(), nil
}

// via returns where to send what is meant for a node.
func (t *checkedTransport) via(a memberlist.Address) memberlist.Address {
	if t.detour != nil && a.Name != "" {
		if addr, ok := t.detour(a.Name); ok {
			a.Addr = addr.String()
		}
	}
	return a
}

// PacketCh returns the packets that passed the guard.
func (t *checkedTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh returns memberlist's share of the accepted streams.
func (t *checkedTransport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout opens a stream.
func (t *checkedTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream, within timeout and maxDial. The stream ends after streamTimeout: memberlist writes
// our messages without a deadline, so a receiver that does not read would hold the stream forever.
func (t *checkedTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	conn, err := t.dialUnchecked(a, timeout)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(streamTimeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return t.guard.wrap(conn, t.guard.dialled(conn)), nil
}

// dialUnchecked opens a stream that the guard does not check.
func (t *checkedTransport) dialUnchecked(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, min(timeout, maxDial))
	defer cancel()
	conn, err := t.dial(ctx, t.via(a))
	if err != nil {
		return nil, err
	}
	if conn = t.track(conn); conn == nil {
		return nil, errShutdown
	}
	return conn, nil
}

// Shutdown closes the sockets and every stream, and waits for everything it started.
func (t *checkedTransport) Shutdown() error {
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
func (t *checkedTransport) track(conn net.Conn) net.Conn {
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
	t *checkedTransport
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
