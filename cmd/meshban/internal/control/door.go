package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// door lets those connections in whose peer may do anything here, and answers the others itself, so that they take no
// place from anybody.
type door struct {
	net.Listener
	access Access
	log    *slog.Logger
	guests chan struct{} // a token for each connection of who is in by a group alone; full = no more of them
	away   chan struct{} // a token for each connection that is being refused; full = closed without a word
	busy   sync.WaitGroup
}

func newDoor(l net.Listener, access Access, log *slog.Logger) *door {
	return &door{Listener: l, access: access, log: log, guests: make(chan struct{}, maxGuests), away: make(chan struct{}, maxRefusals)}
}

// Accept returns the next connection that is let in. Its RemoteAddr is a Peer.
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
			case d.guests <- struct{}{}:
				return &caller{Conn: conn, peer: peer, leave: sync.OnceFunc(func() { <-d.guests })}, nil
			default:
				d.refuse(conn, &Error{Code: CodeFailed, Message: fmt.Sprintf("%d connections are open already, no more are taken", maxGuests)})
			}
		}
	}
}

// refuse answers one request with reason and closes the connection, without holding up Accept.
func (d *door) refuse(conn net.Conn, reason *Error) {
	select {
	case d.away <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	d.busy.Go(func() {
		defer func() { <-d.away }()
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(refuseTimeout))
		// The request is read first: a client that is still writing would not look at the answer.
		req, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, maxHeader+MaxBody)))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		body, err := json.Marshal(errorReply{reason})
		if err != nil {
			return // strings alone: cannot be
		}
		status := statusOf[reason.Code]
		fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			status, http.StatusText(status), len(body), body)
	})
}

// wait returns when nobody is being refused any more, after refuseTimeout at the latest. Accept must not be called
// again.
func (d *door) wait() { d.busy.Wait() }

// caller is a connection that was let in.
type caller struct {
	net.Conn
	peer  Peer
	leave func() // gives the place back; may be called again
}

func (c *caller) RemoteAddr() net.Addr { return c.peer }

func (c *caller) Close() error {
	c.leave()
	return c.Conn.Close()
}

func peerOfConn(conn net.Conn) (Peer, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("ask who connects: %T is no unix socket", conn)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("ask who connects: %w", err)
	}
	var peer Peer
	if outer := raw.Control(func(fd uintptr) { peer, err = peerOfSocket(int(fd)) }); outer != nil {
		err = outer
	}
	return peer, err
}
