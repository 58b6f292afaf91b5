package logsrc

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var emitTime = time.Date(2026, 11, 2, 11, 2, 11, 0, time.UTC)

func emission(n int) Emission {
	return Emission{Origin: "web2", Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), Port: 22}
}

func newEmitter(t testing.TB, path string, own *OwnRanges) *Emitter {
	t.Helper()
	e, err := NewEmitter(EmitterConfig{Path: path, Own: own, Pid: 731, Location: time.FixedZone("", 3600)})
	must(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

func TestEmitForm(t *testing.T) {
	tests := []struct {
		name string
		e    Emission
		want string
	}{
		{"ok: v4", Emission{"web2", netip.MustParseAddr("192.0.2.7"), 22}, "web2 newbans[731]: HOST 192.0.2.7 PORT 22"},
		{"ok: all ports", Emission{"web2", netip.MustParseAddr("192.0.2.7"), 0}, "web2 newbans[731]: HOST 192.0.2.7 PORT 0"},
		{"ok: v6", Emission{"a.b-C", netip.MustParseAddr("2001:DB8::0:7"), 65535}, "a.b-C newbans[731]: HOST 2001:db8::7 PORT 65535"},
		{"ok: 4-in-6", Emission{"a", netip.MustParseAddr("::ffff:192.0.2.7"), 1}, "a newbans[731]: HOST 192.0.2.7 PORT 1"},
		{"ok: zone", Emission{"a", netip.MustParseAddr("fe80::1%eth0"), 1}, "a newbans[731]: HOST fe80::1 PORT 1"},
		{"ok: no origin", Emission{"", netip.MustParseAddr("192.0.2.7"), 1}, "unknown newbans[731]: HOST 192.0.2.7 PORT 1"},
		{"ok: odd origin", Emission{"a b\nHOST ü", netip.MustParseAddr("192.0.2.7"), 1}, "a-b-HOST--- newbans[731]: HOST 192.0.2.7 PORT 1"},
		{"ok: long origin", Emission{strings.Repeat("x", 99), netip.MustParseAddr("192.0.2.7"), 1},
			strings.Repeat("x", 64) + " newbans[731]: HOST 192.0.2.7 PORT 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := logPath(t)
			must(t, newEmitter(t, path, nil).Emit(emitTime, []Emission{tt.e}))
			text, err := os.ReadFile(path)
			must(t, err)
			if want := "Nov  2 12:02:11 " + tt.want + "\n"; string(text) != want {
				t.Fatalf("got %q\nwant %q", text, want)
			}
			l, err := Parse(text)
			if err != nil || !l.Emitted || l.Origin != cleanOrigin(tt.e.Origin) || l.Pid != 731 {
				t.Fatalf("read back: %+v, %v", l, err)
			}
		})
	}
}

func TestEmitErrors(t *testing.T) {
	t.Run("bad: address", func(t *testing.T) {
		path := logPath(t)
		if err := newEmitter(t, path, nil).Emit(emitTime, []Emission{emission(1), {}}); err == nil || !strings.Contains(err.Error(), path) {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Fatal("something was written")
		}
	})
	t.Run("bad: FIFO", func(t *testing.T) {
		path := logPath(t)
		must(t, syscall.Mkfifo(path, 0o600))
		if err := newEmitter(t, path, nil).Emit(emitTime, []Emission{emission(1)}); err == nil || !strings.Contains(err.Error(), path) {
			t.Fatal(err)
		}
	})
	t.Run("bad: folder", func(t *testing.T) {
		if err := newEmitter(t, t.TempDir(), nil).Emit(emitTime, []Emission{emission(1)}); err == nil {
			t.Fatal("no error")
		}
	})
	t.Run("bad: disk full", func(t *testing.T) {
		if err := newEmitter(t, "/dev/full", nil).Emit(emitTime, []Emission{emission(1)}); err == nil {
			t.Fatal("no error")
		}
	})
	t.Run("ok: nothing to write", func(t *testing.T) {
		must(t, newEmitter(t, "/dev/full", nil).Emit(emitTime, nil))
	})
	t.Run("bad: configuration", func(t *testing.T) {
		for _, cfg := range []EmitterConfig{{}, {Path: "x", Pid: -1}, {Path: "x", Pid: 1 << 32}} {
			if _, err := NewEmitter(cfg); err == nil {
				t.Fatalf("%+v", cfg)
			}
		}
	})
}

func TestOwnLinesAreSkipped(t *testing.T) {
	path := logPath(t)
	x := newTail(t, path).poll()
	e := newEmitter(t, path, x.own)
	emit := func(numbers ...int) {
		t.Helper()
		var batch []Emission
		for _, n := range numbers {
			batch = append(batch, emission(n))
		}
		must(t, e.Emit(emitTime, batch))
	}
	nothing := func() {
		t.Helper()
		if x.poll().want(); x.echo != nil {
			t.Fatalf("own lines came back: %v", x.echo)
		}
	}
	emit(1, 2)
	nothing()
	add(t, path, line(3))
	emit(4)
	add(t, path, line(5))
	x.poll().want(3, 5)
	add(t, path, "HOST 192.0.2.6 PORT 22") // another writer's unfinished line must not be joined to ours
	emit(7)
	x.poll().want(6)
	rotate(t, path)
	emit(8)
	if _, err := os.Stat(path); err != nil {
		t.Fatal("wrote to the rotated file")
	}
	nothing()
	rotate(t, path)
	add(t, path, "")
	emit(9)
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Fatal("wrote to the rotated file although there is a new one")
	}
	add(t, path, line(10))
	x.poll().want(10)
	copyTruncate(t, path)
	emit(11)
	add(t, path, line(12))
	x.poll().want(12)
	nothing()
	if s := x.f.Stats(); s.Own != 7 || s.Accepted != 5 {
		t.Fatalf("counted %d own lines and %d others", s.Own, s.Accepted)
	}
}

