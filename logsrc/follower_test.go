package logsrc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFirstContactBeginsAtTheEnd(t *testing.T) {
	path := logPath(t)
	add(t, path, lines(1, 9))
	x := newTail(t, path).poll().want()
	if x.calls != 1 || x.pos.Offset != int64(len(lines(1, 9))) {
		t.Fatalf("the position was not reported: %d calls, %+v", x.calls, x.pos)
	}
	add(t, path, line(10))
	x.poll().want(10)
	// A restart before any new line must not be a first contact again.
	x.restart()
	add(t, path, line(11))
	x.poll().want(11)
}

func TestFirstContactBehindAPartialLine(t *testing.T) {
	path := logPath(t)
	add(t, path, line(1)+"HOST 192.0.2.2 PORT 22")
	x := newTail(t, path).poll().want().restart()
	add(t, path, line(3))
	x.poll().want(3)
}

func TestMissingFileIsReadFromItsBeginning(t *testing.T) {
	for _, restart := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "log", "newbans.log")
		x := newTail(t, path).poll().want()
		if p := x.f.Stats().Problem; !strings.Contains(fmt.Sprint(p), path) || x.f.Stats().ProblemAt.IsZero() {
			t.Fatalf("problem %v", p)
		}
		if restart {
			x.restart()
		}
		must(t, EnsureFile(path, 0o640))
		add(t, path, lines(1, 2))
		x.poll().want(1, 2)
		if p := x.f.Stats(); p.Problem != nil || !p.ProblemAt.IsZero() {
			t.Fatalf("problem %v", p.Problem)
		}
	}
}

func TestPartialLine(t *testing.T) {
	path := logPath(t)
	add(t, path, "")
	x := newTail(t, path).poll()
	for _, c := range line(1) + line(2) {
		add(t, path, string(c))
		x.poll()
	}
	x.want(1, 2)
	if n := x.f.Stats().Ignored; n[NoHost]+n[NoPort] != 0 {
		t.Fatalf("parts of lines were parsed: %v", n)
	}
}

func TestTooLongLine(t *testing.T) {
	long := strings.Repeat("x", 3*chunkSize) + " HOST 192.0.2.99 PORT 22\n"
	t.Run("ok: in one piece", func(t *testing.T) {
		path := logPath(t)
		add(t, path, "")
		x := newTail(t, path).poll()
		add(t, path, line(1)+long+line(2))
		x.poll().want(1, 2)
		if n := x.f.Stats().Ignored[TooLong]; n != 1 {
			t.Fatalf("counted %d times", n)
		}
	})
	t.Run("ok: written in parts, with a restart in between", func(t *testing.T) {
		path := logPath(t)
		add(t, path, "")
		x := newTail(t, path).poll()
		add(t, path, long[:MaxLine+1])
		if x.poll(); !x.pos.Skip {
			t.Fatalf("waiting for the end of a line that is too long: %+v", x.pos)
		}
		add(t, path, long[MaxLine+1:1<<18])
		x.poll().restart()
		add(t, path, long[1<<18:]+line(2))
		x.poll().want(2)
	})
	t.Run("ok: the limit", func(t *testing.T) {
		path := logPath(t)
		add(t, path, "")
		x := newTail(t, path).poll()
		end := " HOST 192.0.2.1 PORT 22"
		add(t, path, strings.Repeat("x", MaxLine-len(end))+end)
		x.poll()
		add(t, path, "\n")
		x.poll().want(1)
	})
}

func TestHoles(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	add(t, path, line(1))
	x := newTail(t, path).poll()
	// After a truncation, a writer that does not append continues at its own offset: the file begins with a hole.
	must(t, os.Truncate(path, 0))
	must(t, os.Truncate(path, 64<<20))
	add(t, path, "HOST 192.0.2.2 PORT 22\n"+line(3))
	x.poll().want(2, 3)
	must(t, os.Truncate(path, 128<<20))
	x.poll().want()
	add(t, path, line(4)+"\x00\x00\n\x00"+line(5))
	x.poll().want(4, 5)
}

func TestBatches(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	add(t, path, "")
	x := newTail(t, path).poll()
	const total = 3*MaxBatch + 7
	want := make([]int, total)
	text := ""
	for i := range want {
		want[i] = i % 250
		text += line(want[i])
	}
	add(t, path, text)
	var at []Position
	var have []int
	x.f.cfg.Handle = func(batch []Line, pos Position) {
		x.handle(batch, pos)
		at, have = append(at, pos), append(have, len(x.got))
	}
	x.poll().want(want...)
	if len(at) < 4 {
		t.Fatalf("%d batches", len(at))
	}
	// Every position that was reported can be resumed from.
	for i, pos := range at {
		x.pos = pos
		x.restart().poll().want(want[have[i]:]...)
	}
}

