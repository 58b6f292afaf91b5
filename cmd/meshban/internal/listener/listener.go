package listener

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
)

// Agent is what the listener needs of the daemon. Methods are called concurrently.
type Agent interface {
	// Bans calls yield for each ban of all ports that is in force and has no exception inside, in any order, and stops
	// with its error. It holds no lock during yield.
	Bans(ctx context.Context, yield func(Ban) error) error
	// Exact returns the ban of exactly each prefix; its zero value stands for a prefix for which Bans has none.
	Exact(prefixes []netip.Prefix) []Ban
	// Covering returns the bans that contain a prefix, itself included.
	Covering(prefix netip.Prefix) []Ban

	Ban(ctx context.Context, req control.BanRequest) (control.BanReply, error)
	Unban(ctx context.Context, req control.UnbanRequest) (control.UnbanReply, error)
	Allow(ctx context.Context, req control.AllowRequest) (control.AllowReply, error)
}

// Ban is a ban of all ports in force.
type Ban struct {
	Prefix netip.Prefix
	Until  time.Time
	Source string
}

// Config configures a Server.
type Config struct {
	Agent Agent
	Keys  *apikey.Ring
	API   config.API
	Feed  http.Handler // answers /feed/{format}; nil = not found
	Page  http.Handler // answers below /ui/; nil = not found
	// Known are the bans that have ended lately, of an earlier run, oldest first.
	Known  []Ended
	Logger *slog.Logger
}

// Ended is a ban that has ended.
type Ended struct {
	Prefix netip.Prefix
	At     time.Time
	Source string // of the ban; "" = unknown
}

func (c Config) validate() error {
	switch {
	case c.Agent == nil || c.Keys == nil || c.Logger == nil:
		return errors.New("api listener: no agent, keys or logger")
	case c.API.Listen.IsValid() && (c.API.Hold < config.MinHold || c.API.Hold > config.MaxHold):
		return fmt.Errorf("api listener: hold %v is out of bounds", c.API.Hold)
	}
	return nil
}

// Server is the listener. If the configuration names no address, it does nothing.
type Server struct {
	cfg     Config
	log     *slog.Logger
	changes *changes
	cursors *cursors
	guard   *guard
	spend   *spend
	held    chan struct{} // holds one token for each held answer
	large   chan struct{} // holds one token for each answer with all bans in force
	ready   chan struct{} // closed when the socket is open
	addr    atomic.Value  // string: where it is
	lobby   *lobby        // set before ready is closed
	Stats   Stats
}

// Stats counts since the start.
type Stats struct {
	Requests  atomic.Uint64
	Forbidden atomic.Uint64 // wrong keys, or none
	Dropped   atomic.Uint64 // connections without a key that made room for others
	Held      atomic.Int64  // now
}

// New returns a Server that does nothing yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, changes: newChanges(cfg.Known), cursors: newCursors(), guard: newGuard(), spend: newSpend(),
		held: make(chan struct{}, maxHeld), large: make(chan struct{}, maxLarge), ready: make(chan struct{}),
	}
	if !cfg.API.Listen.IsValid() {
		close(s.ready)
	}
	return s, nil
}

// On reports whether the configuration has the listener.
func (s *Server) On() bool { return s.cfg.API.Listen.IsValid() }

// Ready is closed when the socket is open, or if there is none.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr returns where the listener answers, or "" if it is not open.
func (s *Server) Addr() string {
	addr, _ := s.addr.Load().(string)
	return addr
}

