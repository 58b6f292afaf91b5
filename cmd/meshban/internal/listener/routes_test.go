package listener

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// Debian's firewall bouncer dies of an error without a message.
func TestEveryErrorHasAMessage(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		method, target, body string
		header               []string
		want                 int
	}{
		{"GET", "/v1/decisions/stream", "", []string{"X-Api-Key", "wrong"}, 403},
		{"GET", "/v1/decisions/stream", "", []string{"X-Api-Key", ""}, 403},
		{"POST", "/v1/ban", `{"addrs":["192.0.2.1"]}`, nil, 403}, // it may only read
		{"GET", "/", "", nil, 404},
		{"GET", "/v2/decisions", "", nil, 404},
		{"GET", "/v1//decisions", "", nil, 404},
		{"GET", "/v1/decisions/", "", nil, 404},
		{"DELETE", "/v1/decisions", "", nil, 404},
		{"POST", "/v1/decisions/stream", "", nil, 404},
		{"GET", "/v1/decisions?ip=nonsense", "", nil, 400},
		{"GET", "/v1/decisions?range=1.2.3.4/99", "", nil, 400},
		{"GET", "/v1/decisions?contains=maybe", "", nil, 400},
		{"GET", "/v1/decisions?limit=-1", "", nil, 400},
		{"GET", "/v1/decisions?ip=%zz", "", nil, 400},
		{"GET", "/v1/decisions/stream?origins=" + strings.Repeat("a,", maxWords), "", nil, 400},
		{"GET", "/v1/decisions/stream?x=" + strings.Repeat("a", maxQuery), "", nil, 414},
		{"POST", "/v1/usage-metrics", strings.Repeat("a", control.MaxBody+1), nil, 413},
	} {
		rec := w.ask(c.method, c.target, c.body, c.header...)
		var body map[string]string
		if err := json.Unmarshal(rec.Body.Bytes(), &body); rec.Code != c.want || err != nil || len(body) != 1 || body["message"] == "" {
			t.Errorf("%s %.60s: %d %s, want %d and a message", c.method, c.target, rec.Code, rec.Body, c.want)
		}
		if c.want == 403 && c.method == "GET" && rec.Body.String() != `{"message":"access forbidden"}` {
			t.Errorf("wrong key: %s", rec.Body)
		}
	}
}

func TestHealthNeedsNoKey(t *testing.T) {
	w := newWorld(t)
	if rec := w.ask("GET", "/health", "", "X-Api-Key", ""); rec.Code != 200 || rec.Body.String() != `{"status":"up"}` {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

func TestUsageMetrics(t *testing.T) {
	w := newWorld(t)
	if rec := w.ask("POST", "/v1/usage-metrics", "\x1f\x8b...", "Content-Encoding", "gzip"); rec.Code != 201 || rec.Body.Len() != 0 {
		t.Errorf("%d %q", rec.Code, rec.Body)
	}
}

func TestNothingIsCompressed(t *testing.T) {
	w := newWorld(t)
	w.set("192.0.2.1/32", "cli", time.Hour)
	if rec := w.ask("GET", "/v1/decisions/stream?startup=true", "", "Accept-Encoding", "gzip"); rec.Header().Get("Content-Encoding") != "" || !json.Valid(rec.Body.Bytes()) {
		t.Errorf("%v %q", rec.Header(), rec.Body)
	}
}

func TestWaysToShowAKey(t *testing.T) {
	w := newWorld(t)
	basic := httptest.NewRequest("GET", "/", nil)
	basic.SetBasicAuth("anybody", w.keys[apikey.Read])
	for _, value := range []string{"Bearer " + w.keys[apikey.Read], "bearer " + w.keys[apikey.Read], basic.Header.Get("Authorization")} {
		if rec := w.ask("GET", "/v1/decisions", "", "X-Api-Key", "", "Authorization", value); rec.Code != 200 {
			t.Errorf("%.8s: %d", value, rec.Code)
		}
	}
}

func TestWrongKeysAreCountedAndSlowed(t *testing.T) {
	w := newWorld(t)
	addr, now := netip.MustParseAddr("2001:db8::1"), time.Now()
	for range freeMistakes {
		if !w.guard.mistake(now, addr) {
			t.Error("slowed too soon")
		}
	}
	if w.guard.mistake(now, addr.Next()) {
		t.Error("not slowed, from the same /64")
	}
	if !w.guard.mistake(now, netip.MustParseAddr("192.0.2.1")) {
		t.Error("another is slowed")
	}
	w.ask("GET", "/v1/decisions", "", "X-Api-Key", "no")
	if n := w.Stats.Forbidden.Load(); n != 1 {
		t.Errorf("%d counted", n)
	}
}

// Strangers could keep all connections that the listener takes.
func TestOnlyAKeyKeepsAConnection(t *testing.T) {
	w := newWorld(t)
	url, _ := w.serve(t)
	for _, c := range []struct {
		path, key string
		kept      bool
	}{
		{"/v1/decisions", w.keys[apikey.Read], true},
		{"/v1/decisions", w.keys[apikey.Ban], true}, // it may not read
		{"/v1/decisions", "wrong", false},
		{"/health", "", false},
		{"/nothing", "", false},
	} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Api-Key", c.key)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.Close == c.kept {
			t.Errorf("%s with key %.5s: %d, the connection stays: %v, want %v", c.path, c.key, resp.StatusCode, !resp.Close, c.kept)
		}
	}
}

