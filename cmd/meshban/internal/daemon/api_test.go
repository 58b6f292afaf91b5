package daemon

import (
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// bouncer speaks to a node's api listener.
type bouncer struct {
	*node
	key string
}

func (n *node) bouncer(t *testing.T) bouncer {
	t.Helper()
	rep, err := n.AddKey(t.Context(), control.AddKeyRequest{Key: apikey.Key{Name: "k", May: apikey.Rights()}})
	if err != nil {
		t.Fatal(err)
	}
	return bouncer{n, rep.Key}
}

// call sends a request and returns the body of a 200.
func (b bouncer) call(t *testing.T, method, path, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+b.api.Addr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", b.key)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s %v", path, resp.StatusCode, text, err)
	}
	return string(text)
}

// pull returns the values that the stream has as new and as deleted.
func (b bouncer) pull(t *testing.T, query string) (news, deleted []string) {
	t.Helper()
	type decision struct{ Value string }
	var s struct{ New, Deleted []decision }
	if err := json.Unmarshal([]byte(b.call(t, "GET", "/v1/decisions/stream"+query, "")), &s); err != nil {
		t.Fatal(err)
	}
	for _, d := range s.New {
		news = append(news, d.Value)
	}
	for _, d := range s.Deleted {
		deleted = append(deleted, d.Value)
	}
	slices.Sort(news)
	slices.Sort(deleted)
	return news, deleted
}

// told waits until the stream has said these.
func (b bouncer) told(t *testing.T, when string, news, deleted []string) {
	t.Helper()
	var gotNew, gotDeleted []string
	until(t, when, func() bool {
		n, d := b.pull(t, "")
		gotNew, gotDeleted = append(gotNew, n...), append(gotDeleted, d...)
		return len(gotNew) >= len(news) && len(gotDeleted) >= len(deleted)
	})
	if !slices.Equal(gotNew, news) || !slices.Equal(gotDeleted, deleted) {
		t.Errorf("%s: new %q, deleted %q, want %q and %q", when, gotNew, gotDeleted, news, deleted)
	}
}

// withAPI makes a mesh of one node whose listener is open.
func withAPI(t *testing.T) *node {
	t.Helper()
	n := first(t, "a")
	n.stop()
	n.cfg.API.Listen = netip.MustParseAddrPort("127.0.0.1:0")
	n = start(t, n.home, n.cfg)
	select {
	case <-n.api.Ready():
	case <-time.After(patience):
		t.Fatal("the listener does not open")
	}
	return n
}

func TestAPIServesWhatIsInForce(t *testing.T) {
	t.Parallel()
	b := withAPI(t).bouncer(t)
	b.ban(t, time.Hour, "192.0.2.1/32", "198.51.100.0/24")
	news, deleted := b.pull(t, "?startup=true")
	if !slices.Equal(news, []string{"192.0.2.1", "198.51.100.0/24"}) || deleted != nil {
		t.Fatalf("new %q, deleted %q", news, deleted)
	}
	// An allow inside a range has no form there, so the range is taken back; so is a ban that the allow covers.
	if _, err := b.Allow(t.Context(), control.AllowRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}}); err != nil {
		t.Fatal(err)
	}
	b.told(t, "an allow inside a range", nil, []string{"198.51.100.0/24"})
	if _, err := b.Unallow(t.Context(), control.UnallowRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}}); err != nil {
		t.Fatal(err)
	}
	b.told(t, "the allow is gone", []string{"198.51.100.0/24"}, nil)
	if _, err := b.Allow(t.Context(), control.AllowRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28")}}); err != nil {
		t.Fatal(err)
	}
	b.told(t, "an allow around an address", nil, []string{"192.0.2.1"})

	// Bans of some ports have no form there.
	if _, err := b.Ban(t.Context(), control.BanRequest{Addrs: control.Prefixes{netip.MustParsePrefix("203.0.113.1/32")}, Ports: "22/tcp", Source: "cli"}); err != nil {
		t.Fatal(err)
	}
	b.ban(t, time.Hour, "203.0.113.2/32")
	b.told(t, "a ban of a port", []string{"203.0.113.2"}, nil)
	if rep, err := b.Keys(t.Context()); err != nil || rep.LeftOut != 1 || len(rep.Keys) != 1 || rep.Keys[0].Use.Agent != "Go-http-client" {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err := b.Unban(t.Context(), control.UnbanRequest{Prefixes: control.Prefixes{netip.MustParsePrefix("203.0.113.1/32")}}); err != nil {
		t.Fatal(err)
	}
	if rep, err := b.Keys(t.Context()); err != nil || rep.LeftOut != 0 {
		t.Errorf("%+v, %v", rep, err)
	}

	// What ended before a restart is still said.
	b.stop()
	b.node = start(t, b.home, b.cfg)
	<-b.api.Ready()
	news, deleted = b.pull(t, "")
	if !slices.Equal(news, []string{"198.51.100.0/24", "203.0.113.2"}) || !slices.Equal(deleted, []string{"192.0.2.1"}) {
		t.Errorf("after a restart: new %q, deleted %q", news, deleted)
	}
}

func TestAPIChanges(t *testing.T) {
	t.Parallel()
	b := withAPI(t).bouncer(t)
	for range 2 { // it is idempotent
		if rep := b.call(t, "POST", "/v1/ban", `{"addrs":["192.0.2.1"],"for":"1h","reason":"spam"}`); strings.Contains(rep, "error") {
			t.Errorf("ban: %s", rep)
		}
		if e, ok := b.entry(t, "192.0.2.1/32"); !ok || e.Source != "api:k" || e.Reason != "spam" {
			t.Errorf("banned: %+v", e)
		}
	}
	if rep := b.call(t, "POST", "/v1/ban", `{"addrs":["127.0.0.1"]}`); !strings.Contains(rep, ban.RuleNever) {
		t.Errorf("never: %s", rep)
	}
	b.call(t, "POST", "/v1/unban", `{"prefixes":["192.0.2.1"]}`)
	if b.enforces(t, "192.0.2.1/32") {
		t.Error("still banned")
	}
	if rep := b.call(t, "POST", "/v1/unban", `{"prefixes":["192.0.2.1"]}`); !strings.Contains(rep, string(control.CodeNotFound)) {
		t.Errorf("unban of nothing: %s", rep)
	}
	b.call(t, "POST", "/v1/allow", `{"prefixes":["192.0.2.1"]}`)
	if rep := b.call(t, "POST", "/v1/ban", `{"addrs":["192.0.2.1"]}`); !strings.Contains(rep, ban.RuleAllow) {
		t.Errorf("allowed: %s", rep)
	}
	seen := map[string]string{}
	if err := b.Audit(t.Context(), time.Time{}, func(e control.AuditEntry) error {
		seen[e.What] = e.Via + " " + e.User
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"ban", "unban", "allow"} {
		if seen[what] != "api k" {
			t.Errorf("audit: %s by %q, want the key", what, seen[what])
		}
	}
	if _, err := b.DeleteKey(t.Context(), control.DeleteKeyRequest{Name: "k"}); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.api.keys.Find(b.key, time.Now(), netip.Addr{}, ""); ok {
		t.Error("a deleted key is taken")
	}
}