func TestUnfitFiles(t *testing.T) {
	tests := []struct {
		name    string
		make    func(path string) error
		problem string
	}{
		{"bad: folder", func(p string) error { return os.Mkdir(p, 0o755) }, "not a regular file"},
		{"bad: FIFO", func(p string) error { return syscall.Mkfifo(p, 0o644) }, "not a regular file"},
		{"bad: device", func(p string) error { return os.Symlink("/dev/zero", p) }, "not a regular file"},
		{"bad: link to itself", func(p string) error { return os.Symlink(p, p) }, "symbolic links"},
		{"bad: dangling link", func(p string) error { return os.Symlink(p+".not", p) }, "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := logPath(t)
			must(t, tt.make(path))
			x := newTail(t, path).poll().want()
			if p := x.f.Stats().Problem; !strings.Contains(fmt.Sprint(p), tt.problem) || !strings.Contains(fmt.Sprint(p), path) {
				t.Fatalf("problem %v", p)
			}
			must(t, os.Remove(path))
			add(t, path, line(1))
			x.poll()
			add(t, path, line(2))
			x.poll()
			if x.got[len(x.got)-1] != "192.0.2.2" || x.f.Stats().Problem != nil {
				t.Fatalf("got %v, problem %v", x.got, x.f.Stats().Problem)
			}
		})
		t.Run(tt.name+" later", func(t *testing.T) {
			path := logPath(t)
			add(t, path, line(1))
			x := newTail(t, path).poll()
			rotate(t, path)
			must(t, tt.make(path))
			add(t, path+".1", line(2)) // by a program that has the old file open
			x.poll().want(2)
			if p := x.f.Stats().Problem; !strings.Contains(fmt.Sprint(p), tt.problem) {
				t.Fatalf("problem %v", p)
			}
			must(t, os.Remove(path))
			add(t, path, line(3))
			x.poll().want(3)
		})
	}
	t.Run("bad: a file in place of a folder", func(t *testing.T) {
		path := logPath(t)
		add(t, path, "")
		x := newTail(t, filepath.Join(path, "newbans.log")).poll()
		if p := x.f.Stats().Problem; !strings.Contains(fmt.Sprint(p), "not a directory") {
			t.Fatalf("problem %v", p)
		}
	})
}

func TestSymbolicLink(t *testing.T) {
	dir := t.TempDir()
	path, real := filepath.Join(dir, "newbans.log"), filepath.Join(t.TempDir(), "bans")
	add(t, real, line(1))
	must(t, os.Symlink(real, path))
	x := newTail(t, path).poll()
	add(t, path, line(2))
	x.poll().want(2)
	add(t, real, line(3))
	rotate(t, real)
	add(t, real, line(4))
	x.poll().want(3, 4).restart()
	add(t, real, line(5))
	rotate(t, real)
	add(t, real, line(6))
	x.poll().want(5, 6)
}

func TestStatsCount(t *testing.T) {
	path := logPath(t)
	add(t, path, "")
	x := newTail(t, path).poll()
	text := line(1) + "noise\nHOST x PORT 1\n\nHOST 192.0.2.1 PORT 22 so\n" + line(2)
	add(t, path, text)
	x.poll()
	s := x.f.Stats()
	if s.Accepted != 2 || s.Own != 0 || s.Bytes != uint64(len(text)) || len(s.Ignored) != len(Reasons()) ||
		s.Ignored[NoHost] != 1 || s.Ignored[BadAddress] != 1 || s.Ignored[Empty] != 1 || s.Ignored[TrailingText] != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestNewFollowerRefuses(t *testing.T) {
	handle := func([]Line, Position) {}
	for name, cfg := range map[string]FollowerConfig{
		"bad: no path":       {Handle: handle},
		"bad: no handler":    {Path: "x"},
		"bad: negative tick": {Path: "x", Handle: handle, Tick: -1},
		"bad: negative wait": {Path: "x", Handle: handle, RotateWait: -1},
	} {
		if _, err := NewFollower(cfg); err == nil {
			t.Error(name)
		}
	}
}