func TestStaleRangesHideNothing(t *testing.T) {
	path := logPath(t)
	x := newTail(t, path).poll()
	e := newEmitter(t, path, x.own)
	for range 20 {
		must(t, e.Emit(emitTime, []Emission{emission(1)}))
	}
	must(t, os.Truncate(path, 0)) // before the follower reads these offsets
	add(t, path, lines(2, 5))
	x.poll().want(2, 3, 4, 5)
}

func TestEmittedByAnEarlierRun(t *testing.T) {
	path := logPath(t)
	x := newTail(t, path).poll()
	must(t, newEmitter(t, path, x.own).Emit(emitTime, []Emission{emission(1)}))
	add(t, path, line(2))
	x.restart().poll().want(2)
	if len(x.echo) != 1 || x.echo[0] != "192.0.2.1" {
		t.Fatalf("echoes %v", x.echo)
	}
}

func TestOwnRangesAreBounded(t *testing.T) {
	own := new(OwnRanges)
	file := fileID{1, 2}
	for i := range int64(3 * maxOwnRanges) {
		must(t, own.record(file, func() (int64, int64, error) { return 10 * i, 10*i + 5, nil }))
	}
	if n := len(own.overlapping(nil, file, 0, 1<<40)); n != maxOwnRanges {
		t.Fatalf("%d ranges", n)
	}
	if n := len(own.overlapping(nil, file, 1<<40, 1<<40)); n != 0 || len(own.ranges) != 0 {
		t.Fatalf("%d ranges remain before the reader", len(own.ranges))
	}
	for i := range int64(100) {
		must(t, own.record(file, func() (int64, int64, error) { return 10 * i, 10*i + 10, nil }))
	}
	if len(own.ranges) != 1 {
		t.Fatalf("adjacent ranges are not merged: %d", len(own.ranges))
	}
	must(t, own.record(fileID{1, 3}, func() (int64, int64, error) { return 1000, 1010, nil }))
	if len(own.ranges) != 2 {
		t.Fatal("ranges of two files were merged")
	}
}

func TestEnsureFile(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "log", "newbans.log")
	must(t, EnsureFile(path, 0o640))
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 || info.Size() != 0 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	must(t, os.Chmod(path, 0o600))
	add(t, path, line(1))
	must(t, EnsureFile(path, 0o640))
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 || info.Size() == 0 {
		t.Fatalf("an existing file was changed: %v, %v", info.Mode(), err)
	}
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(filepath.Join(dir, "target"), link))
	must(t, EnsureFile(link, 0o640))
	if _, err := os.Stat(filepath.Join(dir, "target")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(path, "x"), "/dev/null"} {
		if err := EnsureFile(path, 0o640); err == nil {
			t.Errorf("bad: %s: no error", path)
		}
	}
}

// A full disk may cut an emitted line anywhere. If the agent was then killed, its next run took a line that was cut
// after PORT for one of another program, and banned its address.
func TestACutEmissionIsNoSighting(t *testing.T) {
	for _, port := range []uint16{0, 22, 65535} {
		line := appendEmission(nil, []byte("Nov 22 11:02:11"), "web2", 731, netip.MustParseAddr("192.0.2.7"), port)
		for n := range len(line) {
			if l, err := Parse(line[:n]); err == nil && !l.Emitted {
				t.Errorf("%q counts as a line of another program: %+v", line[:n], l)
			}
		}
	}
}
