package ui_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
)

// node is an agent with what only the page needs.
type node struct{ *controltest.Agent }

func (node) NodeName() string { return "web1" }

func (node) Pace() ui.Pace {
	p := ui.Pace{End: time.Unix(1_800_000_000, 0), Minutes: make([]int, ui.PaceMinutes), Sources: []ui.Count{{Name: evil, N: 7}}}
	p.Minutes[700] = 7
	return p
}

func (n node) Find(ctx context.Context, s ui.Search, yield func(control.ListEntry) error) error {
	match := s.Matcher()
	return n.List(ctx, false, func(e control.ListEntry) error {
		if !match.Fits(e.Prefix.Prefix, e.Reason, e.Source, e.Origins) || s.State != "" && s.State != e.State {
			return nil
		}
		return yield(e)
	})
}

func (node) Way(context.Context) ui.Way {
	return ui.Way{Prefix: control.PrefixOf(netip.MustParsePrefix("203.0.113.7/32")), Origin: evil, At: time.Now(), MS: map[string]float64{"id7": 3.4}}
}

func (node) Hooks() []ui.Hook { return []ui.Hook{{Name: "ops", On: []string{"ban"}, By: "a webhook"}} }

// evil is what a peer may say.
const evil = `<script>alert("x")</script>`

// screens are the paths of all pages.
var screens = []string{"/ui/", "/ui/mesh", "/ui/bans", "/ui/bans?q=scan", "/ui/why?addr=203.0.113.7", "/ui/held", "/ui/allow", "/ui/members", "/ui/keys", "/ui/audit?since=30d", "/ui/drill"}

func newAgent() *controltest.Agent {
	prefix := control.PrefixOf(netip.MustParsePrefix("203.0.113.7/32"))
	until := control.TimeOf(time.Now().Add(time.Hour))
	a := controltest.New(control.ListEntry{
		Prefix: prefix, Until: until, Origins: []string{evil}, Reason: evil, Source: evil, State: control.StateEnforced, OriginIDs: []string{evil},
	})
	a.Hold(control.HeldEntry{Prefix: prefix, Origin: evil, ID: evil, Until: until, Reason: evil, Source: evil, By: "breaker", Kind: "ban"})
	a.Audited = []control.AuditEntry{{
		Time: time.Now(), What: "ban", Via: control.ViaMesh, User: evil, Node: evil, Reason: evil, Source: evil, Prefixes: control.Prefixes{prefix.Prefix},
	}}
	return a
}

