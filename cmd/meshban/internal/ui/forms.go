package ui

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// SessionHeader marks the requests of a browser that somebody has admitted who knows who it is, such as Proxy. A web page
// cannot send it.
const SessionHeader = "Meshban-Page"

// who is whoever looks at a page.
type who struct {
	Token string // goes into each form; "" = may only look
	Why   string // it may only look
}

// who returns who makes a request, and why it may only look.
func (h *Handler) who(r *http.Request) who {
	session := r.Header.Get(SessionHeader)
	switch {
	case !control.MayChange(r.Context()):
		return who{Why: "You may look, but not change anything."}
	case session == "":
		return who{Why: "This page only shows. To change things, open it with: meshban dashboard"}
	}
	return who{Token: h.sign("form", session)}
}

// sign returns what proves that this agent has made a text for a purpose.
func (h *Handler) sign(parts ...string) string {
	mac := hmac.New(sha256.New, h.key[:])
	for _, p := range parts {
		fmt.Fprintf(mac, "%d:%s", len(p), p)
	}
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// note says what became of a form. It goes through the browser, signed.
type note struct {
	Text string `json:"t"`
	Hint string `json:"h,omitempty"`
	Bad  bool   `json:"b,omitempty"`
	Undo *undo  `json:"u,omitempty"`
}

// undo is a form that takes back what another has done.
type undo struct {
	Action string            `json:"a"`
	Label  string            `json:"l"`
	Fields map[string]string `json:"f"`
}

// maxNote bounds the text of a note: it is part of a URL.
const maxNote = 1_000

// query returns the note as a parameter of a URL.
func (h *Handler) query(n note, me who) string {
	n.Text, n.Hint = cut(n.Text, maxNote), cut(n.Hint, maxNote)
	body, err := json.Marshal(n)
	if err != nil {
		return "" // cannot happen: only strings
	}
	return "note=" + base64.RawURLEncoding.EncodeToString(body) + "." + h.sign("note", me.Token, string(body))
}

// noteOf returns the note in a request; nil = none that this agent has made for this browser.
func (h *Handler) noteOf(r *http.Request, me who) *note {
	text, proof, ok := strings.Cut(r.URL.Query().Get("note"), ".")
	body, err := base64.RawURLEncoding.DecodeString(text)
	if !ok || err != nil || !hmac.Equal([]byte(proof), []byte(h.sign("note", me.Token, string(body)))) {
		return nil
	}
	var n note
	if json.Unmarshal(body, &n) != nil {
		return nil
	}
	return &n
}

// outcome is what an action has done: a note on another page, or a page of its own.
type outcome struct {
	note
	to   string // below Root, with the query
	page string // name of a template; "" = go to to
	data any
}

// question is asked before what cannot be undone.
type question struct {
	Title  string
	Lines  []string
	Button string
	Back   string
	Action string
	Fields url.Values
}

// act carries out a form.
func (h *Handler) act(w http.ResponseWriter, r *http.Request) {
	me := h.who(r)
	if me.Token == "" {
		h.fail(w, r, &control.Error{Code: control.CodePolicy, Rule: control.RuleAccess, Message: me.Why})
		return
	}
	if err := r.ParseForm(); err != nil {
		h.fail(w, r, &control.Error{Code: control.CodeUsage, Message: "the form cannot be read: " + err.Error()})
		return
	}
	form := r.PostForm
	if !hmac.Equal([]byte(form.Get("token")), []byte(me.Token)) {
		h.fail(w, r, &control.Error{Code: control.CodePolicy, Rule: "form", Message: "this form is not from this page, or the agent was restarted", Hint: "load the page again"})
		return
	}
	form.Del("token")
	a, ok := actions[r.PathValue("action")]
	if !ok {
		h.fail(w, r, &control.Error{Code: control.CodeNotFound, Message: "there is no such action"})
		return
	}
	if a.ask != nil && form.Get("sure") != "yes" {
		q, err := a.ask(h, r.Context(), form)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		q.Action, q.Fields = r.PathValue("action"), form
		h.render(w, r, http.StatusOK, "ask", q.Title, q)
		return
	}
	o, err := a.do(h, r.Context(), form)
	switch {
	case err != nil && o.to == "":
		h.fail(w, r, err)
		return
	case err != nil:
		e := control.AsError(err)
		o.note = note{Text: sentence(e.Message), Hint: sentence(e.Hint), Bad: true}
	case o.page != "":
		h.render(w, r, http.StatusOK, o.page, titleOf(o.page), o.data)
		return
	}
	join := "?"
	if strings.Contains(o.to, "?") {
		join = "&"
	}
	http.Redirect(w, r, Root+o.to+join+h.query(o.note, me), http.StatusSeeOther)
}

func titleOf(name string) string {
	for _, s := range screens {
		if s.name == name {
			return s.title
		}
	}
	return "Done"
}

// sentence begins with a capital letter and ends with a full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	if c := s[0]; 'a' <= c && c <= 'z' {
		s = string(c-'a'+'A') + s[1:]
	}
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// find leads from the search field to the page about what was typed.
func (h *Handler) find(w http.ResponseWriter, r *http.Request) {
	q := cut(strings.TrimSpace(r.FormValue("q")), maxQuery)
	to := "bans?q=" + url.QueryEscape(q)
	if p, err := config.ParsePrefix(q); err == nil && p.IsSingleIP() {
		to = whyOf(control.PrefixOf(p))
	}
	http.Redirect(w, r, Root+to, http.StatusSeeOther)
}

func whyOf(p control.Prefix) string { return "why?addr=" + url.QueryEscape(p.String()) }

// usage returns an error about a form's value.
func usage(err error) error {
	if bad, ok := errors.AsType[*config.Error](err); ok {
		return &control.Error{Code: control.CodeUsage, Message: bad.Problem, Hint: bad.Remedy}
	}
	return err
}
