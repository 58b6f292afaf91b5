package listener

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// fake is an agent with some bans.
type fake struct {
	mu     sync.Mutex // guards what follows
	bans   map[netip.Prefix]Ban
	asked  []string
	during func() // called by Bans before its first yield
}

func (f *fake) Bans(_ context.Context, yield func(Ban) error) error {
	f.mu.Lock()
	all := make([]Ban, 0, len(f.bans))
	during := f.during
	for _, b := range f.bans {
		all = append(all, b)
	}
	f.mu.Unlock()
	if during != nil {
		during()
	}
	slices.SortFunc(all, func(a, b Ban) int { return comparePrefix(a.Prefix, b.Prefix) })
	for _, b := range all {
		if err := yield(b); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Exact(prefixes []netip.Prefix) []Ban {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Ban, len(prefixes))
	for i, p := range prefixes {
		out[i] = f.bans[p]
	}
	return out
}

func (f *fake) Covering(prefix netip.Prefix) (out []Ban) {
	_ = f.Bans(context.Background(), func(b Ban) error {
		if b.Prefix.Bits() <= prefix.Bits() && b.Prefix.Overlaps(prefix) {
			out = append(out, b)
		}
		return nil
	})
	return out
}

func (f *fake) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
}

func (f *fake) Ban(ctx context.Context, req control.BanRequest) (control.BanReply, error) {
	f.say("ban %v %s by %s", req.Addrs, req.Source, KeyOf(ctx).Name)
	return control.BanReply{Results: []control.Result{{Prefix: control.PrefixOf(req.Addrs[0]), State: control.StateEnforced}}}, nil
}

func (f *fake) Unban(_ context.Context, req control.UnbanRequest) (control.UnbanReply, error) {
	f.say("unban %v %s", req.Prefixes, req.Source)
	return control.UnbanReply{}, nil
}

func (f *fake) Allow(_ context.Context, req control.AllowRequest) (control.AllowReply, error) {
	f.say("allow %v %s", req.Prefixes, req.Source)
	return control.AllowReply{}, &control.Error{Code: control.CodePolicy, Message: "no", Hint: "do this"}
}

// world is a listener with a fake agent and a key for each right.
type world struct {
	*fake
	*Server
	handler http.Handler
	keys    map[string]string // right -> secret
	halt    func()            // ends what wakes held answers by itself
}

