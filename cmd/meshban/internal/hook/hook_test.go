package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// stand is Hooks in a bubble, with receivers that note what they get.
type stand struct {
	*Hooks
	speaks atomic.Bool

	mu       sync.Mutex // guards what follows
	got      []*message
	at       []time.Duration  // since the start
	fails    map[string]error // by hook
	slow     map[string]time.Duration
	problems []string
	began    time.Time
}

func newStand(t *testing.T, list ...config.Hook) *stand {
	t.Helper()
	s := &stand{fails: map[string]error{}, slow: map[string]time.Duration{}, began: time.Now()}
	s.Hooks = New(Config{
		Node: func() string { return "web1" }, Speaks: func() bool { return s.speaks.Load() }, Logger: slog.New(slog.DiscardHandler),
		Problem: func(name string, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.problems = append(s.problems, fmt.Sprint(name, " ", err))
		},
	}, list)
	s.newSender = func(c config.Hook) sender {
		return func(ctx context.Context, m *message) error {
			s.mu.Lock()
			err, slow := s.fails[c.Name], s.slow[c.Name]
			s.got, s.at = append(s.got, m), append(s.at, time.Since(s.began))
			s.mu.Unlock()
			select {
			case <-time.After(slow):
			case <-ctx.Done():
			}
			return err
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// failing makes the receivers of hooks refuse messages.
func (s *stand) failing(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.fails[name] = errors.New("no way")
	}
}

// texts returns what was sent so far.
func (s *stand) texts() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, m := range s.got {
		all = append(all, m.text(limitOther))
	}
	return all
}

func hookOn(name string, on ...string) config.Hook {
	return config.Hook{Name: name, On: on, Whose: config.WhoseOwn, Every: time.Minute, AtMost: 20}
}

func banOf(addr, source string) control.Event {
	return control.Event{
		Time: time.Now().UTC(), Name: "ban", Prefix: control.PrefixOf(netip.MustParsePrefix(addr)), Ports: "all",
		Until: control.TimeOf(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)), Origin: "web1", Source: source,
	}
}

// 5,000 bans are one message, a minute after the first, with 20 lines and the number of the rest.
func TestManyBansAreOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t, hookOn("ops", "ban"))
		synctest.Wait()
		for i := range 5000 {
			s.Tell("ban", Own, banOf(fmt.Sprintf("192.0.%d.%d/32", i/256, i%256), "line:sshd"))
		}
		time.Sleep(59 * time.Second)
		if got := s.texts(); len(got) != 0 {
			t.Fatalf("sent before a minute has passed: %q", got)
		}
		time.Sleep(2 * time.Second)
		got := s.texts()
		if len(got) != 1 {
			t.Fatalf("%d messages", len(got))
		}
		lines := strings.Split(got[0], "\n")
		if len(lines) != 22 || lines[0] != "meshban on web1: 5,000 ban" || lines[21] != "and 4,980 more" ||
			lines[1] != "ban 192.0.0.0 until 2026-11-28T12:00:00Z by web1 (line:sshd)" {
			t.Errorf("%q", lines)
		}
		s.Tell("ban", Own, banOf("192.0.2.7/32", "cli"))
		time.Sleep(time.Minute)
		if got := s.texts(); len(got) != 2 || !strings.HasPrefix(got[1], "meshban on web1: 1 ban\nban 192.0.2.7 ") {
			t.Errorf("%q", got)
		}
		if st := s.Stats(); st != (Stats{Sent: 2}) {
			t.Errorf("%+v", st)
		}
	})
}

