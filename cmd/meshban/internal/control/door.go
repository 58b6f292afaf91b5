package control

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// door accepts connections from peers that Access allows. It answers the others itself, so that they use up no
// connection of the server.
type door struct {
	net.Listener
	access  Access
	log     *slog.Logger
	byGroup chan struct{} // a token per connection that only a group admits; full = refuse more
	refused chan struct{} // a token per connection being refused; full = close without an answer
	busy    sync.WaitGroup
}

func newDoor(l net.Listener, access Access, log *slog.Logger) *door {
	return &door{Listener: l, access: access, log: log, byGroup: make(chan struct{}, maxGroupConns), refused: make(chan struct{}, maxRefusals)}
}

// Accept returns the next allowed connection. Its RemoteAddr is a Peer.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := peerOfConn(conn)
		switch {
		case err != nil:
			d.log.Error("refused a connection to the control socket", "err", err)
			d.refuse(conn, &Error{Code: CodeFailed, Message: err.Error()})
		case !d.access.mayLook(peer):
			d.refuse(conn, d.access.refusal(peer))
		case peer.owns():
			return &caller{Conn: conn, peer: peer, leave: func() {}}, nil
		default:
			select {
			case d.byGroup <- struct{}{}:
				return &caller{Conn: conn, peer: peer, leave: sync.OnceFunc(func() { <-d.byGroup })}, nil
			default:
				d.refuse(conn, &Error{Code: CodeFailed, Message: fmt.Sprintf("%d connections are already open, which is the limit", maxGroupConns)})
			}
		}
	}
}

// refuse answers one request with reason and closes the connection. It does not delay Accept.
func (d *door) refuse(conn net.Conn, reason *Error) {
	select {
	case d.refused <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	d.busy.Go(func() {
		defer func() { <-d.refused }()
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(refuseTimeout))
		// Read the request first: a client that is still writing would not read the answer.
		req, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, maxHeader+MaxBody)))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		body := errorBody(reason)
		status := reason.Status()
		fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			status, http.StatusText(status), len(body), body)
	})
}

// wait returns when no refusal is running any more, after at most refuseTimeout. Accept must not be called
// afterwards.
func (d *door) wait() { d.busy.Wait() }

// caller is an accepted connection.
type caller struct {
	net.Conn
	peer  Peer
	leave func() // frees the connection's token; may be called again
}

func (c *caller) RemoteAddr() net.Addr { return c.peer }

func (c *caller) Close() error {
	c.leave()
	return c.Conn.Close()
}

func peerOfConn(conn net.Conn) (Peer, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("identify the peer: %T is not a unix socket", conn)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("identify the peer: %w", err)
	}
	var peer Peer
	if outer := raw.Control(func(fd uintptr) { peer, err = peerOfSocket(int(fd)) }); outer != nil {
		err = outer
	}
	return peer, err
}
