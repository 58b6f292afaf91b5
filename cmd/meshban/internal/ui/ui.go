package ui

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// Root is the path below which everything lies.
const Root = "/ui/"

// Bounds.
const (
	pageRows     = 50               // rows of a table before the next page
	maxQuery     = 200              // bytes of a search
	maxSkip      = 100_000          // rows before a page
	maxLive      = 32               // live tails at a time
	maxPages     = 8                // pages being made at a time; more wait
	pageTimeout  = 20 * time.Second // to make a page
	writeTimeout = 30 * time.Second // for the browser to take an answer
)

// Agent is what the page shows, and by which it changes things.
type Agent interface {
	control.Agent
	// NodeName returns this node's name.
	NodeName() string
	// Find calls yield for each banned entry that a search finds, and stops with its error. As List, it holds no lock
	// during yield.
	Find(ctx context.Context, s Search, yield func(control.ListEntry) error) error
	// Pace returns the bans of the last day.
	Pace() Pace
	// Way returns how long the last fresh ban took into each kernel.
	Way(ctx context.Context) Way
	// Hooks returns the hooks of the configuration.
	Hooks() []Hook
}

// Way is a ban's way through the mesh. The zero value is none.
type Way struct {
	Prefix control.Prefix
	Origin string
	At     time.Time          // when this kernel had it
	MS     map[string]float64 // by a node's id, from the decision to its kernel; a node that has not said so is not in it
}

// Hook is a hook of the configuration. It has no secrets.
type Hook struct {
	Name string
	On   []string // events
	By   string   // what it does, in words
}

// layoutFile is what is around every page.
const layoutFile = "files/layout.html"

//go:embed files
var files embed.FS

// Handler serves the page. It is safe for concurrent use.
type Handler struct {
	agent Agent
	log   *slog.Logger
	now   func() time.Time
	key   [32]byte      // signs what goes through the browser
	live  chan struct{} // a token per live tail; full = refuse more
	turns chan struct{} // a token per page that is being made
	pages map[string]*template.Template
	mux   *http.ServeMux
}

// New returns a Handler for requests below Root, with control.MayChange in their context.
func New(agent Agent, log *slog.Logger) (*Handler, error) {
	h := &Handler{
		agent: agent, log: log, now: time.Now,
		live: make(chan struct{}, maxLive), turns: make(chan struct{}, maxPages),
		pages: make(map[string]*template.Template), mux: http.NewServeMux(),
	}
	if _, err := rand.Read(h.key[:]); err != nil {
		return nil, err
	}
	layout, err := template.New(path.Base(layoutFile)).Funcs(h.funcs()).ParseFS(files, layoutFile)
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(files, "files/*.html")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name == layoutFile {
			continue
		}
		page, err := layout.Clone()
		if err == nil {
			page, err = page.ParseFS(files, name)
		}
		if err != nil {
			return nil, err
		}
		h.pages[strings.TrimSuffix(path.Base(name), ".html")] = page
	}
	h.routes()
	return h, nil
}

func (h *Handler) routes() {
	for _, s := range screens {
		pattern := Root + s.path
		if s.path == "" {
			pattern += "{$}"
		}
		h.mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) { h.show(w, r, s) })
	}
	h.mux.HandleFunc("POST "+Root+"do/{action}", h.act)
	h.mux.HandleFunc("GET "+Root+"find", h.find)
	h.mux.HandleFunc("GET "+Root+"live", h.tail)
	for _, name := range []string{"page.js", "style.css", "icon.svg"} {
		h.mux.HandleFunc("GET "+Root+name, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-cache")
			http.ServeFileFS(w, r, files, "files/"+name)
		})
	}
	h.mux.HandleFunc(Root, func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, &control.Error{Code: control.CodeNotFound, Message: "there is no such page", Hint: "the menu lists all pages"})
	})
}

// policy is the Content-Security-Policy of everything that is served.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; " +
	"img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Content-Security-Policy", policy)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "same-origin") // no-referrer would make the Origin of forms null
	head.Set("Cross-Origin-Opener-Policy", "same-origin")
	head.Set("Cache-Control", "no-store")
	deadline(w)
	h.mux.ServeHTTP(w, r)
}

// screen is one page.
type screen struct {
	path  string // below Root
	name  string // of its template
	title string
	group string // of the menu; "" = not in it
	load  func(h *Handler, ctx context.Context, r *http.Request) (any, error)
}

var screens = []screen{
	{"", "overview", "Overview", "look", (*Handler).overview},
	{"mesh", "mesh", "Mesh", "look", (*Handler).mesh},
	{"bans", "bans", "Bans", "look", (*Handler).bans},
	{"why", "why", "Why", "", (*Handler).why},
	{"held", "held", "On hold", "decide", (*Handler).held},
	{"allow", "allow", "Allow list", "decide", (*Handler).allowed},
	{"members", "members", "Members", "manage", (*Handler).members},
	{"keys", "keys", "Keys and hooks", "manage", (*Handler).keys},
	{"audit", "audit", "Audit", "check", (*Handler).audit},
	{"drill", "drill", "Drill", "check", (*Handler).drill},
}

// view is what the layout shows around a page.
type view struct {
	Page   string // name of the template
	Title  string
	Node   string
	Groups [][]screenLink
	Who    who
	Note   *note
	Query  string // in the search field
	Data   any
}

// screenLink is an entry of the menu.
type screenLink struct {
	Path, Title string
	Here        bool
}

// menu returns the entries of the menu, by group.
func menu(here string) (groups [][]screenLink) {
	group := ""
	for _, s := range screens {
		if s.group == "" {
			continue
		}
		if s.group != group {
			group = s.group
			groups = append(groups, nil)
		}
		last := &groups[len(groups)-1]
		*last = append(*last, screenLink{Root + s.path, s.title, s.name == here})
	}
	return groups
}

// place returns the page of the menu to which a page belongs.
func place(name string, data any) string {
	q, asks := data.(question)
	switch {
	case asks:
		return q.Back
	case name == "why":
		return "bans"
	case name == "newkey":
		return "keys"
	}
	return name
}

// show makes a page.
func (h *Handler) show(w http.ResponseWriter, r *http.Request, s screen) {
	ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
	defer cancel()
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		h.fail(w, r, &control.Error{Code: control.CodeFailed, Message: "too many pages are being made", Hint: "try again in a moment"})
		return
	}
	data, err := s.load(h, ctx, r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.render(w, r, http.StatusOK, s.name, s.title, data)
}

// fail shows an error as a page.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		return // the browser is gone
	}
	e := control.AsError(err)
	h.render(w, r, e.Status(), "error", "Not done", e)
}

func (h *Handler) render(w http.ResponseWriter, r *http.Request, status int, name, title string, data any) {
	v := view{
		Page: name, Title: title, Node: h.agent.NodeName(), Groups: menu(place(name, data)), Who: h.who(r), Data: data,
	}
	if name == "bans" {
		v.Query = cut(r.FormValue("q"), maxQuery)
	}
	v.Note = h.noteOf(r, v.Who)
	var out bytes.Buffer
	if err := h.pages[name].Execute(&out, v); err != nil {
		h.log.Error("the page could not be made", "page", name, "err", err)
		http.Error(w, "this page could not be made; the agent's log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // fails if the browser is gone
}

// deadline gives the browser writeTimeout for what is written next.
func deadline(w http.ResponseWriter) {
	// Fails only for a ResponseWriter without a connection, which needs no deadline.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
}

// cut returns at most n bytes of s, valid as UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
