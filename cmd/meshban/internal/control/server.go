package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// maxSocketPath is the longest socket path, in bytes, that all supported systems accept (sun_path of darwin and
// freebsd).
const maxSocketPath = 103

// ServerConfig configures a Server.
type ServerConfig struct {
	Agent  Agent
	Path   string       // the socket, in an existing folder that only the agent's user can write to
	Access Access       // who may connect besides root and that user
	Page   http.Handler // what is below /ui/, with MayChange; nil = not found
	Logger *slog.Logger // nil = none
}

func (c ServerConfig) validate() error {
	switch {
	case c.Agent == nil:
		return errors.New("control server: no agent")
	case c.Path == "":
		return errors.New("control server: no path")
	case len(c.Path) > maxSocketPath:
		return &Error{
			Code:    CodeUsage,
			Message: fmt.Sprintf("socket path %q has %d bytes, the limit is %d", c.Path, len(c.Path), maxSocketPath),
			Hint:    "choose a state folder with a shorter path: --dir",
		}
	}
	return nil
}

// Server serves an Agent on a unix socket.
type Server struct {
	cfg      ServerConfig
	watchers chan struct{} // a token per running event stream; full = refuse more
	running  sync.RWMutex  // handlers hold it for reading; Run locks it for good when it ends
	listener net.Listener  // set by listen
	door     *door         // wrapped by listener
	ready    chan struct{}
}

// NewServer validates cfg. It opens nothing.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, watchers: make(chan struct{}, MaxWatchers), ready: make(chan struct{})}, nil
}

// listen opens the socket, for its owner only and then for the groups of Access. It dials an existing socket first:
// if that is live it returns ErrInUse, and if dead it replaces it. The caller's lock on the folder separates two
// servers that start at the same instant.
func (s *Server) listen() error {
	if err := clearSocket(s.cfg.Path); err != nil {
		return err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// On Linux the file gets the mode of the unbound socket, so it is never open to others. Elsewhere this fails
		// and the chmod below sets the mode; meanwhile the door checks the peer's credentials.
		return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
	}}
	l, err := lc.Listen(context.Background(), "unix", s.cfg.Path)
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	if err := s.cfg.Access.open(s.cfg.Path); err != nil {
		return errors.Join(fmt.Errorf("open control socket: %w", err), l.Close())
	}
	s.door = newDoor(l, s.cfg.Access, s.cfg.Logger)
	s.listener = netutil.LimitListener(s.door, MaxConns)
	close(s.ready)
	return nil
}

// clearSocket removes a dead socket.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("open control socket: %q is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	switch {
	case err == nil:
		_ = conn.Close()
		return ErrInUse
	case !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist):
		// Full backlog, timeout, no permission: an agent may well be there.
		return fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove dead control socket: %w", err)
	}
	return nil
}

// Ready is closed when the socket is open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends. Then it gives running requests up to stopTimeout, ends streams at once, removes the
// socket, and returns nil when every handler has returned. It returns ErrInUse if another agent serves the path. It
// must be called once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.listen(); err != nil {
		return err
	}
	err := Serve(ctx, &http.Server{
		Handler:           s.routes(ctx), // streams end with ctx
		ConnContext:       withCaller,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout + bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(serverLog{s.cfg.Logger}, "", 0),
	}, s.listener)
	s.door.wait()
	s.running.Lock()
	if err != nil {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return nil
}

// Serve serves until ctx ends, and then gives running requests up to stopTimeout, so that a ban that arrived is answered.
// It sets srv.BaseContext. It returns nil, or why it ended before ctx.
func Serve(ctx context.Context, srv *http.Server, l net.Listener) error {
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	srv.BaseContext = func(net.Listener) context.Context { return base }
	served := make(chan error, 1) // one send, by the goroutine below
	go func() { served <- srv.Serve(l) }()
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		limit, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		if srv.Shutdown(limit) != nil {
			cut()
			_ = srv.Close()
		}
		done()
		err = <-served
	}
	cut()
	_ = srv.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// withCaller adds the peer of conn to ctx.
func withCaller(ctx context.Context, conn net.Conn) context.Context {
	if peer, ok := conn.RemoteAddr().(Peer); ok {
		return WithPeer(ctx, peer)
	}
	return ctx
}

// serverLog logs what net/http reports: a handler that panicked, a failed accept.
type serverLog struct{ logger *slog.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	l.logger.Error("control socket", "problem", string(bytes.TrimSpace(line)))
	return len(line), nil
}

// stream returns a copy of ctx that also ends with server.
func stream(ctx, server context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(server, cancel)
	return ctx, func() { stop(); cancel() }
}

// deadline gives the client writeTimeout for the next write.
func deadline(w http.ResponseWriter) {
	// Fails only for a ResponseWriter without a connection, which needs no deadline.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
}
