package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// patience bounds what takes milliseconds.
const patience = time.Minute

// request is what a receiver got.
type request struct {
	path   string
	header http.Header
	body   string
}

// receive serves requests with answer and returns the server's URL and what it got.
func receive(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) (string, chan request) {
	t.Helper()
	got, n := make(chan request, 100), 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- request{r.URL.String(), r.Header, string(body)}
		n++
		if answer != nil {
			answer(n, w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, got
}

func urlFile(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook.url")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func webhook(path string, preset config.Preset) config.Hook {
	h := hookOn("ops", "ban")
	h.Webhook = config.Webhook{URLFile: path, Preset: preset, Timeout: patience, Tries: 1}
	return h
}

// hostile is a message in which a peer tries to format, mention and break out.
func hostile() *message {
	e := banOf("192.0.2.7/32", "cli")
	e.Reason = "<!channel> @everyone [x](http://evil) *b* ``` \" } \u202e\n<b>&"
	return &message{Node: "web1", Hook: "ops", Kind: kindEvents, Counts: map[string]int{"ban": 1}, Events: []control.Event{e}}
}

const line = "meshban on web1: 1 ban\nban 192.0.2.7 until 2026-11-28T12:00:00Z by web1 (cli): "

func TestWireForms(t *testing.T) {
	const raw = "<!channel> @everyone [x](http://evil) *b* ``` \" } \ufffd\ufffd<b>&"
	for _, c := range []struct {
		preset config.Preset
		check  func(r request) string // what is wrong
	}{
		{config.PresetSlack, func(r request) string {
			var b struct {
				Text                string
				Mrkdwn, UnfurlLinks *bool
			}
			if err := json.Unmarshal([]byte(r.body), &b); err != nil || strings.ContainsAny(b.Text, "<>") || !strings.Contains(b.Text, "&lt;!channel&gt;") || *b.Mrkdwn {
				return fmt.Sprint(err)
			}
			return ""
		}},
		{config.PresetDiscord, func(r request) string {
			var b struct {
				Content  string
				Mentions struct{ Parse []string } `json:"allowed_mentions"`
			}
			want := "```\n" + line + strings.ReplaceAll(raw, "`", "'") + "```"
			if err := json.Unmarshal([]byte(r.body), &b); err != nil || b.Content != want || b.Mentions.Parse == nil || len(b.Mentions.Parse) > 0 {
				return fmt.Sprintf("%v %q", err, b.Content)
			}
			return ""
		}},
		{config.PresetTelegram, func(r request) string {
			var b struct {
				ChatID   string `json:"chat_id"`
				Text     string
				Entities []struct {
					Type           string
					Offset, Length int
				}
			}
			if err := json.Unmarshal([]byte(r.body), &b); err != nil || b.ChatID != "-100" || b.Text != line+raw || len(b.Entities) != 1 ||
				b.Entities[0].Type != "pre" || b.Entities[0].Length != len([]rune(b.Text)) {
				return fmt.Sprintf("%v %+v", err, b)
			}
			return ""
		}},
		{config.PresetGotify, func(r request) string {
			var b struct {
				Title, Message string
				Priority       int
			}
			if err := json.Unmarshal([]byte(r.body), &b); err != nil || b.Title != "meshban on web1: 1 ban" || !strings.HasSuffix(b.Message, raw) {
				return fmt.Sprintf("%v %+v", err, b)
			}
			return ""
		}},
		{config.PresetNtfy, func(r request) string {
			if r.body != line+raw || r.header.Get("Title") != "meshban on web1" || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") {
				return "another text"
			}
			return ""
		}},
		{config.PresetJSON, func(r request) string {
			var m message
			if err := json.Unmarshal([]byte(r.body), &m); err != nil || len(m.Events) != 1 || m.Events[0].Reason != hostile().Events[0].Reason || m.Counts["ban"] != 1 {
				return fmt.Sprintf("%v %+v", err, m)
			}
			return ""
		}},
	} {
		t.Run(string(c.preset), func(t *testing.T) {
			at, got := receive(t, nil)
			h := webhook(urlFile(t, at+"/secret?chat_id=-100", "", "X-Token: abc"), c.preset)
			if err := newSender(h, new(reporter))(t.Context(), hostile()); err != nil {
				t.Fatal(err)
			}
			r := <-got
			if r.path != "/secret?chat_id=-100" || r.header.Get("X-Token") != "abc" {
				t.Errorf("sent to %s with %v", r.path, r.header)
			}
			if wrong := c.check(r); wrong != "" {
				t.Errorf("%s\n%s", wrong, r.body)
			}
		})
	}
}

func TestBodyOfOnesOwn(t *testing.T) {
	for _, c := range []struct{ name, body, want, kind string }{
		{"ok: JSON", `{"summary": "{{title}}", "on": "{{node}}"}`, `{"summary": "meshban on web1: 1 ban", "on": "web1"}`, "application/json"},
		{"ok: plain text", "on {{node}}: {{title}}", "on web1: meshban on web1: 1 ban", "text/plain; charset=utf-8"},
	} {
		body, header := encode(config.Webhook{Preset: config.PresetJSON, Body: c.body}, target{}, hostile())
		if string(body) != c.want || header.Get("Content-Type") != c.kind {
			t.Errorf("%s: %s %v", c.name, body, header)
		}
	}
	body, _ := encode(config.Webhook{Body: `{"text": "{{text}}"}`}, target{}, hostile())
	var b struct{ Text string }
	if err := json.Unmarshal(body, &b); err != nil || !strings.HasPrefix(b.Text, line) {
		t.Errorf("%v: %s", err, body)
	}
}

// No text is longer than its service takes, and what does not fit is counted.
func TestTextIsCut(t *testing.T) {
	m := hostile()
	m.Events[0].Reason = strings.Repeat("ü`😀", 1000)
	m.Events = slices.Repeat(m.Events, 100)
	m.More, m.Dropped = 7, 9
	for _, limit := range []int{limitDiscord, limitNtfy, limitOther} {
		text := m.text(limit)
		lines := strings.Split(text, "\n")
		if shown := len(lines) - 3; len(text) > limit || shown < 1 || lines[len(lines)-2] != fmt.Sprintf("and %d more", 107-shown) {
			t.Errorf("%d bytes, limit %d: %q", len(text), limit, lines[len(lines)-2:])
		}
	}
}

// What a receiver answers decides whether it is asked again; no error has the URL or a header.
func TestTries(t *testing.T) {
	elsewhere, stolen := receive(t, nil)
	for _, c := range []struct {
		name   string
		answer func(n int, w http.ResponseWriter, r *http.Request)
		asked  int
		err    string // "" = none
	}{
		{"ok: at once", nil, 1, ""},
		{"ok: at the second try", func(n int, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}, 2, ""},
		{"bad: never", func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 2, "the receiver answers 500"},
		{"bad: refused", func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 1, "404 Not Found: see whether the URL"},
		{"bad: sent elsewhere", func(_ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
		}, 1, "307 Temporary Redirect: redirects are not followed"},
		{"bad: closed", func(_ int, w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, 2, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, got := receive(t, c.answer)
			h := webhook(urlFile(t, at+"/SECRET", "X-Token: SECRET"), config.PresetJSON)
			h.Webhook.Tries = 2
			err := newSender(h, new(reporter))(t.Context(), hostile())
			if len(got) != c.asked || (err == nil) != (c.err == "") {
				t.Errorf("asked %d times, %v", len(got), err)
			}
			if err != nil && (!strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "SECRET")) {
				t.Errorf("%v", err)
			}
		})
	}
	if len(stolen) > 0 {
		t.Error("a redirect was followed")
	}
}

