package listener

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
)

// echoPage says who asks, and whether he may make changes.
var echoPage = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s: %v, %s", r.Method, KeyOf(r.Context()).Name, control.MayChange(r.Context()), r.Header.Get(ui.SessionHeader))
})

// The page is for keys that may look; a browser asks for one.
func TestPageNeedsAKey(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name, method, key string
		header            []string
		status            int
		says              string
	}{
		{"ok: looks", "GET", w.keys[apikey.Look], nil, 200, "GET look: false, key look"},
		{"ok: operates", "GET", w.keys["both"], nil, 200, "GET both: true, key both"},
		{"ok: form", "POST", w.keys["both"], nil, 200, "POST both: true"},
		{"ok: made-up session", "GET", w.keys[apikey.Look], []string{ui.SessionHeader, "key both"}, 200, "GET look: false, key look"},
		{"bad: only reads", "GET", w.keys[apikey.Read], nil, 403, "may not look"},
		{"bad: operates without looking", "GET", w.keys[apikey.Operate], nil, 403, "may not look"},
		{"bad: form of another site", "POST", w.keys["both"], []string{"Origin", "http://evil.example"}, 403, "another site"},
		{"bad: no key", "GET", "", nil, 401, "access forbidden"},
		{"bad: wrong key", "GET", strings.Repeat("A", 40), nil, 401, "access forbidden"},
	} {
		for _, path := range []string{ui.Root, ui.Root + "bans"} {
			t.Run(c.name+" at "+path, func(t *testing.T) {
				r := httptest.NewRequest(c.method, "http://127.0.0.1:8080"+path, nil)
				if c.key != "" {
					r.SetBasicAuth("alice", c.key)
				}
				for i := 0; i < len(c.header); i += 2 {
					r.Header.Set(c.header[i], c.header[i+1])
				}
				rec := httptest.NewRecorder()
				w.handler.ServeHTTP(rec, r)
				if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.says) {
					t.Errorf("HTTP %d %s, want %d %q", rec.Code, rec.Body, c.status, c.says)
				}
				if asks := rec.Header().Get("WWW-Authenticate") != ""; asks != (c.status == 401) {
					t.Errorf("asks for a key: %v", asks)
				}
			})
		}
	}
}

// Forms spend what the key may change.
func TestPageSpends(t *testing.T) {
	w := newWorld(t)
	last := 0
	for range 3 { // the key may change 2 a minute
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:8080/ui/do/ban", nil)
		r.SetBasicAuth("alice", w.keys["both"])
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, r)
		last = rec.Code
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the third form in a moment: HTTP %d", last)
	}
}
