package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

var now = time.Date(2026, 11, 22, 11, 2, 11, 0, time.UTC)

// entry returns the n-th entry of a test, one second after the previous one.
func entry(n int) control.AuditEntry {
	return control.AuditEntry{
		Time: now.Add(time.Duration(n) * time.Second), What: "ban", Via: control.ViaSocket, User: "alice", UID: new(uint32(4200)), PID: n + 1,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/64")},
		Until:    now.Add(time.Hour), Node: "web1", NodeID: "00112233", Reason: "tries\n\"passwords\" \x1b[2J", Source: "cli",
	}
}

// start runs a log until stop is called or the test ends.
func start(t *testing.T, cfg Config) (l *Log, stop func()) {
	t.Helper()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return l, stop
}

func read(t *testing.T, l *Log, since time.Time) []control.AuditEntry {
	t.Helper()
	var all []control.AuditEntry
	err := l.Read(t.Context(), since, func(e control.AuditEntry) error { all = append(all, e); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWhatIsAddedIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, stop := start(t, Config{Path: path})
	var want []control.AuditEntry
	for i := range 100 {
		l.Add(entry(i))
		want = append(want, entry(i))
	}
	if got := read(t, l, time.Time{}); !reflect.DeepEqual(got, want) {
		t.Fatalf("read %d entries, the first %+v", len(got), got[0])
	}
	if got := read(t, l, entry(90).Time); !reflect.DeepEqual(got, want[90:]) {
		t.Errorf("%d entries since the 90th", len(got))
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != mode {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// The next run appends to the file; Read skips the line that is not an entry.
	l.Add(entry(100))
	stop()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("{\"time\":\"2026-\x00garbage\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l, _ = start(t, Config{Path: path})
	l.Add(entry(101))
	if got := read(t, l, time.Time{}); !reflect.DeepEqual(got, append(want, entry(100), entry(101))) {
		t.Errorf("%d entries after a restart, want 102", len(got))
	}
}

func TestRotationBoundsTheSize(t *testing.T) {
	dir := t.TempDir()
	const most = 4 << 10
	l, _ := start(t, Config{Path: filepath.Join(dir, "audit.jsonl"), MaxFile: most})
	const count = 1000
	for i := range count {
		l.Add(entry(i))
		if i%10 == 9 {
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != MaxOld+1 {
		t.Errorf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > 2*most {
			t.Errorf("%s has %d bytes, %v", f, info.Size(), err)
		}
	}
	got := read(t, l, time.Time{})
	if len(got) < 50 || len(got) >= count {
		t.Fatalf("%d of %d entries are kept", len(got), count)
	}
	for i, e := range got { // the newest, in order, without a gap
		if want := entry(count - len(got) + i); !reflect.DeepEqual(e, want) {
			t.Fatalf("entry %d is %+v, want %+v", i, e, want)
		}
	}
}

// Nobody waits for the disk: entries that do not fit are dropped, counted and reported.
func TestAddNeverBlocks(t *testing.T) {
	var reported []string
	l, err := New(Config{Path: filepath.Join(t.TempDir(), "audit.jsonl"), OnProblem: func(p string, _ error) { reported = append(reported, p) }})
	if err != nil {
		t.Fatal(err)
	}
	for i := range MaxQueue + 7 { // Run is not running
		l.Add(entry(i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	got := read(t, l, time.Time{})
	if len(got) != MaxQueue || got[0].Lost != 7 || l.Lost() != 7 {
		t.Errorf("%d entries, of which the first says %d were lost", len(got), got[0].Lost)
	}
	if len(reported) != 1 || !strings.Contains(reported[0], "7 changes") {
		t.Errorf("reported %q", reported)
	}
}

func TestDiskThatFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	reported := make(chan string, 10)
	l, _ := start(t, Config{Path: filepath.Join(dir, "audit.jsonl"), OnProblem: func(p string, err error) { reported <- fmt.Sprint(p, " ", err) }})
	l.Add(entry(0))
	if p := <-reported; !strings.Contains(p, "not recorded") || !strings.Contains(p, "no such file") {
		t.Errorf("reported %q", p)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.Add(entry(1))
	if p := <-reported; p != " <nil>" {
		t.Errorf("reported %q once it works again", p)
	}
	if got := read(t, l, time.Time{}); len(got) != 1 || got[0].Lost != 1 {
		t.Errorf("%+v", got)
	}
}

// An entry takes one line, whatever it contains, and fits the reader's limit.
func TestGreatestEntryFitsALine(t *testing.T) {
	e := entry(0)
	e.Reason, e.Source, e.Ports = strings.Repeat("\x00", control.MaxReason), strings.Repeat("\x1b", control.MaxSource), strings.Repeat("1", control.MaxPorts)
	e.Prefixes = nil
	for i := range MaxListed {
		e.Prefixes = append(e.Prefixes, netip.MustParsePrefix(fmt.Sprintf("2001:db8:1234:5678:9abc:def0:1234:%x/128", 0xf000+i)))
	}
	line, err := json.Marshal(e)
	if err != nil || len(line) >= control.MaxLine/2 || strings.ContainsAny(string(line), "\n\x1b\x00") {
		t.Errorf("%d bytes, %v", len(line), err)
	}
}

func FuzzEntry(f *testing.F) {
	line, err := json.Marshal(entry(0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Fuzz(func(t *testing.T, line []byte) {
		var e, again control.AuditEntry
		if json.Unmarshal(line, &e) != nil {
			return
		}
		text, err := json.Marshal(e)
		if err != nil {
			return // a year beyond 9999
		}
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if e.PID = max(e.PID, 0); !e.Time.Equal(again.Time) || !e.Until.Equal(again.Until) {
			t.Errorf("times %v, %v came back as %v, %v", e.Time, e.Until, again.Time, again.Until)
		}
		if e.Time, e.Until = again.Time, again.Until; len(e.Prefixes) == 0 {
			e.Prefixes = nil
		}
		if !reflect.DeepEqual(e, again) {
			t.Errorf("%+v came back as %+v", e, again)
		}
		if text2, err := json.Marshal(again); err != nil || string(text2) != string(text) {
			t.Errorf("%s, then %s (%v)", text, text2, err)
		}
	})
}

// A peer's op that is recorded but not yet stored when the machine dies comes again, and is not recorded again. What the peer
// says anew is recorded, whether it is the same or not.
func TestNothingTwiceAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	own, remote := entry(0), entry(1)
	remote.Via, remote.Frame, remote.User, remote.UID, remote.PID = control.ViaMesh, "3.7", "", nil, 0
	l, stop := start(t, Config{Path: path})
	for i := range 1000 { // more than the part of the file that is read
		l.Add(entry(i))
	}
	l.Add(own)
	l.Add(remote)
	stop()

	l, _ = start(t, Config{Path: path})
	again, later, anew := remote, remote, remote
	anew.Time, anew.Frame = now.Add(time.Hour), "3.9"
	again.Time, again.Node = now.Add(time.Hour), "" // its certificate has not come yet
	later.Until = now.Add(2 * time.Hour)
	for _, e := range []control.AuditEntry{own, anew, again, later, again} {
		l.Add(e)
	}
	got := read(t, l, time.Time{})[1000:]
	if want := []control.AuditEntry{own, remote, own, anew, later, again}; !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v\nwant %+v", got, want)
	}
}