func newPage(t *testing.T, a *controltest.Agent) http.Handler {
	t.Helper()
	h, err := ui.New(node{a}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// visitor sends requests to the page.
type visitor struct {
	t       *testing.T
	page    http.Handler
	may     bool   // he may change things
	session string // he came through the proxy
}

func (v visitor) send(r *http.Request) *httptest.ResponseRecorder {
	v.t.Helper()
	if v.may {
		r = r.WithContext(control.WithChange(r.Context()))
	}
	if v.session != "" {
		r.Header.Set("Meshban-Page", v.session)
	}
	w := httptest.NewRecorder()
	v.page.ServeHTTP(w, r)
	return w
}

func (v visitor) get(path string) *httptest.ResponseRecorder {
	v.t.Helper()
	return v.send(httptest.NewRequest(http.MethodGet, path, nil))
}

func (v visitor) post(action string, form url.Values) *httptest.ResponseRecorder {
	v.t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/ui/do/"+action, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return v.send(r)
}

var tokenField = regexp.MustCompile(`name="token" value="([^"]+)"`)

// token returns the token in the forms of a page.
func (v visitor) token() string {
	v.t.Helper()
	m := tokenField.FindStringSubmatch(v.get("/ui/drill").Body.String())
	if m == nil {
		v.t.Fatal("the page has no form")
	}
	return m[1]
}

func admin(t *testing.T, page http.Handler) visitor { return visitor{t, page, true, "session"} }

// What a peer says, in whatever field, is never markup.
func TestWhatPeersSayIsText(t *testing.T) {
	v := admin(t, newPage(t, newAgent()))
	for _, path := range screens {
		w := v.get(path)
		body := w.Body.String()
		if w.Code != http.StatusOK {
			t.Errorf("%s: HTTP %d\n%s", path, w.Code, body)
		}
		if strings.Contains(body, "<script>") || strings.Contains(body, "alert(&#34;") && !strings.Contains(body, "&lt;script") {
			t.Errorf("%s has the peer's markup", path)
		}
	}
	for _, path := range []string{"/ui/bans", "/ui/why?addr=203.0.113.7", "/ui/held", "/ui/audit", "/ui/"} {
		if !strings.Contains(v.get(path).Body.String(), "&lt;script&gt;alert") {
			t.Errorf("%s does not show what the peer said", path)
		}
	}
	if body := v.get("/ui/bans?q=" + url.QueryEscape(`"><script>`)).Body.String(); strings.Contains(body, `"><script>`) {
		t.Error("the search is markup")
	}
}

func TestEveryAnswerHasThePolicy(t *testing.T) {
	v := admin(t, newPage(t, newAgent()))
	const want = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"
	for _, path := range append([]string{"/ui/nothing", "/ui/page.js", "/ui/style.css", "/ui/icon.svg", "/ui/why?addr=x", "/ui/find?q=x"}, screens...) {
		w := v.get(path)
		if got := w.Header().Get("Content-Security-Policy"); got != want {
			t.Errorf("%s: policy %q", path, got)
		}
		// What the policy forbids must not be there.
		body := w.Body.String()
		for _, bad := range []string{" style=", " onclick=", " onload=", "<style", "javascript:", "http-equiv"} {
			if strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") && strings.Contains(body, bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
	}
}

// Only who may, came through the proxy and sends a form of this page changes anything.
func TestWhoMayChange(t *testing.T) {
	page := newPage(t, newAgent())
	good := admin(t, page).token()
	form := func(token string) url.Values { return url.Values{"token": {token}, "addr": {"192.0.2.1"}} }
	other := visitor{t, page, true, "another"}
	for _, c := range []struct {
		name   string
		v      visitor
		token  string
		status int
	}{
		{"bad: may only look", visitor{t, page, false, "session"}, good, http.StatusForbidden},
		{"bad: not through the proxy", visitor{t, page, true, ""}, good, http.StatusForbidden},
		{"bad: no token", admin(t, page), "", http.StatusForbidden},
		{"bad: made-up token", admin(t, page), strings.Repeat("A", len(good)), http.StatusForbidden},
		{"bad: token of another browser", admin(t, page), other.token(), http.StatusForbidden},
		{"bad: token of another agent", admin(t, page), admin(t, newPage(t, newAgent())).token(), http.StatusForbidden},
		{"ok: all is right", admin(t, page), good, http.StatusSeeOther},
	} {
		t.Run(c.name, func(t *testing.T) {
			if w := c.v.post("ban", form(c.token)); w.Code != c.status {
				t.Errorf("HTTP %d, want %d: %s", w.Code, c.status, w.Body)
			}
		})
	}
	for _, v := range []visitor{{t, page, false, "session"}, {t, page, true, ""}} {
		for _, path := range screens {
			body := v.get(path).Body.String()
			if strings.Contains(body, `method="post"`) || tokenField.MatchString(body) {
				t.Errorf("%s has a form for somebody who may only look", path)
			}
		}
	}
	if w := admin(t, page).send(httptest.NewRequest(http.MethodGet, "/ui/do/unban?addr=203.0.113.7&token="+good, nil)); w.Code == http.StatusSeeOther {
		t.Error("a GET changed something")
	}
}

// A form leads to a page that says what became of it, with what takes it back.
func TestFormsAreAnsweredAndUndone(t *testing.T) {
	agent := newAgent()
	v := admin(t, newPage(t, agent))
	token := v.token()
	follow := func(action string, form url.Values) string {
		t.Helper()
		form.Set("token", token)
		w := v.post(action, form)
		if w.Code != http.StatusSeeOther {
			t.Fatalf("%s: HTTP %d: %s", action, w.Code, w.Body)
		}
		return v.get(w.Header().Get("Location")).Body.String()
	}
	for _, c := range []struct {
		name, action string
		form         url.Values
		want         []string
	}{
		{"unban", "unban", url.Values{"addr": {"203.0.113.7"}}, []string{"203.0.113.7 is lifted", "Ban it again"}},
		{"ban", "ban", url.Values{"addr": {"203.0.113.7"}, "for": {"1h"}, "reason": {"scan"}}, []string{"203.0.113.7 is banned", `action="/ui/do/unban"`}},
		{"ban of what is never banned", "ban", url.Values{"addr": {"127.0.0.1"}}, []string{"note bad", "never-ban list"}},
		{"bad length", "ban", url.Values{"addr": {"203.0.113.7"}, "for": {"5"}}, []string{"note bad", "Write 5s for seconds"}},
		{"allow", "allow", url.Values{"addr": {"198.51.100.9"}, "for": {"24h"}, "from": {"list"}}, []string{"198.51.100.9 is on the allow list", "Take it off the list"}},
		{"unallow", "unallow", url.Values{"addr": {"198.51.100.9"}}, []string{"198.51.100.9 is off", "Allow it again"}},
		{"hook", "hook-test", url.Values{"name": {"ops"}}, []string{"ops took the test message"}},
	} {
		body := follow(c.action, c.form)
		for _, want := range c.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s: the page lacks %q:\n%s", c.name, want, body)
			}
		}
	}
	if got := agent.BanRequests(); len(got) != 2 || got[0].Source != "page" || got[0].Reason != "scan" || time.Duration(got[0].For) != time.Hour {
		t.Errorf("the agent got %+v", got)
	}
	if w := v.post("ban", url.Values{"token": {token}, "addr": {"nonsense"}}); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "is not an address") {
		t.Errorf("a wrong address: HTTP %d %s", w.Code, w.Body)
	}
}

