package cli

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

// limitExaBGP bounds what takes milliseconds.
const limitExaBGP = time.Minute

// talk is a stderr that a test reads meanwhile.
type talk struct {
	wrote chan struct{} // holds one token: there is more. Write sends, tells receives

	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *talk) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.wrote <- struct{}{}:
	default:
	}
	return b.buf.Write(p)
}

func (b *talk) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// exabgpWatch is watch --format exabgp with a test in ExaBGP's place.
type exabgpWatch struct {
	dir     string
	lines   chan string // of its stdout
	answers io.Writer   // to its stdin
	talk    talk
	end     context.CancelFunc
	code    chan int
}

func startExaBGPWatch(t *testing.T, args ...string) *exabgpWatch {
	t.Helper()
	stdin, answers := io.Pipe()
	stdout, out := io.Pipe()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	w := &exabgpWatch{dir: t.TempDir(), lines: make(chan string, 100), answers: answers, end: cancel, code: make(chan int, 1)}
	w.talk.wrote = make(chan struct{}, 1)
	go func() {
		defer out.Close()
		w.code <- newCommand(fakeActions(), stdin, out, &w.talk).run(ctx, append([]string{"--dir", w.dir, "watch", "--format", "exabgp"}, args...))
	}()
	go func() {
		defer close(w.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			w.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		answers.Close()
		for range w.lines {
		}
	})
	return w
}

// says waits for the next command.
func (w *exabgpWatch) says(t *testing.T, verb, prefix string) {
	t.Helper()
	select {
	case line := <-w.lines:
		if !strings.HasPrefix(line, verb+" ") || !strings.Contains(line, " "+prefix) {
			t.Fatalf("%q, want %s of %s", line, verb, prefix)
		}
	case <-time.After(limitExaBGP):
		t.Fatalf("waited in vain for %s of %s\n%s", verb, prefix, w.talk.String())
	}
}

// tells waits for a text on stderr.
func (w *exabgpWatch) tells(t *testing.T, text string) {
	t.Helper()
	for end := time.After(limitExaBGP); !strings.Contains(w.talk.String(), text); {
		select {
		case <-w.talk.wrote:
		case <-end:
			t.Fatalf("waited in vain for %q:\n%s", text, w.talk.String())
		}
	}
}

