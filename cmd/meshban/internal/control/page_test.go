package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// echoPage says whether whoever asks may make changes.
var echoPage = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "may change: ", MayChange(r.Context())) })

// The page is for those who may look; it learns who may change things, and is guarded as the rest of the socket is.
func TestPageIsGuarded(t *testing.T) {
	access := Access{Read: Group{"look", 20}, Write: Group{"change", 30}}
	s := &Server{cfg: ServerConfig{Agent: struct{ Agent }{}, Page: echoPage, Access: access, Logger: slog.New(slog.DiscardHandler)}}
	h := s.routes(t.Context())
	looks, changes, root := Peer{UID: 4242424, GID: 20}, Peer{UID: 4242424, GID: 30}, Peer{}
	form := []string{"Content-Type", formType}
	for _, c := range []struct {
		name   string
		peer   Peer
		method string
		path   string
		host   string
		header []string
		status int
		says   string
	}{
		{"ok: looks", looks, "GET", "/ui/", "localhost:8080", nil, 200, "may change: false"},
		{"ok: changes", changes, "GET", "/ui/", "127.0.0.1:8080", nil, 200, "may change: true"},
		{"ok: root", root, "GET", "/ui/", "[::1]:8080", nil, 200, "may change: true"},
		{"ok: form", root, "POST", "/ui/do/ban", "localhost", form, 200, "may change: true"},
		{"ok: form of this origin", root, "POST", "/ui/do/ban", "localhost:8080", append(form, "Origin", "http://localhost:8080"), 200, "may change: true"},
		{"ok: the root leads to it", root, "GET", "/", "localhost", nil, 303, ""},
		{"bad: foreign host", root, "GET", "/ui/", "evil.example", nil, 403, RuleBrowser},
		{"bad: form, foreign host", root, "POST", "/ui/do/ban", "evil.example", form, 403, RuleBrowser},
		{"bad: form of another site", root, "POST", "/ui/do/ban", "localhost:8080", append(form, "Origin", "https://evil.example"), 403, RuleBrowser},
		{"bad: form of another port", root, "POST", "/ui/do/ban", "localhost:8080", append(form, "Origin", "http://localhost:3000"), 403, RuleBrowser},
		{"bad: form without an origin", root, "POST", "/ui/do/ban", "localhost:8080", append(form, "Origin", "null"), 403, RuleBrowser},
		{"bad: cross-site form", root, "POST", "/ui/do/ban", "localhost:8080", append(form, "Sec-Fetch-Site", "cross-site"), 403, RuleBrowser},
		{"bad: JSON to a form", root, "POST", "/ui/do/ban", "localhost", []string{"Content-Type", jsonType}, 415, formType},
		{"bad: form to a command", root, "POST", pathBan, "localhost", form, 415, jsonType},
		{"bad: form to a command, by a detour", root, "POST", "/ui/../v1/ban", "localhost", form, 307, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(WithPeer(context.Background(), c.peer), c.method, "http://x"+c.path, strings.NewReader("addr=192.0.2.1"))
			r.Host = c.host
			for i := 0; i < len(c.header); i += 2 {
				r.Header.Set(c.header[i], c.header[i+1])
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("HTTP %d %s, want %d %q", w.Code, w.Body, c.status, c.says)
			}
		})
	}
}
