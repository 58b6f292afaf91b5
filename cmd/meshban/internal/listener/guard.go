package listener

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/simplelru"
	"golang.org/x/time/rate"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
)

// keyed is a route for clients with a key.
type keyed func(w http.ResponseWriter, r *http.Request, k apikey.Key)

// may admits requests with a key that has a right.
func (s *Server) may(right string, next keyed) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addr := clientOf(r)
		k, ok := s.cfg.Keys.Find(secretOf(r), time.Now(), addr, r.UserAgent())
		room := ok && admits(r.Context(), k.Name)
		if room {
			w.Header().Del("Connection")
		}
		switch {
		case !ok:
			s.Stats.Forbidden.Add(1)
			s.guard.wait(r, addr)
			status := http.StatusForbidden
			if strings.HasPrefix(r.URL.Path, ui.Root) { // a browser asks its user for the key
				w.Header().Set("WWW-Authenticate", `Basic realm="meshban, with a key as the password", charset="UTF-8"`)
				status = http.StatusUnauthorized
			}
			refuse(w, status, "access forbidden")
		case !room:
			refuse(w, http.StatusTooManyRequests, fmt.Sprintf("the key %s has %d connections already: make another with `meshban key add NAME`", k.Name, maxKeyConns))
		case !k.Can(right):
			refuse(w, http.StatusForbidden, "the key "+k.Name+" may not "+right+": make another with `meshban key add NAME --may "+right+"`")
		case len(r.URL.RawQuery) > maxQuery:
			refuse(w, http.StatusRequestURITooLong, "the query has more than "+strconv.Itoa(maxQuery)+" bytes")
		default:
			next(w, r, k)
		}
	})
}

// secretOf returns the key that a request shows: X-Api-Key, a bearer token, or the password of Basic.
func secretOf(r *http.Request) string {
	if key := r.Header.Get("X-Api-Key"); key != "" {
		return key
	}
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	_, password, _ := r.BasicAuth()
	return password
}

// clientOf returns the address of the client.
func clientOf(r *http.Request) netip.Addr {
	ap, _ := netip.ParseAddrPort(r.RemoteAddr)
	return ap.Addr().Unmap()
}

// guard slows those who try keys.
type guard struct {
	slowed chan struct{} // holds one token for each wrong key that waits

	mu        sync.Mutex     // guards what follows
	strangers *simplelru.LRU // netip.Prefix -> *rate.Limiter
}

func newGuard() *guard {
	lru, err := simplelru.NewLRU(maxStrangers, nil)
	if err != nil {
		panic(err) // only a size below 1 is refused
	}
	return &guard{slowed: make(chan struct{}, maxSlowed), strangers: lru}
}

// wait returns after slowedFor if addr has shown too many wrong keys, and otherwise at once.
func (g *guard) wait(r *http.Request, addr netip.Addr) {
	if g.mistake(time.Now(), addr) {
		return
	}
	select {
	case g.slowed <- struct{}{}:
		defer func() { <-g.slowed }()
	default:
		return // enough are waiting; the limit of connections holds
	}
	select {
	case <-time.After(slowedFor):
	case <-r.Context().Done():
	}
}

// mistake notes a wrong key and reports whether addr has some mistakes left.
func (g *guard) mistake(now time.Time, addr netip.Addr) bool {
	who := sameClient(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	v, ok := g.strangers.Get(who)
	if !ok {
		v = rate.NewLimiter(rate.Every(time.Minute/freeMistakes), freeMistakes)
		g.strangers.Add(who, v)
	}
	return v.(*rate.Limiter).AllowN(now, 1)
}

// send writes one body of JSON, without a newline: a client compares with the bytes null.
func send(w http.ResponseWriter, status int, body []byte) {
	deadline(w)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails if the client is gone
}

// refuse writes an error. Debian's firewall bouncer dies of one without a message.
func refuse(w http.ResponseWriter, status int, message string) {
	body, err := json.Marshal(map[string]string{"message": message})
	if err != nil {
		return // cannot happen: only strings
	}
	send(w, status, body)
}

// deadline gives the client writeTimeout for the next write.
func deadline(w http.ResponseWriter) {
	// Fails only for a ResponseWriter without a connection, which needs no deadline.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
}