func TestKeysNarrowWhatIsRead(t *testing.T) {
	w := newWorld(t)
	narrow := w.key(t, w.cfg.Keys, apikey.Key{Name: "narrow", May: []string{apikey.Read}, Sources: []string{"line:*"}, Family: 4})
	w.set("192.0.2.1/32", "line:sshd", time.Hour)
	w.set("192.0.2.2/32", "cli", time.Hour)
	w.set("2001:db8::1/128", "line:sshd", time.Hour)
	w.pull(t, "?startup=true", "X-Api-Key", narrow).is(t, "narrow", []string{"192.0.2.1"}, nil)
	w.end("2001:db8::1/128")
	w.pull(t, "", "X-Api-Key", narrow).is(t, "the end of another family", nil, nil)
	w.end("192.0.2.2/32")
	w.pull(t, "", "X-Api-Key", narrow).is(t, "the end of another source", nil, nil)
	w.end("192.0.2.1/32")
	w.pull(t, "", "X-Api-Key", narrow).is(t, "the end of its source", nil, []string{"192.0.2.1"})
}

// A key that reads some sources is told of the ends that it may have to know of and, where the listener knows, of no
// others.
func TestEndsAreNarrowedToSources(t *testing.T) {
	const addr = "192.0.2.1/32"
	p := netip.MustParsePrefix(addr)
	set := func(source string) func(*world) { return func(w *world) { w.set(addr, source, time.Hour) } }
	end := func(w *world) { w.end(addr) }
	touch := func(touch Touch) func(*world) {
		touch.Prefix = p
		return func(w *world) { w.Touched(time.Now(), touch) }
	}
	again := func(w *world) {
		w.changes.mu.Lock()
		w.changes.repeatLocked(repeat{at: time.Now(), prefix: p})
		w.changes.mu.Unlock()
		w.changes.tell(time.Now())
	}
	for _, c := range []struct {
		name   string
		known  []Ended
		before []func(*world) // the client asks after each
		then   func(*world)
		told   bool
	}{
		{"ok: its own", nil, []func(*world){set("line:sshd")}, end, true},
		{"ok: its own that became another's", nil, []func(*world){set("line:sshd")}, set("cli"), true},
		{"ok: its own, which began before the log", nil, nil, touch(Touch{Gone: true, Source: "line:sshd"}), true},
		{"ok: nobody knows whose", nil, nil, touch(Touch{Gone: true}), true},
		{"ok: another's, after a longer one that may have been its own", nil, []func(*world){set("cli"), touch(Touch{})}, end, true},
		{"ok: another's, after its own", nil, []func(*world){set("line:sshd"), end, set("cli")}, end, true},
		{"bad: another's", nil, []func(*world){set("cli")}, end, false},
		{"bad: another's that was said again", nil, []func(*world){set("cli"), again}, end, false},
		{"bad: another's, which began before the log", nil, nil, touch(Touch{Gone: true, Source: "cli"}), false},
		{"ok: its own, before a restart", []Ended{{p, time.Now(), "line:sshd"}}, nil, func(*world) {}, true},
		{"bad: another's, before a restart", []Ended{{p, time.Now(), "cli"}}, nil, func(*world) {}, false},
	} {
		w := newWorld(t, c.known...)
		w.halt()
		narrow := w.key(t, w.cfg.Keys, apikey.Key{Name: "narrow", May: []string{apikey.Read}, Sources: []string{"line:*"}})
		if c.known == nil {
			w.pull(t, "", "X-Api-Key", narrow)
		}
		for _, f := range c.before {
			f(w)
			w.pull(t, "", "X-Api-Key", narrow)
		}
		c.then(w)
		if got := len(w.pull(t, "", "X-Api-Key", narrow).Deleted) == 1; got != c.told {
			t.Errorf("%s: told %v, want %v", c.name, got, c.told)
		}
	}
}

func TestChanges(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		right, path, body string
		want              int
		has               string
	}{
		{apikey.Ban, "/v1/ban", `{"addrs":["192.0.2.1","192.0.2.2"],"for":"1h","source":"import:x"}`, 200, `"state":"enforced"`},
		{apikey.Unban, "/v1/unban", `{"prefixes":["192.0.2.1"]}`, 200, "results"},
		{apikey.Allow, "/v1/allow", `{"prefixes":["192.0.2.1"]}`, 403, `{"message":"no; do this"}`},
		{apikey.Ban, "/v1/ban", `{"addrs":["example.org"]}`, 400, "message"},
		{apikey.Ban, "/v1/ban", `{"addrs":["192.0.2.1"],"fro":"1h"}`, 400, "message"},
		{apikey.Ban, "/v1/unban", `{"prefixes":["192.0.2.1"]}`, 403, "may not unban"},
		{apikey.Ban, "/v1/ban", `{"addrs":["192.0.2.3","192.0.2.4","192.0.2.5","192.0.2.6","192.0.2.7","192.0.2.8","192.0.2.9","192.0.2.10","192.0.2.11"]}`, 429, "--rate"},
		{apikey.Ban, "/v1/ban", strings.Repeat(" ", control.MaxBody+1), 413, "message"},
	} {
		rec := w.ask("POST", c.path, c.body, "X-Api-Key", w.keys[c.right])
		if rec.Code != c.want || !strings.Contains(rec.Body.String(), c.has) {
			t.Errorf("%s %.80s: %d %s, want %d %s", c.path, c.body, rec.Code, rec.Body, c.want, c.has)
		}
	}
	want := []string{"ban [192.0.2.1/32 192.0.2.2/32] api:ban by ban", "unban [192.0.2.1/32] api:unban", "allow [192.0.2.1/32] api:allow"}
	if !slices.Equal(w.asked, want) {
		t.Errorf("the agent was asked %q, want %q", w.asked, want)
	}
	if rec := w.ask("POST", "/v1/ban", `{"addrs":["192.0.2.1"]}`, "X-Api-Key", w.keys[apikey.Ban], "Sec-Fetch-Site", "cross-site"); rec.Code != 403 {
		t.Errorf("from a page of another site: %d", rec.Code)
	}
}