func newWorld(t *testing.T, known ...Ended) *world {
	t.Helper()
	ring, err := apikey.Open(filepath.Join(t.TempDir(), "api.keys"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{fake: &fake{bans: map[netip.Prefix]Ban{}}, keys: map[string]string{}}
	for _, right := range apikey.Rights() {
		w.keys[right] = w.key(t, ring, apikey.Key{Name: right, May: []string{right}, Rate: 10})
	}
	w.keys["both"] = w.key(t, ring, apikey.Key{Name: "both", May: []string{apikey.Look, apikey.Operate}, Rate: 2})
	w.Server, err = New(Config{
		Agent: w.fake, Keys: ring, Page: echoPage, Known: known, Logger: slog.New(slog.DiscardHandler),
		API: config.API{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Hold: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	tasks.Go(func() { w.changes.run(ctx) })
	w.handler, w.halt = w.routes(ctx), func() { stop(); tasks.Wait() }
	t.Cleanup(w.halt)
	return w
}

func (w *world) key(t *testing.T, ring *apikey.Ring, k apikey.Key) string {
	t.Helper()
	secret, err := ring.Add(k, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// set bans a prefix, or changes its end, and tells the listener.
func (w *world) set(prefix, source string, length time.Duration) {
	p, now := netip.MustParsePrefix(prefix), time.Now()
	w.mu.Lock()
	old, was := w.bans[p]
	b := Ban{Prefix: p, Until: now.Add(length), Source: source}
	w.bans[p] = b
	w.mu.Unlock()
	t := Touch{Prefix: p, Source: source, Fresh: !was}
	if was && b.Until.After(old.Until) {
		t.Was = old.Until
	}
	w.Touched(now, t)
}

// end lifts a prefix and tells the listener.
func (w *world) end(prefix string) {
	p := netip.MustParsePrefix(prefix)
	w.mu.Lock()
	delete(w.bans, p)
	w.mu.Unlock()
	w.Touched(time.Now(), Touch{Prefix: p, Gone: true})
}

// ask sends a request with the key for reading. Its header is pairs of words.
func (w *world) ask(method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("X-Api-Key", w.keys[apikey.Read])
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	return rec
}

// Decision is a decision as CrowdSec's Go library reads it: pointers show what is missing.
type Decision struct {
	Duration, Origin, Scenario, Scope, Type, Value *string
	ID                                             int64
	UUID                                           string
}

type streamed struct{ New, Deleted []Decision }

func values(ds []Decision) (all []string) {
	for _, d := range ds {
		all = append(all, *d.Value)
	}
	slices.Sort(all)
	return all
}

// pull reads the stream and fails the test if it is not as it must be.
func (w *world) pull(t *testing.T, query string, header ...string) streamed {
	t.Helper()
	rec := w.ask("GET", "/v1/decisions/stream"+query, "", header...)
	return read(t, rec.Code, rec.Body.Bytes())
}

func read(t *testing.T, code int, body []byte) (s streamed) {
	t.Helper()
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, body)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if s.New == nil || s.Deleted == nil {
		t.Fatalf("a list is missing or null: %s", body)
	}
	ids := map[int64]bool{}
	for _, d := range slices.Concat(s.New, s.Deleted) {
		if d.Duration == nil || d.Origin == nil || d.Scenario == nil || d.Scope == nil || d.Type == nil || d.Value == nil || d.ID <= 0 || len(d.UUID) != 36 {
			t.Fatalf("a field is missing: %s", body)
		}
		if ids[d.ID] {
			t.Fatalf("the id of %s is there twice, or it is both new and deleted: %s", *d.Value, body)
		}
		ids[d.ID] = true
	}
	return s
}

func (s streamed) is(t *testing.T, when string, news, deleted []string) {
	t.Helper()
	if got := values(s.New); !slices.Equal(got, news) {
		t.Errorf("%s: new is %q, want %q", when, got, news)
	}
	if got := values(s.Deleted); !slices.Equal(got, deleted) {
		t.Errorf("%s: deleted is %q, want %q", when, got, deleted)
	}
}

const bouncer = "crowdsec-firewall-bouncer/v0.0.25"

func TestStream(t *testing.T) {
	w := newWorld(t)
	w.set("192.0.2.1/32", "line:sshd", time.Hour)
	w.set("2001:db8::/48", "import:drop", time.Hour)
	w.pull(t, "?startup=true").is(t, "start", []string{"192.0.2.1", "2001:db8::/48"}, nil)
	w.pull(t, "").is(t, "nothing new", nil, nil)
	w.set("192.0.2.2/32", "cli", time.Hour)
	w.end("192.0.2.1/32")
	if rec := w.ask("HEAD", "/v1/decisions/stream", ""); rec.Code != http.StatusOK || rec.Body.Len() > 0 {
		t.Errorf("HEAD: %d %q", rec.Code, rec.Body)
	}
	w.pull(t, "").is(t, "after HEAD, which moves nothing", []string{"192.0.2.2"}, []string{"192.0.2.1"})
	w.pull(t, "").is(t, "nothing new", nil, nil)
	w.set("192.0.2.3/32", "cli", time.Hour)
	w.end("192.0.2.3/32")
	w.pull(t, "").is(t, "came and went", nil, []string{"192.0.2.3"})
	w.set("192.0.2.2/32", "cli", time.Minute)
	w.end("192.0.2.2/32")
	w.set("192.0.2.2/32", "cli", time.Hour)
	w.pull(t, "").is(t, "lifted and banned again", []string{"192.0.2.2"}, nil)
	w.pull(t, "?startup=true").is(t, "a bouncer that starts again", []string{"192.0.2.2", "2001:db8::/48"}, []string{"192.0.2.1", "192.0.2.3"})
}

func TestCursorsArePerAddressAndProgram(t *testing.T) {
	w := newWorld(t)
	w.pull(t, "?startup=true")
	w.pull(t, "?startup=true", "User-Agent", "other/1")
	w.set("192.0.2.1/32", "cli", time.Hour)
	w.pull(t, "").is(t, "first", []string{"192.0.2.1"}, nil)
	w.pull(t, "", "User-Agent", "other/1").is(t, "second", []string{"192.0.2.1"}, nil)
	w.pull(t, "").is(t, "first again", nil, nil)
}

func TestNeverSeenIsToldEverything(t *testing.T) {
	w := newWorld(t, Ended{netip.MustParsePrefix("198.51.100.1/32"), time.Now().Add(-time.Hour), ""}, Ended{netip.MustParsePrefix("198.51.100.2/32"), time.Now(), ""})
	w.set("192.0.2.1/32", "cli", time.Hour)
	w.set("198.51.100.2/32", "cli", time.Hour)
	w.pull(t, "").is(t, "after a restart of the agent", []string{"192.0.2.1", "198.51.100.2"}, []string{"198.51.100.1"})
}

// A cursor that is too old must not miss anything.
func TestCursorTooOldIsToldEverything(t *testing.T) {
	w := newWorld(t)
	w.pull(t, "?startup=true")
	w.set("192.0.2.1/32", "cli", time.Hour)
	for i := range maxChanges + 10 {
		w.Touched(time.Now(), Touch{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), Fresh: true})
	}
	s := w.pull(t, "")
	if got := values(s.New); !slices.Equal(got, []string{"192.0.2.1"}) || len(s.Deleted) != maxChanges {
		t.Errorf("new %q, %d deleted", got, len(s.Deleted))
	}
	w.pull(t, "").is(t, "then", nil, nil)
}

func TestLogForgetsAfterADay(t *testing.T) {
	c := newChanges(nil)
	now := time.Now()
	for i := range 3 {
		c.add(now.Add(-25*time.Hour), []Touch{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)}})
	}
	c.add(now, []Touch{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}})
	if len(c.log) != 1 || len(c.last) != 1 {
		t.Errorf("%d entries, %d prefixes", len(c.log), len(c.last))
	}
	if _, _, ok := c.after(1, 4, 10, nil); ok {
		t.Error("what is forgotten is not said to be")
	}
}

// traefik and the SPOA add first, then delete.
func TestNeverNewAndDeletedInOneAnswer(t *testing.T) {
	w := newWorld(t)
	w.pull(t, "?startup=true")
	w.set("192.0.2.1/32", "cli", time.Hour)
	w.end("192.0.2.1/32")
	w.during = func() { w.set("192.0.2.1/32", "cli", time.Hour) } // Bans has copied its list, without it
	w.pull(t, "?startup=true").is(t, "banned meanwhile", nil, []string{"192.0.2.1"})
	w.during = nil
	w.pull(t, "").is(t, "then", []string{"192.0.2.1"}, nil)
	w.end("192.0.2.1/32")
	w.Touched(time.Now())
	w.mu.Lock()
	w.bans[netip.MustParsePrefix("192.0.2.1/32")] = Ban{netip.MustParsePrefix("192.0.2.1/32"), time.Now().Add(time.Hour), "cli"} // not noted yet
	w.mu.Unlock()
	w.pull(t, "?startup=true").is(t, "in force before it is noted", []string{"192.0.2.1"}, nil)
}

func TestDurations(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		left time.Duration
		want string
	}{{-time.Hour, "1s"}, {0, "1s"}, {time.Millisecond, "1s"}, {time.Second, "1s"}, {time.Second + 1, "2s"}, {time.Hour, "3600s"}, {30 * 24 * time.Hour, "2592000s"}} {
		if got := durationUntil(now.Add(c.left), now); got != c.want {
			t.Errorf("%v: %s, want %s", c.left, got, c.want)
		}
	}
}

func TestWordsOfADecision(t *testing.T) {
	w := newWorld(t)
	w.set("192.0.2.1/32", "line:sshd", time.Hour)
	w.set("198.51.100.0/24", "import:drop", time.Hour)
	w.set("2001:db8::1/128", `api:a"b`, time.Hour)
	got := map[string]string{}
	for _, d := range w.pull(t, "?startup=true").New {
		got[*d.Value] = *d.Origin + " " + *d.Scenario + " " + *d.Scope + " " + *d.Type
	}
	for value, want := range map[string]string{
		"192.0.2.1": "meshban meshban/sshd Ip ban", "198.51.100.0/24": "lists drop Range ban", "2001:db8::1": `meshban meshban/api:a"b Ip ban`,
	} {
		if got[value] != want {
			t.Errorf("%s: %q, want %q", value, got[value], want)
		}
	}
	w.end("198.51.100.0/24")
	for _, d := range w.pull(t, "").Deleted {
		if *d.Origin != "lists" || *d.Scenario != "drop" {
			t.Errorf("deleted from %s %s: newer bouncers look for the set of that origin", *d.Origin, *d.Scenario)
		}
	}
}

func TestFilters(t *testing.T) {
	w := newWorld(t)
	w.set("192.0.2.1/32", "line:sshd", time.Hour)
	w.set("192.0.2.0/24", "import:drop", time.Hour)
	w.set("2001:db8::1/128", "cli", time.Hour)
	for _, c := range []struct{ query, want string }{
		{"", "192.0.2.0/24 192.0.2.1 2001:db8::1"},
		{"&scopes=ip", "192.0.2.1 2001:db8::1"},
		{"&scopes=Range", "192.0.2.0/24"},
		{"&scopes=country", ""},
		{"&origins=lists", "192.0.2.0/24"},
		{"&origins=list", ""},
		{"&origins=lists,meshban", "192.0.2.0/24 192.0.2.1 2001:db8::1"},
		{"&scenarios_containing=SSH", "192.0.2.1"},
		{"&scenarios_not_containing=ssh,DROP", "2001:db8::1"},
		{"&dedup=false&community_pull=false&additional_pull=false&unknown=1", "192.0.2.0/24 192.0.2.1 2001:db8::1"},
	} {
		if got := strings.Join(values(w.pull(t, "?startup=true"+c.query).New), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.query, got, c.want)
		}
	}
}

