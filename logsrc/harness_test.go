package logsrc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// tail is a Follower that polls when the test says so, and what it passed on.
type tail struct {
	t     testing.TB
	path  string
	f     *Follower
	now   time.Time
	pos   Position // as the daemon would store it
	got   []string // addresses of accepted lines that were not emitted
	echo  []string // addresses of emitted lines
	calls int
	own   *OwnRanges
	kept  slots  // as the daemon would store it
	stop  func() // called at the start of each Handle, if set
}

type slots map[int][]byte

func (s slots) Load(slot int) []byte        { return s[slot] }
func (s slots) Save(slot int, block []byte) { s[slot] = block }

// tb is the common part of *testing.T and *rapid.T.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func newTail(t testing.TB, path string) *tail {
	x := &tail{t: t, path: path, now: time.Unix(1_000_000, 0), own: new(OwnRanges), kept: slots{}}
	x.start()
	t.Cleanup(func() { x.f.close() })
	return x
}

func (x *tail) start() {
	x.t.Helper()
	f, err := NewFollower(FollowerConfig{Path: x.path, Start: x.pos, Own: x.own, Memory: x.kept, Handle: x.handle})
	if err != nil {
		x.t.Fatal(err)
	}
	x.f = f
}

func (x *tail) handle(batch []Line, pos Position) {
	if x.stop != nil {
		x.stop()
	}
	x.calls++
	if len(batch) > MaxBatch {
		x.t.Fatalf("batch of %d lines", len(batch))
	}
	for _, l := range batch {
		if l.Emitted {
			x.echo = append(x.echo, l.Addr.String())
		} else {
			x.got = append(x.got, l.Addr.String())
		}
	}
	x.pos = pos
}

// poll polls twice, as Run does after it switches to another file.
func (x *tail) poll() *tail {
	x.f.poll(context.Background(), x.now)
	x.f.poll(context.Background(), x.now)
	return x
}

// restart simulates a new process that knows the stored position.
func (x *tail) restart() *tail {
	x.t.Helper()
	x.f.close()
	x.own = new(OwnRanges)
	x.start()
	return x
}

// want checks the addresses (192.0.2.n) that came since its last call, in order.
func (x *tail) want(numbers ...int) *tail {
	x.t.Helper()
	want := make([]string, len(numbers))
	for i, n := range numbers {
		want[i] = fmt.Sprintf("192.0.2.%d", n)
	}
	if !slices.Equal(x.got, want) {
		x.t.Fatalf("got %v, want %v (position %+v, stats %+v)", x.got, want, x.pos, x.f.Stats())
	}
	x.got = nil
	return x
}

// line returns a good line about 192.0.2.n with a time, as logger writes it.
func line(n int) string {
	return fmt.Sprintf("<13>Nov 22 11:%02d:%02d root[%d]: HOST 192.0.2.%d PORT 22\n", n/60, n%60, 1000+n, n)
}

// lines returns the lines from first to last.
func lines(first, last int) string {
	text := ""
	for n := first; n <= last; n++ {
		text += line(n)
	}
	return text
}

// add appends text in one write.
func add(t tb, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func must(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shift makes room for path.1 as logrotate does: path.2 becomes path.3, and so on.
func shift(t tb, path string) {
	t.Helper()
	n := 1
	for ; ; n++ {
		if _, err := os.Lstat(fmt.Sprintf("%s.%d", path, n)); err != nil {
			break
		}
	}
	for ; n > 1; n-- {
		must(t, os.Rename(fmt.Sprintf("%s.%d", path, n-1), fmt.Sprintf("%s.%d", path, n)))
	}
}

// rotate renames the file, which is logrotate's default.
func rotate(t tb, path string) {
	t.Helper()
	shift(t, path)
	must(t, os.Rename(path, path+".1"))
}

// copyTruncate does what logrotate's option of that name does.
func copyTruncate(t tb, path string) {
	t.Helper()
	shift(t, path)
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path+".1", text, 0o640))
	must(t, os.Truncate(path, 0))
}

func logPath(t testing.TB) string { return filepath.Join(t.TempDir(), "newbans.log") }