func banOn(t *testing.T, agent *controltest.Agent, addr string, length time.Duration) {
	t.Helper()
	req := control.BanRequest{Addrs: control.Prefixes{netip.MustParsePrefix(addr)}, For: control.Duration(length)}
	if _, err := agent.Ban(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// The routes follow what is banned, and end in time while the agent is away.
func TestWatchForExaBGP(t *testing.T) {
	t.Parallel()
	w := startExaBGPWatch(t, "--at-least", "1s")
	w.tells(t, "no agent answers")
	if !t.Run("an agent", func(t *testing.T) {
		agent := controltest.New()
		banOn(t, agent, "192.0.2.1/32", time.Hour)
		serveFake(t, w.dir, agent)
		w.says(t, "announce", "192.0.2.1/32")
		if _, err := agent.Unban(t.Context(), control.UnbanRequest{Prefixes: control.Prefixes{netip.MustParsePrefix("192.0.2.1/32")}}); err != nil {
			t.Fatal(err)
		}
		agent.Tell(control.Event{Name: "unban"})
		w.says(t, "withdraw", "192.0.2.1/32")
		banOn(t, agent, "192.0.2.2/32", 4*time.Second)
		w.says(t, "announce", "192.0.2.2/32")
		banOn(t, agent, "192.0.2.0/30", 4*time.Second)
		w.says(t, "announce", "192.0.2.0/30")
	}) {
		return
	}
	w.tells(t, "trying again")
	first := <-w.lines
	second := <-w.lines
	for _, p := range []string{"192.0.2.2/32", "192.0.2.0/30"} {
		if !strings.Contains(first+second, " "+p) || strings.Count(first+second, "withdraw") != 2 {
			t.Fatalf("%q, %q: nothing of %s", first, second, p)
		}
	}
	if _, err := io.WriteString(w.answers, "done\nerror\n"); err != nil {
		t.Fatal(err)
	}
	w.tells(t, "ExaBGP has refused a command")

	agent := controltest.New()
	serveFake(t, w.dir, agent)
	if _, err := agent.Allow(t.Context(), control.AllowRequest{Prefixes: control.Prefixes{netip.MustParsePrefix("198.51.100.1/32")}}); err != nil {
		t.Fatal(err)
	}
	banOn(t, agent, "198.51.100.0/31", time.Hour)
	w.says(t, "announce", "198.51.100.0/32")
	w.end()
	w.says(t, "withdraw", "198.51.100.0/32")
	if code := <-w.code; code != exitDone {
		t.Errorf("exit code %d\n%s", code, w.talk.String())
	}
}

func TestWatchForExaBGPSaysWhatHasNoRoom(t *testing.T) {
	t.Parallel()
	w := startExaBGPWatch(t, "--most", "1", "--as", "blackhole", "--next-hop", "198.51.100.9")
	agent := controltest.New()
	banOn(t, agent, "192.0.2.1/32", 2*time.Hour)
	banOn(t, agent, "192.0.2.2/32", 2*time.Hour)
	serveFake(t, w.dir, agent)
	w.says(t, "announce route", "192.0.2.1/32 next-hop 198.51.100.9 community [ no-export 65535:666 ]")
	w.tells(t, "1 ban is without a route: there are 1 already")
}

// ExaBGP ends, with all its sessions, if a process of it ends five times.
func TestWatchForExaBGPGoesOn(t *testing.T) {
	t.Parallel()
	w := startExaBGPWatch(t)
	t.Run("an agent that fails", func(t *testing.T) {
		agent := controltest.New()
		agent.ListErr = &control.Error{Code: control.CodePolicy, Message: "no permission", Hint: "ask"}
		banOn(t, agent, "192.0.2.1/32", 2*time.Hour)
		serveFake(t, w.dir, agent)
		w.tells(t, "error: no permission\nmeshban: hint: ask\n")
	})
	agent := controltest.New()
	banOn(t, agent, "192.0.2.1/32", 2*time.Hour)
	serveFake(t, w.dir, agent)
	w.says(t, "announce", "192.0.2.1/32")
}

func TestWrongFlagsForExaBGP(t *testing.T) {
	for line, hint := range map[string]string{
		"watch --format exabpg":                                  "write --format exabgp",
		"watch --as flow":                                        "write --format exabgp too",
		"watch --most 5 --json":                                  "write --format exabgp too",
		"watch --format exabgp --json":                           "give one of them",
		"watch --format exabgp --as null":                        "write --as flow or --as blackhole",
		"watch --format exabgp --as blackhole --next-hop x":      "write one such as --next-hop 192.0.2.1",
		"watch --format exabgp --next-hop 192.0.2.1":             "write --as blackhole too",
		"watch --format exabgp --community 70000:1":              "such as --community 65535:666",
		"watch --format exabgp --most 0":                         "must be 1 to 100000",
		"watch --format exabgp --origins 17":                     "must be 1 to 16",
		"watch --format exabgp --at-least 60":                    "write 60s",
		"watch --format exabgp --as blackhole --next-hop ::1%lo": "write one such as",
	} {
		var out, errs bytes.Buffer
		code := newCommand(fakeActions(), strings.NewReader(""), &out, &errs).run(t.Context(), append([]string{"--dir", t.TempDir()}, strings.Fields(line)...))
		if code != exitUsage || !strings.Contains(errs.String(), hint) || out.Len() != 0 {
			t.Errorf("%s: exit code %d\n%s%s", line, code, &out, &errs)
		}
	}
}
