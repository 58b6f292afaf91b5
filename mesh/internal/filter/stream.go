package filter

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// guardedConn is a memberlist stream, which carries one message in each direction.
type guardedConn struct {
	net.Conn
	g  *guard
	at *openStream

	read bool   // the message was read; used only by memberlist's goroutine, like the fields below
	rest []byte // of the message
	err  error
}

// wrap guards reads from a stream.
func (g *guard) wrap(conn net.Conn, at *openStream) net.Conn {
	return &guardedConn{Conn: conn, g: g, at: at}
}

// Read returns the message once all of it has arrived and passed the checks.
func (c *guardedConn) Read(b []byte) (int, error) {
	if !c.read {
		c.read = true
		if c.rest, c.err = c.message(); c.err == nil {
			c.err = io.EOF
		}
	}
	if len(c.rest) == 0 {
		return 0, c.err
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Close gives back what the stream took. memberlist closes a stream once it has handled the message.
func (c *guardedConn) Close() error {
	c.at.release()
	c.at.leave()
	return c.Conn.Close()
}

func (c *guardedConn) message() ([]byte, error) {
	head := make([]byte, 5, 512)
	if _, err := io.ReadFull(c.Conn, head); err != nil {
		return nil, err
	}
	if head[0] != mlwire.Encrypt {
		c.g.count.Strangers.Add(1)
		return nil, errNotEncrypted
	}
	n := int64(binary.BigEndian.Uint32(head[1:]))
	if n <= mlwire.Overhead || n > MaxStreamMessage {
		c.g.count.Refused.Add(1)
		return nil, fmt.Errorf("%w: %d bytes, want more than %d and at most %d", errStreamSize, n, mlwire.Overhead, MaxStreamMessage)
	}
	b, begin := head, time.Now()
	for total := int(n) + len(head); len(b) < total; { // at most twice as much memory as what has arrived
		size := min(total, max(streamStep, 2*len(b)))
		if more := int64(size - cap(b)); more > 0 {
			if !c.at.hold(more) {
				c.g.count.Limited.Add(1)
				return nil, errStreamBudget
			}
			b = append(make([]byte, 0, size), b...)
		}
		at := len(b)
		b = b[:min(size, cap(b))]
		from, free := c.at.from, false
		if !c.at.known { // all strangers share one account: there may be more of them than accounts
			from, free = netip.Addr{}, at < strangerFree
		}
		for !free && !c.g.arrived.Take(c.g.now(), from, len(b)-at) {
			if time.Since(begin) > StreamTimeout {
				return nil, errStreamBudget
			}
			time.Sleep(streamPause)
		}
		if _, err := io.ReadFull(c.Conn, b[at:]); err != nil {
			return nil, err
		}
	}
	b, err := c.g.stream(b, c.at.from)
	if err != nil {
		return nil, err
	}
	c.at.noteKey(c.g.now())
	return b, nil
}

// stream returns a streamed message as memberlist may see it, or what is wrong with it. It decrypts the whole message,
// although memberlist will do that again: only the tag at the end tells which key encrypted it.
func (g *guard) stream(b []byte, from netip.Addr) ([]byte, error) {
	head, sealed := b[:5], b[5:]
	if sealed[0] == 1 {
		for _, key := range g.keys() {
			a, err := g.aead(key)
			if err != nil {
				return nil, err
			}
			plain, err := a.Open(nil, sealed[1:1+mlwire.NonceLen], sealed[1+mlwire.NonceLen:], head)
			if err != nil {
				continue
			}
			milder, err := g.streamHead(plain, from)
			if err != nil {
				g.count.Refused.Add(1)
				return nil, err
			}
			if !g.allowMessage(g.now(), from, plain) {
				return nil, errStreamBudget
			}
			if milder == nil {
				return b, nil
			}
			binary.BigEndian.PutUint32(head[1:], uint32(mlwire.Overhead+len(milder)))
			return reseal(a, slices.Clip(b[:len(head)+1+mlwire.NonceLen]), milder, head), nil
		}
	}
	g.count.Strangers.Add(1)
	return nil, errNotEncrypted
}

// allowMessage reports whether a source may send a message that passed streamHead. One of our messages costs the same
// as in a packet if it would fit one; larger ones belong to a sync, and the sync's session bounds them.
func (g *guard) allowMessage(now time.Time, from netip.Addr, b []byte) bool {
	if b[0] != mlwire.User {
		return true
	}
	body, err := userBody(b[1:])
	if err != nil || len(body) > wire.MaxPacket {
		return err == nil
	}
	var frames [][]byte
	cost := userCost(body, &frames)
	return g.allow(now, from, cost, frames) && g.allowNotices(now, from, notices(body))
}

// userBody returns our message after memberlist's head; it must be all that follows.
func userBody(b []byte) ([]byte, error) {
	var head mlwire.UserHead
	dec := mlwire.NewDecoder(b)
	if err := dec.Decode(&head); err != nil {
		return nil, fmt.Errorf("%w: %w", errStreamKind, err)
	}
	body := b[dec.NumBytesRead():]
	if head.UserMsgLen != len(body) {
		return nil, errStreamSize
	}
	return body, nil
}

// streamHead checks the first bytes of a message, and all of a membership exchange. It returns what memberlist may see
// instead; nil: b itself.
func (g *guard) streamHead(b []byte, from netip.Addr) (milder []byte, err error) {
	n := len(b)
	switch b[0] {
	case mlwire.Ping, mlwire.Ack, mlwire.Err:
		if n > streamStep {
			return nil, errStreamSize
		}
		return nil, nil
	case mlwire.User:
		_, err := userBody(b[1:])
		return nil, err
	case mlwire.PushPull:
		var head mlwire.PushPullHead
		dec := mlwire.NewDecoder(b[1:])
		if err := dec.Decode(&head); err != nil {
			return nil, fmt.Errorf("%w: %w", errStreamKind, err)
		}
		if head.Nodes < 0 || head.Nodes > min(wire.MaxMembers, n/leastNode) || head.UserStateLen != 0 {
			return nil, errStreamSize
		}
		return g.checkMembership(dec, b, head.Nodes, from)
	}
	return nil, errStreamKind
}

// decode decodes a head as memberlist does.
func decode(b []byte, into any) error {
	if err := mlwire.Decode(b, into); err != nil {
		return fmt.Errorf("%w: %w", errStreamKind, err)
	}
	return nil
}