// A client that reads some bans only is not told of the ends of others.
func TestFilteredDeltas(t *testing.T) {
	w := newWorld(t)
	w.pull(t, "?startup=true&origins=lists")
	w.set("192.0.2.1/32", "cli", time.Hour)
	w.set("192.0.2.2/32", "import:drop", time.Hour)
	w.pull(t, "?origins=lists").is(t, "one of a list", []string{"192.0.2.2"}, nil)
	w.set("192.0.2.2/32", "cli", 2*time.Hour)
	w.pull(t, "?origins=lists").is(t, "it is no longer of a list", nil, []string{"192.0.2.2"})
}

func TestDecisions(t *testing.T) {
	w := newWorld(t)
	if body := w.ask("GET", "/v1/decisions?ip=192.0.2.1", "").Body.String(); body != "null" {
		t.Errorf("nothing: %q", body)
	}
	w.set("192.0.2.1/32", "line:sshd", time.Hour)
	w.set("192.0.2.0/24", "import:drop", time.Hour)
	w.set("198.51.100.7/32", "cli", time.Hour)
	for _, c := range []struct{ query, want string }{
		{"ip=192.0.2.1", "192.0.2.0/24 192.0.2.1"}, // live mode: the range counts
		{"ip=192.0.2.9", "192.0.2.0/24"},
		{"ip=::ffff:192.0.2.9", "192.0.2.0/24"},
		{"ip=203.0.113.1", ""},
		{"range=192.0.2.0/25", "192.0.2.0/24"},
		{"range=192.0.2.0/23&contains=false", "192.0.2.0/24 192.0.2.1"},
		{"range=192.0.2.0/23", ""},
		{"value=192.0.2.1", "192.0.2.1"},
		{"value=DE", ""},
		{"scope=Country", ""},
		{"scope=ip", "192.0.2.1 198.51.100.7"},
		{"type=captcha", ""},
		{"type=ban&origins=meshban", "192.0.2.1 198.51.100.7"},
		{"limit=2", "192.0.2.0/24 192.0.2.1"},
		{"limit=2&offset=2", "198.51.100.7"},
		{"scenarios_containing=ssh", "192.0.2.1"},
	} {
		rec := w.ask("GET", "/v1/decisions?"+c.query, "")
		var got []Decision
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || rec.Code != http.StatusOK {
			t.Errorf("%s: %d %v %s", c.query, rec.Code, err, rec.Body)
		}
		if text := strings.Join(values(got), " "); text != c.want {
			t.Errorf("%s: %q, want %q", c.query, text, c.want)
		}
		if c.want == "" && rec.Body.String() != "null" {
			t.Errorf("%s: %q", c.query, rec.Body)
		}
	}
}