func TestTimeout(t *testing.T) {
	release := make(chan struct{})
	at, _ := receive(t, func(_ int, _ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	h := webhook(urlFile(t, at+"/SECRET"), config.PresetJSON)
	h.Webhook.Timeout = 100 * time.Millisecond
	err := newSender(h, new(reporter))(t.Context(), hostile())
	if err == nil || err.Error() != "no answer within 100ms" {
		t.Errorf("%v", err)
	}
}

// The pauses between tries grow, and follow what the receiver asks for, within bounds.
func TestPauses(t *testing.T) {
	for _, c := range []struct {
		name  string
		pause time.Duration
		want  []time.Duration
	}{
		{"ok: doubled", 0, []time.Duration{0, 1 * time.Second, 3 * time.Second, 7 * time.Second}},
		{"ok: as the receiver asks", 30 * time.Second, []time.Duration{0, 30 * time.Second, 60 * time.Second, 90 * time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var at []time.Duration
				began := time.Now()
				err := retry(t.Context(), 4, func() error {
					at = append(at, time.Since(began))
					return &refusal{http.StatusTooManyRequests, c.pause}
				})
				if err == nil || !slices.Equal(at, c.want) {
					t.Errorf("%v %v", at, err)
				}
			})
		})
	}
}

func TestURLFile(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		err   string
	}{
		{"ok: blank lines", []string{"https://example.net/SECRET ", "", "A-b: c d"}, ""},
		{"bad: no URL", []string{"SECRET"}, "is not an http or https URL"},
		{"bad: another scheme", []string{"ftp://SECRET/"}, "is not an http or https URL"},
		{"bad: no header", []string{"https://example.net", "SECRET"}, "line 2 of"},
		{"bad: header with a blank", []string{"https://example.net", "", "S ECRET: a"}, "line 3 of"},
		{"bad: control character", []string{"https://SECRET\x01"}, "is not an http or https URL"},
	} {
		_, err := readTarget(urlFile(t, c.lines...))
		if (err == nil) != (c.err == "") || err != nil && (!strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "ECRET")) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	open := urlFile(t, "https://example.net")
	if err := os.Chmod(open, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := readTarget(open); err == nil {
		t.Error("a file that others can write is read")
	}
}