// What cannot be undone is asked first, and only then done.
func TestWhatCannotBeUndoneIsAsked(t *testing.T) {
	agent := newAgent()
	v := admin(t, newPage(t, agent))
	token := v.token()
	for _, c := range []struct {
		action string
		form   url.Values
		asks   string
		done   string
	}{
		{"decide", url.Values{"addr": {"203.0.113.7"}, "action": {"drop"}}, "Drop 203.0.113.7?", "1 record dropped"},
		{"revoke", url.Values{"node": {"web3"}}, "7 bans, 1 allow and 2 unbans", "web3 is revoked"},
		{"forget", url.Values{"node": {"web3"}}, "off the list?", "web3 is off the list"},
		{"key-delete", url.Values{"name": {"web1"}}, "Delete the key web1?", "The key web1 is deleted"},
	} {
		c.form.Set("token", token)
		w := v.post(c.action, c.form)
		if body := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, c.asks) || !strings.Contains(body, `name="sure" value="yes"`) {
			t.Errorf("%s does not ask: HTTP %d %s", c.action, w.Code, body)
		}
		if c.action == "revoke" && !agent.Revoked().IsZero() {
			t.Error("web3 is revoked before the answer")
		}
		c.form.Set("sure", "yes")
		w = v.post(c.action, c.form)
		if w.Code != http.StatusSeeOther {
			t.Errorf("%s, answered: HTTP %d %s", c.action, w.Code, w.Body)
			continue
		}
		if body := v.get(w.Header().Get("Location")).Body.String(); !strings.Contains(body, c.done) {
			t.Errorf("%s: the page lacks %q: %s", c.action, c.done, body)
		}
	}
}

// Everything that one node has said is decided at once, by its id: names may be alike.
func TestHeldByOrigin(t *testing.T) {
	agent := controltest.New()
	for i := range 60 {
		agent.Hold(control.HeldEntry{Prefix: control.PrefixOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}), 32)), Origin: fmt.Sprint("id", i%12), ID: fmt.Sprint("id", i%12)})
	}
	v := admin(t, newPage(t, agent))
	body := v.get("/ui/held").Body.String()
	if n := strings.Count(body, "Release all"); n != 12 || !strings.Contains(body, "50 of 60") {
		t.Errorf("%d nodes can be decided about, want 12:\n%s", n, body)
	}
	form := url.Values{"token": {v.token()}, "origin": {"id7"}, "name": {"web7"}, "action": {"release"}}
	if body := v.post("decide", form).Body.String(); !strings.Contains(body, "everything on hold that web7 has said?") {
		t.Errorf("it asks: %s", body)
	}
	form.Set("sure", "yes")
	if body := v.get(v.post("decide", form).Header().Get("Location")).Body.String(); !strings.Contains(body, "5 records released") {
		t.Errorf("it says: %s", body)
	}
}

