package daemon

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
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

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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
	if rep, err := b.Keys(t.Context()); err != nil || rep.RangesLeftOut != 1 || rep.LeftOut != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	untold := func(prefix string, want int) {
		t.Helper()
		rep, err := b.Why(t.Context(), netip.MustParsePrefix(prefix))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range rep.Findings {
			n += strings.Count(f.Status, "bouncers are not told")
		}
		if n != want {
			t.Errorf("%d findings about %s say that bouncers are not told, want %d: %+v", n, prefix, want, rep.Findings)
		}
	}
	untold("198.51.100.9/32", 1)
	untold("192.0.2.1/32", 0)
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
	untold("203.0.113.1/32", 1)
	if s, err := b.Status(t.Context()); err != nil || s.API == nil || s.API.Listen != b.api.Addr() || s.API.LeftOut != 1 || s.API.RangesLeftOut != 0 {
		t.Errorf("status: %+v, %v", s.API, err)
	}
	if rep, err := b.Keys(t.Context()); err != nil || rep.LeftOut != 1 || rep.RangesLeftOut != 0 || len(rep.Keys) != 1 || rep.Keys[0].Use.Agent != "Go-http-client" {
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

// systemd is told that the agent is ready once the listener is open, not before.
func TestAPIIsOpenBeforeReady(t *testing.T) {
	n := first(t, "a")
	n.stop()
	dir := t.TempDir()
	socket, cert, aside, fifo := filepath.Join(dir, "notify"), filepath.Join(dir, "c.pem"), filepath.Join(dir, "aside"), filepath.Join(dir, "fifo")
	n.cfg.API = config.API{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Certificate: cert, Key: filepath.Join(dir, "k.pem"), Hold: time.Minute}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	server.Close()
	raw, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	check(t, err)
	check(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	check(t, os.WriteFile(n.cfg.API.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	check(t, err)
	defer told.Close()
	check(t, told.SetReadDeadline(time.Now().Add(patience)))
	t.Setenv("NOTIFY_SOCKET", socket)

	// Whoever opens the certificate now waits, so the listener does not open.
	n = startWith(t, n.home, n.cfg, func(*Daemon) {
		check(t, os.Rename(cert, aside))
		check(t, unix.Mkfifo(cert, 0o600))
	})
	until(t, "the mesh is ready", func() bool {
		select {
		case <-n.mesh.Ready():
			return true
		default:
			return false
		}
	})
	ready := make(chan bool, 1) // whether the listener was open
	go func() {
		word := make([]byte, 64)
		size, err := told.Read(word)
		ready <- err == nil && string(word[:size]) == "READY=1" && n.api.Addr() != ""
	}()
	select {
	case <-ready:
		t.Error("READY while the listener is not open")
	case <-time.After(100 * time.Millisecond): // enough for an agent that does not wait
	}
	check(t, os.Rename(cert, fifo))
	check(t, os.Rename(aside, cert))
	f, err := os.OpenFile(fifo, os.O_RDWR, 0) // lets the listener's open of it return
	check(t, err)
	defer f.Close()
	if !t.Failed() && !<-ready {
		t.Error("no READY, or the listener is not open yet")
	}
}

// Whoever stops the agent ends held answers, whole and at once.
func TestAPIStopEndsHeldAnswers(t *testing.T) {
	t.Parallel()
	b := withAPI(t).bouncer(t)
	type end struct {
		body string
		err  error
	}
	ended := make(chan end, 1)
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+b.api.Addr()+"/v1/decisions/stream", nil)
	check(t, err)
	r.Header.Set("X-Api-Key", b.key)
	r.Header.Set("User-Agent", "crowdsec-firewall-bouncer/v0.0.25")
	ask := func() {
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			ended <- end{err: err}
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		ended <- end{string(body), err}
	}
	ask() // the first is answered at once, with everything
	<-ended
	go ask()
	until(t, "the answer is held", func() bool { return b.api.Stats.Held.Load() == 1 })
	b.stop()
	if e := <-ended; e.err != nil || e.body != `{"new":[],"deleted":[]}` {
		t.Errorf("%q, %v", e.body, e.err)
	}
}