// A file that comes late is read by the next message.
func TestURLFileThatComesLate(t *testing.T) {
	at, got := receive(t, nil)
	path := urlFile(t, at)
	if err := os.Rename(path, path+".new"); err != nil {
		t.Fatal(err)
	}
	send := newSender(webhook(path, config.PresetJSON), new(reporter))
	if err := send(t.Context(), hostile()); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if err := send(t.Context(), hostile()); err != nil || len(got) != 1 {
		t.Errorf("%v", err)
	}
}

// The URL is read at the start and at a reload, not between.
func TestURLFileIsReadAgain(t *testing.T) {
	first, atFirst := receive(t, nil)
	second, atSecond := receive(t, nil)
	path := urlFile(t, first)
	h := webhook(path, config.PresetJSON)
	h.Every = time.Millisecond
	hooks := New(Config{
		Node: func() string { return "web1" }, Speaks: func() bool { return true }, Problem: func(string, error) {}, Logger: slog.New(slog.DiscardHandler),
	}, []config.Hook{h})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- hooks.Run(ctx) }()
	tell := func(got chan request) {
		t.Helper()
		hooks.Tell("ban", Own, banOf("192.0.2.7/32", "cli"))
		select {
		case <-got:
		case <-time.After(patience):
			t.Fatal("nothing came")
		}
	}
	tell(atFirst)
	if err := os.WriteFile(path, []byte(second+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tell(atFirst)
	for end := time.Now().Add(patience); hooks.Stats().Sent < 2; time.Sleep(time.Millisecond) { // a message on its way goes by the old URL
		if time.Now().After(end) {
			t.Fatal("the second message is not counted")
		}
	}
	hooks.Set([]config.Hook{h})
	for len(hooks.changed) > 0 {
		time.Sleep(time.Millisecond)
	}
	tell(atSecond)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAbuseIPDB(t *testing.T) {
	at, got := receive(t, nil)
	h := webhook(urlFile(t, at+"/api/v2/report", "Key: abc"), config.PresetAbuseIPDB)
	m := &message{}
	for _, e := range [][2]string{{"8.8.8.8/32", "line:sshd"}, {"8.8.8.8/32", "line:sshd"}, {"2606:4700::1/128", "line"}} {
		ban := banOf(e[0], e[1])
		ban.Reason, ban.Time = "log: user root", time.Date(2026, 11, 28, 1, 2, 3, 0, time.UTC)
		m.Events = append(m.Events, ban)
	}
	if err := newSender(h, new(reporter))(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 {
		t.Fatalf("%d reports", len(got))
	}
	for _, want := range []string{
		"ip=8.8.8.8&categories=18,22&comment=banned by fail2ban sshd&timestamp=2026-11-28T01:02:03Z",
		"ip=2606:4700::1&categories=18&comment=banned by a log line&timestamp=2026-11-28T01:02:03Z",
	} {
		r := <-got
		is, err := url.ParseQuery(r.body)
		if err != nil || r.header.Get("Key") != "abc" || r.path != "/api/v2/report" {
			t.Errorf("%v: %+v", err, r)
		}
		for pair := range strings.SplitSeq(want, "&") {
			if key, value, _ := strings.Cut(pair, "="); is.Get(key) != value {
				t.Errorf("%s is %q, want %q", key, is.Get(key), value)
			}
		}
		if len(is) != 4 {
			t.Errorf("%v", is)
		}
	}
}

// Another machine with the same key may have reported an address a moment ago, which AbuseIPDB answers with 429.
func TestRefusedReports(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(n int, w http.ResponseWriter)
		sent   int
		err    string
	}{
		{"ok: one of three", func(n int, w http.ResponseWriter) {
			if n == 1 {
				w.WriteHeader(http.StatusTooManyRequests)
			}
		}, 3, ""},
		{"bad: each", func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusUnprocessableEntity) }, 3, "422"},
		{"bad: no more today", func(_ int, w http.ResponseWriter) {
			w.Header().Set("Retry-After", "29241")
			w.WriteHeader(http.StatusTooManyRequests)
		}, 1, "429 Too Many Requests: it takes no more for now"},
		{"bad: the key", func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }, 1, "401"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, got := receive(t, func(n int, w http.ResponseWriter, _ *http.Request) { c.answer(n, w) })
			h, m := webhook(urlFile(t, at, "Key: abc"), config.PresetAbuseIPDB), &message{}
			h.Webhook.Tries = 3
			for _, a := range []string{"8.8.8.8/32", "8.8.4.4/32", "9.9.9.9/32"} {
				m.Events = append(m.Events, banOf(a, "line"))
			}
			err := newSender(h, new(reporter))(t.Context(), m)
			if len(got) != c.sent || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%d requests, %v", len(got), err)
			}
		})
	}
}

func TestReportsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, n := new(reporter), 0
		for i := range 2000 {
			if r.mayReport(time.Now(), netip.AddrFrom4([4]byte{8, 8, byte(i / 256), byte(i)})) {
				n++
			}
		}
		if n != reportsPerDay {
			t.Errorf("%d reports", n)
		}
		time.Sleep(24*time.Hour + time.Second)
		addr := netip.MustParseAddr("9.9.9.9")
		for i, want := range []bool{true, false, true} {
			if got := r.mayReport(time.Now(), addr); got != want {
				t.Errorf("after %d times: %v", i, got)
			}
			time.Sleep(reportAgain / 2)
		}
	})
}

func TestReportable(t *testing.T) {
	for _, c := range []struct {
		addr, source string
		want         bool
	}{
		{"8.8.8.8/32", "line:sshd", true}, {"8.8.8.8/32", "line", true}, {"8.8.8.0/24", "line", false}, {"10.0.0.1/32", "line", false},
		{"8.8.8.8/32", "cli", false}, {"8.8.8.8/32", "liner", false}, {"fd00::1/128", "line", false}, {"2606:4700::1/128", "line", true},
		{"100.64.3.3/32", "line", false}, {"240.0.0.1/32", "line", false},
	} {
		if got := reportable(banOf(c.addr, c.source)); got != c.want {
			t.Errorf("%s %s: %v", c.addr, c.source, got)
		}
	}
}

// A command gets JSON on stdin and nothing of the agent's environment.
func TestExec(t *testing.T) {
	t.Setenv("MESHBAN_SECRET", "x")
	out := filepath.Join(t.TempDir(), "out")
	script := "cat >" + out + "; env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD=' >>" + out + "; pwd >>" + out
	if err := run(t.Context(), []string{"/bin/sh", "-c", script}, hostile()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var m message
	if err := json.Unmarshal([]byte(lines[0]), &m); err != nil || len(m.Events) != 1 {
		t.Errorf("%v: %q", err, lines[0])
	}
	if len(lines) != 3 || !strings.HasPrefix(lines[1], "PATH=") || lines[2] != "/" {
		t.Errorf("%q", lines[1:])
	}
	if err := run(t.Context(), []string{"/bin/sh", "-c", "exit 3"}, hostile()); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("%v", err)
	}
}

// What a command has started dies with it.
func TestExecIsKilledWithItsGroup(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"/bin/sh", "-c", "sleep 3600 & echo $! >" + pids + ".new; mv " + pids + ".new " + pids + "; wait"}, hostile())
	}()
	var pid int
	for end := time.Now().Add(patience); pid == 0; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(pids); err == nil {
			pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		if time.Now().After(end) {
			t.Fatal("the command does not run")
		}
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("no error")
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") || syscall.Kill(pid, 0) != nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the child of the command lives on")
		}
	}
}