// A note is shown only to the browser whose form it is about: a link cannot put words on the page.
func TestNotesAreSigned(t *testing.T) {
	page := newPage(t, newAgent())
	v := admin(t, page)
	w := v.post("ban", url.Values{"token": {v.token()}, "addr": {"192.0.2.9"}})
	at := w.Header().Get("Location")
	const shown = "192.0.2.9 is banned"
	if !strings.Contains(v.get(at).Body.String(), shown) {
		t.Error("the note is not shown")
	}
	if strings.Contains(visitor{t, page, true, "another"}.get(at).Body.String(), shown) {
		t.Error("the note is shown to another browser")
	}
	text, proof, _ := strings.Cut(at, ".9&note=")
	if strings.Contains(v.get(text+".9&note=eyJ0IjoibGllcyJ9"+proof[strings.Index(proof, "."):]).Body.String(), "lies") {
		t.Error("a note that the agent has not made is shown")
	}
}

// A new key is in no URL.
func TestNewKeyIsShownOnce(t *testing.T) {
	v := admin(t, newPage(t, newAgent()))
	w := v.post("key-add", url.Values{"token": {v.token()}, "name": {"web9"}, "may": {"read"}})
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "k000") || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("HTTP %d %s", w.Code, w.Body)
	}
}

// The search leads to the page about an address, and otherwise to the list.
func TestFind(t *testing.T) {
	v := visitor{t: t, page: newPage(t, newAgent())}
	for q, want := range map[string]string{
		"192.0.2.7": "/ui/why?addr=192.0.2.7", "2001:db8::1": "/ui/why?addr=2001%3Adb8%3A%3A1", "192.0.2.0/24": "/ui/bans?q=192.0.2.0%2F24", "port scan": "/ui/bans?q=port+scan",
	} {
		if got := v.get("/ui/find?q=" + url.QueryEscape(q)).Header().Get("Location"); got != want {
			t.Errorf("%q leads to %q, want %q", q, got, want)
		}
	}
}

// Bans come a page at a time.
func TestBansArePaged(t *testing.T) {
	var all []control.ListEntry
	for i := range 120 {
		all = append(all, control.ListEntry{Prefix: control.PrefixOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}), 32)), State: control.StateEnforced})
	}
	v := visitor{t: t, page: newPage(t, controltest.New(all...))}
	path, seen := "/ui/bans", 0
	for pages := 0; path != ""; pages++ {
		if pages == 4 {
			t.Fatal("the pages do not end")
		}
		body := v.get(path).Body.String()
		seen += strings.Count(body, `<a class="mono"`)
		path = ""
		if m := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(body); m != nil {
			path = strings.ReplaceAll(m[1], "&amp;", "&")
		}
	}
	if seen != 120 {
		t.Errorf("the pages have %d bans", seen)
	}
}

func TestSearch(t *testing.T) {
	v := visitor{t: t, page: newPage(t, controltest.New(
		control.ListEntry{Prefix: control.PrefixOf(netip.MustParsePrefix("192.0.2.0/24")), Reason: "Port Scan", Source: "line:sshd", Origins: []string{"web2"}, State: control.StateEnforced},
		control.ListEntry{Prefix: control.PrefixOf(netip.MustParsePrefix("198.51.100.9/32")), Reason: "spam", Source: "cli", Origins: []string{"mail1"}, State: control.StatePending},
	))}
	for _, c := range []struct{ query, want string }{
		{"q=192.0.2.77", "192.0.2.0/24"}, {"q=192.0.0.0/16", "192.0.2.0/24"}, {"q=port+scan", "192.0.2.0/24"}, {"q=SSHD", "192.0.2.0/24"},
		{"q=web2", "192.0.2.0/24"}, {"q=198.51", "198.51.100.9"}, {"state=pending", "198.51.100.9"}, {"q=mail&state=pending", "198.51.100.9"},
		{"q=mail&state=enforced", ""}, {"q=2001:db8::1", ""}, {"q=nothing", ""},
	} {
		var got []string
		for _, m := range regexp.MustCompile(`<a class="mono" href="[^"]*">([^<]*)<`).FindAllStringSubmatch(v.get("/ui/bans?"+c.query).Body.String(), -1) {
			got = append(got, m[1])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s finds %v, want %q", c.query, got, c.want)
		}
	}
}