// serve runs the listener on a port and returns its URL.
func (w *world) serve(t *testing.T) (url string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	select {
	case <-w.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return "http://" + w.Addr(), stop
}

func (w *world) get(t *testing.T, url, agent string) streamed {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url+"/v1/decisions/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", w.keys[apikey.Read])
	r.Header.Set("User-Agent", agent)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, resp.StatusCode, body)
}

// waitHeld waits until n answers are held.
func (w *world) waitHeld(t *testing.T, n int64) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); w.Stats.Held.Load() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d answers are held, want %d", w.Stats.Held.Load(), n)
		}
	}
}

func TestHeldAnswers(t *testing.T) {
	w := newWorld(t)
	url, stop := w.serve(t)
	w.get(t, url, bouncer).is(t, "first", nil, nil)
	answers := make(chan streamed, 1)
	go func() { answers <- w.get(t, url, bouncer) }()
	w.waitHeld(t, 1)
	w.set("192.0.2.1/32", "cli", time.Hour)
	(<-answers).is(t, "woken", []string{"192.0.2.1"}, nil)
	for _, agent := range []string{"crowdsec-nginx-bouncer/v1.0.8", "crowdsec-openresty-bouncer/v1", "Crowdsec-Bouncer-Traefik-Plugin/1.X.X", "curl/8"} {
		w.get(t, url, agent)
		start := time.Now()
		w.get(t, url, agent).is(t, agent, nil, nil)
		if time.Since(start) > 30*time.Second { // the hold is a minute
			t.Errorf("%s waited", agent)
		}
	}
	go func() { answers <- w.get(t, url, bouncer) }()
	w.waitHeld(t, 1)
	stop()
	(<-answers).is(t, "the agent stops", nil, nil)
}