func TestWhoIsTold(t *testing.T) {
	for _, c := range []struct {
		name   string
		edit   func(*config.Hook)
		kind   string
		whose  Whose
		source string
		speaks bool
		told   bool
	}{
		{"ok: own ban", nil, "ban", Own, "cli", false, true},
		{"bad: a peer's ban", nil, "ban", Peers, "cli", true, false},
		{"ok: a peer's ban by a hook for all", func(h *config.Hook) { h.Whose = config.WhoseAll }, "ban", Peers, "cli", false, true},
		{"bad: a member that is gone, told by another", nil, "leave", Mesh, "", false, false},
		{"ok: a member that is gone, told by who speaks", nil, "leave", Mesh, "", true, true},
		{"ok: a member that is gone, by a hook for all", func(h *config.Hook) { h.Whose = config.WhoseAll }, "leave", Mesh, "", false, true},
		{"bad: another event", nil, "unban", Own, "cli", true, false},
		{"ok: source", func(h *config.Hook) { h.Sources = []string{"line:*"} }, "ban", Own, "line:sshd", false, true},
		{"bad: another source", func(h *config.Hook) { h.Sources = []string{"line:*", "cli"} }, "ban", Own, "line", false, false},
		{"ok: report of an own line", func(h *config.Hook) { h.Webhook.Preset = config.PresetAbuseIPDB }, "ban", Own, "line:sshd", false, true},
		{"bad: report of a command", func(h *config.Hook) { h.Webhook.Preset = config.PresetAbuseIPDB }, "ban", Own, "cli", false, false},
		{"bad: report of a peer's line", func(h *config.Hook) { h.Webhook.Preset, h.Whose = config.PresetAbuseIPDB, config.WhoseAll }, "ban", Peers, "line", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := hookOn("ops", "ban", "leave")
				if c.edit != nil {
					c.edit(&h)
				}
				s := newStand(t, h)
				s.speaks.Store(c.speaks)
				synctest.Wait()
				e := control.Event{Name: c.kind, Origin: "web2"}
				if c.source != "" {
					e = banOf("9.9.9.9/32", c.source)
				}
				s.Tell(c.kind, c.whose, e)
				time.Sleep(2 * time.Minute)
				if got := s.texts(); (len(got) == 1) != c.told {
					t.Errorf("%q", got)
				}
			})
		})
	}
}

func TestDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // bubbles begin at midnight UTC
		h := hookOn("daily", "ban", "unban", "problem")
		h.Every = 24 * time.Hour
		s := newStand(t, h)
		time.Sleep(7 * time.Hour)
		for i := range 3000 {
			s.Tell("ban", Own, banOf(fmt.Sprintf("192.0.%d.%d/32", i%2, i%250), "line:sshd"))
		}
		synctest.Wait()
		s.Tell("ban", Own, banOf("2001:db8::1/128", "cli"))
		s.Tell("problem", Own, control.Event{Name: "problem", Origin: "web1", Source: "firewall", Reason: "no packet is dropped"})
		time.Sleep(16 * time.Hour)
		if got := s.texts(); len(got) != 0 {
			t.Fatalf("before midnight: %q", got)
		}
		time.Sleep(time.Hour)
		const want = `meshban on web1: 3,001 ban, 1 problem
bans by node and source:
  3,000  web1 line:sshd
  1  web1 cli
bans by network:
  1,500  192.0.0.0/24
  1,500  192.0.1.0/24
  1  2001:db8::/48
problem web1: firewall: no packet is dropped`
		if got := s.texts(); len(got) != 1 || got[0] != want {
			t.Errorf("%q", got)
		}
		if s.at[0] != 24*time.Hour {
			t.Errorf("sent after %v", s.at[0])
		}
	})
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hookOn("alive", config.HookAlive)
		h.Every = 5 * time.Minute
		s := newStand(t, h)
		time.Sleep(11 * time.Minute)
		if got := s.texts(); len(got) != 3 || got[0] != "meshban on web1 is alive" || !slices.Equal(s.at, []time.Duration{0, 5 * time.Minute, 10 * time.Minute}) {
			t.Errorf("%q %v", got, s.at)
		}
	})
}

// A receiver that takes an hour holds up no other, and what waits for it is bounded and counted.
func TestSlowReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t, hookOn("slow", "ban"), hookOn("fast", "ban"))
		s.mu.Lock()
		s.slow["slow"] = time.Hour
		s.mu.Unlock()
		for i := range 50 {
			s.Tell("ban", Own, banOf(fmt.Sprintf("192.0.2.%d/32", i), "cli"))
			time.Sleep(time.Minute)
		}
		s.texts()
		s.mu.Lock()
		by := map[string]int{}
		for _, m := range s.got {
			by[m.Hook]++
		}
		s.mu.Unlock()
		if by["slow"] != 1 || by["fast"] < 20 {
			t.Errorf("messages: %v", by)
		}
		time.Sleep(time.Hour)
		if got := s.texts(); !strings.Contains(got[len(got)-1], "and ") {
			t.Errorf("%q", got[len(got)-1])
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{}, []config.Hook{hookOn("ops", "ban")}) // nobody serves it
		for range queueSize + 5 {
			h.Tell("ban", Own, banOf("192.0.2.7/32", "cli"))
		}
		if n := h.Stats().Dropped; n != 5 {
			t.Errorf("%d dropped", n)
		}
		m := &message{Node: "web1", Kind: kindEvents, Counts: map[string]int{"ban": 1}, Dropped: 5}
		if text := m.text(limitOther); !strings.HasSuffix(text, "\n5 events came too fast to be counted by kind") {
			t.Errorf("%q", text)
		}
	})
}