// Events reach the page as they happen, and a tail ends with its browser.
func TestLiveTail(t *testing.T) {
	agent := newAgent()
	server := httptest.NewServer(newPage(t, agent))
	defer server.Close()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/ui/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for agent.Watchers() == 0 {
		if ctx.Err() != nil {
			t.Fatal("nobody watches")
		}
		time.Sleep(time.Millisecond)
	}
	agent.Tell(control.Event{Time: time.Now(), Name: "ban", Prefix: control.PrefixOf(netip.MustParsePrefix("192.0.2.5/32")), Reason: evil})
	buf := make([]byte, 4096)
	got := ""
	for !strings.Contains(got, "192.0.2.5") {
		n, err := resp.Body.Read(buf)
		if got += string(buf[:n]); err != nil && err != io.EOF || err == io.EOF {
			t.Fatalf("the tail ended: %v\n%s", err, got)
		}
	}
	if resp.Header.Get("Content-Type") != "text/event-stream" || strings.Contains(got, "<script>") {
		t.Errorf("%s\n%s", resp.Header.Get("Content-Type"), got)
	}
	stop()
	for end := time.Now().Add(30 * time.Second); agent.Watchers() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the agent is still watched")
		}
	}
}

// crowd is a mesh of many nodes.
type crowd struct {
	node
	n int
}

func (c crowd) Members(context.Context) ([]control.Member, error) {
	var out []control.Member
	for i := range c.n {
		m := control.Member{Name: fmt.Sprintf("web%04d", i), ID: fmt.Sprint("id", i), State: control.MemberAlive, InSync: true, Certificate: control.CertValid}
		if i == c.n-1 {
			m.State = control.MemberDead
		}
		out = append(out, m)
	}
	return out, nil
}

// A mesh of 1,000 nodes has pages, and what is not well is on the first.
func TestManyMembers(t *testing.T) {
	h, err := ui.New(crowd{node{newAgent()}, 1000}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	v := admin(t, h)
	for _, c := range []struct {
		path, has, lacks string
		cards            int
	}{
		{"/ui/members", "1 to 50 of 1,000", ">web0050 ", 50},
		{"/ui/members?skip=950", ">web0999 ", "More</a>", 50},
		{"/ui/members?skip=2000", "1000 of 1,000", "<article", 0},
		{"/ui/members?q=web099", ">web0990 ", "of 10<", 10},
		{"/ui/members?q=dead", ">web0999 ", ">web0000 ", 1},
		{"/ui/members?q=zzz", "No member fits", "<article", 0},
	} {
		body := v.get(c.path).Body.String()
		if !strings.Contains(body, c.has) || strings.Contains(body, c.lacks) || strings.Count(body, "<article") != c.cards {
			t.Errorf("%s: %d cards, want %d, with %q and without %q", c.path, strings.Count(body, "<article"), c.cards, c.has, c.lacks)
		}
	}
	body := v.get("/ui/mesh").Body.String()
	if n := strings.Count(body, `<th scope="row"`); n != 100 || !strings.Contains(body, "900 more that are well") {
		t.Errorf("the mesh has %d rows, want 100 and how many more", n)
	}
	if !strings.Contains(body, `title="id999">web0999`) {
		t.Error("the node that is dead is not listed first")
	}
}

// The page of the mesh has the time of each kernel.
func TestWayOfABan(t *testing.T) {
	h, err := ui.New(crowd{node{newAgent()}, 9}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	body := admin(t, h).get("/ui/mesh").Body.String()
	if strings.Count(body, "3.4 ms") != 1 || !strings.Contains(body, "was in 1 kernel after") {
		t.Error("the time of a kernel is not shown once")
	}
}