// What changes nothing for a client leaves its answer held.
func TestHeldAnswerOutlastsWhatDoesNotConcernIt(t *testing.T) {
	w := newWorld(t)
	url, stop := w.serve(t)
	w.get(t, url, bouncer)
	answers := make(chan streamed, 1)
	go func() { answers <- w.get(t, url, bouncer) }()
	w.waitHeld(t, 1)
	w.Touched(time.Now(), Touch{Prefix: netip.MustParsePrefix("192.0.2.9/32"), Fresh: true}) // it is not in force after all
	w.set("192.0.2.1/32", "cli", time.Hour)
	(<-answers).is(t, "woken", []string{"192.0.2.1"}, nil)
	stop()
}

// The firewall bouncer ignores a longer ban of a value that it holds.
func TestLongerBanIsSaidAgain(t *testing.T) {
	w := newWorld(t)
	w.halt()
	w.set("192.0.2.1/32", "cli", 100*time.Millisecond)
	w.pull(t, "?startup=true")
	w.set("192.0.2.1/32", "cli", time.Hour)
	w.pull(t, "").is(t, "at once", []string{"192.0.2.1"}, nil)
	w.pull(t, "").is(t, "not again", nil, nil)
	now := time.Now()
	if wait := w.changes.tell(now); wait > repeatAfter+time.Second {
		t.Errorf("looks again only after %v", wait)
	}
	w.pull(t, "").is(t, "before the end", nil, nil)
	w.changes.tell(now.Add(repeatAfter + 200*time.Millisecond))
	w.pull(t, "").is(t, "after the former end", []string{"192.0.2.1"}, nil)
	w.changes.tell(now.Add(repeatAgain + 200*time.Millisecond))
	w.pull(t, "").is(t, "once more", []string{"192.0.2.1"}, nil)
	w.changes.tell(now.Add(time.Hour))
	w.pull(t, "").is(t, "no more", nil, nil)
}

// If more longer bans are to be said again than are remembered, everybody is told everything.
func TestRepeatsOverflow(t *testing.T) {
	w := newWorld(t)
	w.halt()
	w.set("192.0.2.1/32", "cli", time.Hour)
	w.pull(t, "?startup=true")
	now := time.Now()
	w.changes.mu.Lock()
	for range maxRepeats + 1 {
		w.changes.repeatLocked(repeat{at: now.Add(time.Hour), prefix: netip.MustParsePrefix("192.0.2.1/32")})
	}
	w.changes.mu.Unlock()
	w.changes.tell(now)
	w.pull(t, "").is(t, "everything", []string{"192.0.2.1"}, nil)
	w.pull(t, "").is(t, "then nothing", nil, nil)
}

func TestIDsAreStable(t *testing.T) {
	seen := map[string]netip.Prefix{}
	for _, s := range []string{"10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/32", "::/128", "a00::/8", "2001:db8::/32", "2001:db8::/48"} {
		p := netip.MustParsePrefix(s)
		text := string(appendEnded(nil, p, ""))
		id := text[:strings.Index(text, `"scenario"`)]
		if other, ok := seen[id]; ok {
			t.Errorf("%v and %v have one id", p, other)
		}
		seen[id] = p
		if again := string(appendEnded(nil, p, "")); again != text {
			t.Errorf("%s is not %s", again, text)
		}
	}
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{"startup=true&scopes=ip,range", "ip=192.0.2.1&contains=false", "range=2001:db8::/32&limit=1&offset=2", "value=DE&type=ban", "origins=a,b&scenarios_containing=x", "%zz", "ip=1.2.3.4&range=::/0"} {
		f.Add(s)
	}
	b := Ban{netip.MustParsePrefix("192.0.2.1/32"), time.Now(), "cli"}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseQuery(raw, apikey.Key{})
		if err != nil {
			if err.Error() == "" {
				t.Error("no message")
			}
			return
		}
		if q.fits(b) && q.inside && !q.at.Overlaps(b.Prefix) {
			t.Errorf("%q fits a ban elsewhere", raw)
		}
		if len(q.scopes) > maxWords || len(q.origins) > maxWords || q.limit < 0 || q.offset < 0 {
			t.Errorf("%q is out of bounds", raw)
		}
	})
}