// A failure is a problem until a message goes through, or until the hook is gone.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t, hookOn("ops", "ban"), hookOn("gone", "ban"))
		s.failing("ops", "gone")
		s.Tell("ban", Own, banOf("192.0.2.7/32", "cli"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if st := s.Stats(); st.Failed != 2 || st.Sent != 0 {
			t.Errorf("%+v", st)
		}
		s.mu.Lock()
		s.fails["ops"] = nil
		s.problems = nil
		s.mu.Unlock()
		s.Set([]config.Hook{hookOn("ops", "ban")})
		s.Tell("ban", Own, banOf("192.0.2.7/32", "cli"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if want := []string{"gone <nil>", "ops <nil>"}; !slices.Equal(s.problems, want) {
			t.Errorf("%q", s.problems)
		}
	})
}

// A reload loses nothing that waits for a hook that stays.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStand(t, hookOn("ops", "ban"))
		s.Tell("ban", Own, banOf("192.0.2.7/32", "cli"))
		synctest.Wait()
		s.Set([]config.Hook{hookOn("new", "unban"), hookOn("ops", "ban")})
		time.Sleep(2 * time.Minute)
		if got := s.texts(); len(got) != 1 || !strings.Contains(got[0], "192.0.2.7") {
			t.Errorf("%q", got)
		}
		s.Set(nil)
		if s.Wants("ban", Own) {
			t.Error("bans are wanted by nobody")
		}
	})
}

func TestTestOfAHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		report := hookOn("report", "ban")
		report.Webhook.Preset = config.PresetAbuseIPDB
		s := newStand(t, hookOn("ops", "ban"), hookOn("broken", "ban"), report)
		s.failing("broken")
		for name, code := range map[string]control.Code{"broken": control.CodeFailed, "nosuch": control.CodeNotFound, "report": control.CodePolicy} {
			bad, ok := errors.AsType[*control.Error](s.Test(t.Context(), name))
			if !ok || bad.Code != code {
				t.Errorf("%s: %v", name, bad)
			}
		}
		if err := s.Test(t.Context(), "ops"); err != nil {
			t.Error(err)
		}
		if got := s.texts(); !slices.Contains(got, "meshban on web1: this is a test of hook ops") {
			t.Errorf("%q", got)
		}
	})
}

// Problems of the first minute are not told, others once, until they are gone for good.
func TestWatchProblems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hookOn("ops", "problem", "solved")
		h.Every = time.Second
		s := newStand(t, h)
		var mu sync.Mutex
		var now []string
		set := func(texts ...string) { mu.Lock(); defer mu.Unlock(); now = texts }
		go func() {
			_ = s.WatchProblems(t.Context(), func() []string { mu.Lock(); defer mu.Unlock(); return now })
		}()
		set("join: nobody answers")
		time.Sleep(50 * time.Second)
		set("held: 12 bans wait (3 minutes ago)")
		time.Sleep(15 * time.Second)
		set("held: 1,300 bans wait", "udp: web2 hears nothing")
		time.Sleep(time.Minute)
		set("udp: web2 hears nothing")
		time.Sleep(10 * time.Second)
		set("held: 7 bans wait", "udp: web2 hears nothing") // back before it was gone for good
		time.Sleep(time.Minute)
		set("held: 7 bans wait", "udp: web3 hears nothing")
		time.Sleep(time.Minute)
		want := []string{
			"meshban on web1: 1 problem\nproblem web1: held: 12 bans wait (3 minutes ago)",
			"meshban on web1: 1 problem\nproblem web1: udp: web2 hears nothing",
			"meshban on web1: 1 problem\nproblem web1: udp: web3 hears nothing",
			"meshban on web1: 1 solved\nsolved web1: udp: web2 hears nothing",
		}
		if got := s.texts(); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}

func TestSameProblem(t *testing.T) {
	for _, c := range []struct {
		name, a, b string
		same       bool
	}{
		{"ok: counts", "held: 12 bans of 3 nodes", "held: 1,300 bans of 4 nodes", true},
		{"ok: lengths", "clock: 1.5s behind (for 2m3s)", "clock: 250ms behind (for 4m)", true},
		{"ok: ages", "store: full (2 minutes ago)", "store: full (59 minutes ago)", true},
		{"ok: an age that comes", "store: full", "store: full (2 minutes ago)", true},
		{"bad: nodes", "udp: web2 hears nothing", "udp: web3 hears nothing", false},
		{"bad: addresses", "join: 192.0.2.1:7946 is silent", "join: 192.0.2.2:7946 is silent", false},
	} {
		if a, b := sameProblem(c.a), sameProblem(c.b); (a == b) != c.same {
			t.Errorf("%s: %q, %q", c.name, a, b)
		}
	}
}