// Run serves until ctx ends. Then held answers end at once and running requests within a second. It must be called
// once.
func (s *Server) Run(ctx context.Context) error {
	if !s.On() {
		<-ctx.Done()
		return nil
	}
	l, err := s.listen()
	if err != nil {
		return err
	}
	s.lobby = newLobby(netutil.LimitListener(l, maxConns), &s.Stats.Dropped)
	s.addr.Store(l.Addr().String())
	close(s.ready)
	s.log.Info("api listener is open", "addr", s.Addr(), "tls", s.cfg.API.Certificate != "")
	var tasks sync.WaitGroup
	defer tasks.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	tasks.Go(func() { s.changes.run(ctx) })
	tasks.Go(func() { s.saveUse(ctx) })

	err = control.Serve(ctx, &http.Server{
		Handler:           s.routes(ctx),
		ConnContext:       withConn,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout + bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(serverLog{s.log}, "", 0),
	}, s.lobby)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// listen opens the socket.
func (s *Server) listen() (net.Listener, error) {
	pair, err := newPair(s.cfg.API, s.log)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", s.cfg.API.Listen.String())
	if err != nil {
		return nil, fmt.Errorf("listen: %w; `ss -ltnp` shows who has the port, or change api.listen in meshban.yaml", err)
	}
	if pair != nil {
		l = pair.listener(l)
	}
	return l, nil
}

// saveUse writes who used the keys now and then, and at the end.
func (s *Server) saveUse(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if err := s.cfg.Keys.Save(); err != nil {
			s.log.Warn("could not note who used the api keys", "err", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// serverLog logs what net/http reports at debug level: strangers can make it talk.
type serverLog struct{ logger *slog.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	l.logger.Debug("api listener", "problem", string(line))
	return len(line), nil
}

// Touched notes that the bans of some prefixes have changed, in whatever way.
func (s *Server) Touched(now time.Time, touches ...Touch) {
	if s.On() {
		s.changes.add(now, touches)
	}
}

// routes returns the handler. Held answers end with server.
func (s *Server) routes(server context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { send(w, http.StatusOK, []byte(`{"status":"up"}`)) })
	mux.Handle("GET /v1/decisions/stream", s.may(apikey.Read, func(w http.ResponseWriter, r *http.Request, k apikey.Key) { s.stream(server, w, r, k) }))
	mux.Handle("GET /v1/decisions", s.may(apikey.Read, s.decisions))
	mux.Handle("POST /v1/usage-metrics", s.may(apikey.Read, usage))
	mux.Handle("POST /v1/ban", s.may(apikey.Ban, s.ban))
	mux.Handle("POST /v1/unban", s.may(apikey.Unban, s.unban))
	mux.Handle("POST /v1/allow", s.may(apikey.Allow, s.allow))
	if s.cfg.Feed != nil {
		mux.Handle("GET /feed/{format}", s.may(apikey.Read, func(w http.ResponseWriter, r *http.Request, k apikey.Key) {
			s.cfg.Feed.ServeHTTP(w, r.WithContext(withKey(r.Context(), k)))
		}))
	}
	if s.cfg.Page != nil {
		mux.Handle(ui.Root, s.may(apikey.Look, func(w http.ResponseWriter, r *http.Request, k apikey.Key) { s.page(server, w, r, k) }))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, notHere)
	})
	cross := new(http.CrossOriginProtection) // a browser may remember a key
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, "this request comes from a web page of another site")
	}))
	guarded := cross.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Stats.Requests.Add(1)
		// Until it has shown a key: strangers must not keep connections.
		w.Header().Set("Connection", "close")
		if p := r.URL.Path; r.Method == http.MethodConnect || p != path.Clean(p) && p != ui.Root { // else the mux redirects, without a message
			refuse(w, http.StatusNotFound, notHere)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		r.Body = http.MaxBytesReader(w, r.Body, control.MaxBody)
		guarded.ServeHTTP(w, r)
	})
}

const notHere = "there is nothing at this path: `meshban help api` lists what there is"

type keyKey struct{}

func withKey(ctx context.Context, k apikey.Key) context.Context {
	return context.WithValue(ctx, keyKey{}, k)
}

// KeyOf returns the key of a request to the feed.
func KeyOf(ctx context.Context) apikey.Key {
	k, _ := ctx.Value(keyKey{}).(apikey.Key)
	return k
}

// CheckFiles returns an error if the listener's certificate cannot be used.
func CheckFiles(api config.API) error {
	_, err := newPair(api, slog.New(slog.DiscardHandler))
	return err
}

// readable returns an error of a file with the key of the config that names it.
func readable(key, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return &config.Error{Key: key, Problem: err.Error(), Remedy: "write the path of a PEM file that the agent may read"}
	}
	return f.Close()
}
