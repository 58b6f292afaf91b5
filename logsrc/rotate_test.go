package logsrc

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// Each case gets a file of which lines 1 and 2 were read, and does something to it. It runs twice: while the follower
// runs, and while it is down.
func TestRotation(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		do   func(t *testing.T, path string)
		want []int
	}{
		{"ok: appended", func(t *testing.T, path string) {
			add(t, path, line(3))
		}, []int{3}},
		{"ok: renamed", func(t *testing.T, path string) {
			add(t, path, line(3))
			rotate(t, path)
			add(t, path, line(4))
		}, []int{3, 4}},
		{"ok: renamed, nothing left in the old file", func(t *testing.T, path string) {
			rotate(t, path)
			add(t, path, line(4))
		}, []int{4}},
		{"ok: renamed by date", func(t *testing.T, path string) {
			add(t, path, line(3))
			must(t, os.Rename(path, path+"-20261122"))
			add(t, path, line(4))
		}, []int{3, 4}},
		{"ok: renamed, the new file is not there yet", func(t *testing.T, path string) {
			add(t, path, line(3))
			rotate(t, path)
		}, []int{3}},
		{"ok: renamed, the new file is empty", func(t *testing.T, path string) {
			rotate(t, path)
			add(t, path, "")
		}, nil},
		{"ok: renamed, the new file is longer than what was read", func(t *testing.T, path string) {
			rotate(t, path)
			add(t, path, lines(10, 30))
		}, []int{10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30}},
		{"ok: renamed, the new file begins with a copy of the old one", func(t *testing.T, path string) {
			rotate(t, path)
			add(t, path, lines(1, 3))
		}, []int{3}},
		{"ok: renamed, the old file ends without a line end", func(t *testing.T, path string) {
			add(t, path, strings.TrimSuffix(line(3), "\n"))
			rotate(t, path)
			add(t, path, line(4))
		}, []int{3, 4}},
		{"ok: renamed three times", func(t *testing.T, path string) {
			add(t, path, line(3))
			rotate(t, path)
			add(t, path, line(4))
			rotate(t, path)
			add(t, path, line(5))
			rotate(t, path)
			add(t, path, line(6))
		}, []int{3, 4, 5, 6}},
		{"ok: renamed there and back", func(t *testing.T, path string) {
			must(t, os.Rename(path, path+".x"))
			must(t, os.Rename(path+".x", path))
			add(t, path, line(3))
		}, []int{3}},
		{"ok: an administrator's copies are no generations", func(t *testing.T, path string) {
			must(t, os.WriteFile(path+".bak", []byte(lines(1, 2)), 0o640))
			must(t, os.WriteFile(path+".old", []byte(lines(40, 41)), 0o640))
			add(t, path, line(3))
			rotate(t, path)
			add(t, path, line(4))
		}, []int{3, 4}},
		{"ok: copied and truncated", func(t *testing.T, path string) {
			add(t, path, line(3))
			copyTruncate(t, path)
			add(t, path, line(4))
		}, []int{3, 4}},
		{"ok: copied and truncated, empty", func(t *testing.T, path string) {
			copyTruncate(t, path)
		}, nil},
		{"ok: copied and truncated, grown beyond what was read", func(t *testing.T, path string) {
			add(t, path, line(3))
			copyTruncate(t, path)
			add(t, path, lines(4, 9))
		}, []int{3, 4, 5, 6, 7, 8, 9}},
		{"ok: copied and truncated, grown to the same size", func(t *testing.T, path string) {
			copyTruncate(t, path)
			add(t, path, lines(4, 5))
		}, []int{4, 5}},
		{"ok: copied and truncated twice", func(t *testing.T, path string) {
			add(t, path, line(3))
			copyTruncate(t, path)
			add(t, path, line(4))
			copyTruncate(t, path)
			add(t, path, line(5))
		}, []int{3, 4, 5}},
		{"ok: copied and truncated, then renamed", func(t *testing.T, path string) {
			add(t, path, line(3))
			copyTruncate(t, path)
			add(t, path, line(4))
			rotate(t, path)
			add(t, path, line(5))
		}, []int{3, 4, 5}},
		{"ok: renamed, then copied and truncated", func(t *testing.T, path string) {
			add(t, path, line(3))
			rotate(t, path)
			add(t, path, line(4))
			copyTruncate(t, path)
			add(t, path, line(5))
		}, []int{3, 4, 5}},
		{"ok: emptied", func(t *testing.T, path string) {
			must(t, os.Truncate(path, 0))
			add(t, path, line(3))
		}, []int{3}},
		{"ok: removed and made anew", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			add(t, path, line(3))
		}, []int{3}},
		{"ok: saved by an editor, with a line more", func(t *testing.T, path string) {
			must(t, os.WriteFile(path+"~new", []byte(lines(1, 3)), 0o640))
			must(t, os.Rename(path+"~new", path))
		}, []int{3}},
		{"ok: restored to another file system", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			add(t, path, lines(1, 3))
		}, []int{3}},
	}
	for _, tt := range tests {
		for _, down := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, down=%v", tt.name, down), func(t *testing.T) {
				path := logPath(t)
				add(t, path, "")
				x := newTail(t, path).poll()
				add(t, path, lines(1, 2))
				x.poll().want(1, 2)
				if down {
					x.f.close()
				}
				tt.do(t, path)
				if down {
					x.restart()
				}
				x.poll().want(tt.want...)
				x.restart().poll().want()
				add(t, path, line(99))
				x.poll().want(99).restart().poll().want()
			})
		}
	}
}

