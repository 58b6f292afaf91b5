package ui

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"time"
)

// Proxy admits one browser to the page of an agent. It is what `meshban dashboard` runs, as a user who may use the
// control socket.
type Proxy struct {
	token   string      // opens the page, once
	used    atomic.Bool // the token was
	session string      // the cookie of the browser that did
	cookie  string      // its name
	next    http.Handler
}

// proxyHost is in the URL of requests to the socket.
const proxyHost = "meshban"

// NewProxy returns a Proxy that reaches the agent by dial, and whose browser comes to port.
func NewProxy(port string, dial func(ctx context.Context) (net.Conn, error)) *Proxy {
	p := &Proxy{token: rand.Text(), session: rand.Text(), cookie: "meshban-" + port}
	p.next = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", proxyHost
			r.Out.Host = r.In.Host // the agent checks it, with the Origin
			r.Out.Header.Del("Cookie")
			r.Out.Header.Set(SessionHeader, p.session)
		},
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableCompression: true, MaxIdleConns: 4, MaxIdleConnsPerHost: 4, IdleConnTimeout: 10 * time.Second,
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			plain(w, http.StatusBadGateway, fmt.Sprintf("The agent does not answer: %v.\nIs it running? `systemctl status meshban` tells; then load this page again.", err))
		},
	}
	return p
}

// Path returns the path and the query that open the page, once.
func (p *Proxy) Path() string { return Root + "?token=" + p.token }

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const again = "This address opens the page once, for one browser. Run `meshban dashboard` again for another one."
	c, err := r.Cookie(p.cookie)
	known := err == nil && same(c.Value, p.session)
	token := r.URL.Query().Get("token")
	switch {
	case r.URL.Path == Root && token != "" && same(token, p.token) && (known || !p.used.Swap(true)):
		http.SetCookie(w, &http.Cookie{Name: p.cookie, Value: p.session, Path: Root, HttpOnly: true, SameSite: http.SameSiteStrictMode})
		// A redirect would still count as a request of whoever had the address opened, without the cookie.
		w.Header().Set("Refresh", "0; url="+Root)
		w.Header().Set("Cache-Control", "no-store")
		answer(w, http.StatusOK, "text/html", `<!doctype html><title>meshban</title><p><a href="`+Root+`">Open the page</a>`)
	case !known:
		plain(w, http.StatusForbidden, again)
	case !strings.HasPrefix(r.URL.Path, Root):
		plain(w, http.StatusNotFound, "The page is at "+Root)
	default:
		p.next.ServeHTTP(w, r)
	}
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// plain answers in a line of text.
func plain(w http.ResponseWriter, status int, text string) { answer(w, status, "text/plain", text) }

func answer(w http.ResponseWriter, status int, media, text string) {
	w.Header().Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Content-Type", media+"; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}