func TestLateWriterToARotatedFile(t *testing.T) {
	path := logPath(t)
	add(t, path, line(1))
	x := newTail(t, path).poll()
	rotate(t, path)
	add(t, path, line(2))
	x.poll().want(2)
	add(t, path+".1", line(3))
	x.poll().want(3)
	x.now = x.now.Add(4 * time.Second)
	add(t, path+".1", line(4)+"HOST 192.0.2.5 POR")
	x.poll().want(4)
	add(t, path+".1", "T 22\n")
	x.poll().want(5)
	add(t, path+".1", "HOST 192.0.2.6")
	x.now = x.now.Add(2 * time.Second)
	before := x.f.Stats().Ignored[NoPort]
	x.poll().want()
	if n := x.f.Stats().Ignored[NoPort] - before; n != 1 || len(x.f.retired) != 0 {
		t.Fatalf("the partial last line was counted %d times, %d files are open", n, len(x.f.retired))
	}
}

func TestRotatedFilesAreBounded(t *testing.T) {
	path := logPath(t)
	add(t, path, "")
	x := newTail(t, path).poll()
	for n := 1; n <= 3*maxRetired; n++ {
		add(t, path, line(n))
		rotate(t, path)
		add(t, path, "")
		x.poll().want(n)
		if len(x.f.retired) > maxRetired {
			t.Fatalf("%d files are open", len(x.f.retired))
		}
	}
	if n := x.f.Stats().Rotations; n != 3*maxRetired {
		t.Fatalf("%d rotations", n)
	}
}

func TestTruncationIsCounted(t *testing.T) {
	path := logPath(t)
	add(t, path, lines(1, 5))
	x := newTail(t, path).poll()
	copyTruncate(t, path)
	x.poll()
	add(t, path, lines(6, 7))
	x.poll().want(6, 7)
	if n := x.f.Stats().Truncations; n != 1 {
		t.Fatalf("%d truncations", n)
	}
}

// A stored position that matches nothing must not stop the follower.
func TestBrokenPosition(t *testing.T) {
	for name, pos := range map[string]Position{
		"ok: beyond the end":   {Inode: 7, Offset: 1 << 60, Fingerprint: 1},
		"ok: negative":         {Inode: 7, Offset: -5, Fingerprint: 1},
		"ok: no fingerprint":   {Inode: 7, Offset: 40},
		"ok: of nothing":       {Fingerprint: fingerprint(nil)},
		"ok: inside a line":    {Inode: 7, Offset: 40, Fingerprint: fingerprint([]byte(line(1)[:40]))},
		"ok: skipping nothing": {Inode: 7, Offset: 0, Skip: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := logPath(t)
			add(t, path, lines(1, 3))
			x := newTail(t, path)
			x.pos = pos
			x.restart().poll()
			x.got = nil
			add(t, path, line(4))
			x.poll().want(4)
		})
	}
}
