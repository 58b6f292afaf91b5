package ownfile

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// remedy runs the command that a refusal suggests.
func remedy(t *testing.T, err error) {
	t.Helper()
	refused, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v is not an *Error", err)
	}
	_, line, ok := strings.Cut(refused.Remedy, ": ")
	if !ok {
		t.Fatalf("no command in %q", refused.Remedy)
	}
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// plain returns a func that makes a file with mode.
func plain(mode fs.FileMode) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		must(t, os.WriteFile(path, []byte("old"), 0o600))
		must(t, os.Chmod(path, mode))
	}
}

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*testing.T, string)
		want string // of the error
	}{
		{"ok: missing", func(*testing.T, string) {}, ""},
		{"ok: mode 0600", plain(0o600), ""},
		{"ok: mode 0644", plain(0o644), ""},
		{"ok: a hard link", func(t *testing.T, p string) {
			plain(0o600)(t, p)
			must(t, os.Link(p, p+".other"))
		}, ""},
		{"bad: writable by the group", plain(0o620), "mode 0620"},
		{"bad: writable by others", plain(0o602), "mode 0602"},
		{"bad: link to a file", func(t *testing.T, p string) {
			plain(0o600)(t, p+".target")
			must(t, os.Symlink(p+".target", p))
		}, "is a symbolic link"},
		{"bad: dangling link", func(t *testing.T, p string) { must(t, os.Symlink(p+".target", p)) }, "is a symbolic link"},
		{"bad: link to itself", func(t *testing.T, p string) { must(t, os.Symlink(p, p)) }, "is a symbolic link"},
		{"bad: named pipe", func(t *testing.T, p string) { must(t, syscall.Mkfifo(p, 0o600)) }, "is a named pipe"},
		{"bad: folder", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)) }, "is a folder"},
		{"bad: socket", func(t *testing.T, p string) {
			l, err := net.Listen("unix", p)
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}, "is a socket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, flag := range map[string]int{
				"append": os.O_WRONLY | os.O_CREATE | os.O_APPEND, "both": os.O_RDWR | os.O_CREATE, "read": os.O_RDONLY,
			} {
				dir, err := os.MkdirTemp("", "own") // short, for the socket
				must(t, err)
				t.Cleanup(func() { os.RemoveAll(dir) })
				path := filepath.Join(dir, "it's") // to be quoted
				c.make(t, path)
				f, err := Open(path, flag, 0o600)
				if err == nil {
					must(t, f.Close())
				}
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) {
						t.Fatalf("%s: %v, want %q", how, err, c.want)
					}
					if _, err := os.Lstat(path + ".target"); err == nil != strings.HasSuffix(c.name, "a file") {
						t.Errorf("%s: the link was followed", how)
					}
					remedy(t, err)
					if f, err = Open(path, flag|os.O_CREATE, 0o600); err != nil {
						t.Fatalf("%s, after the remedy: %v", how, err)
					}
					must(t, f.Close())
				} else if err != nil && !(flag == os.O_RDONLY && errors.Is(err, fs.ErrNotExist)) {
					t.Errorf("%s: %v", how, err)
				}
			}
		})
	}
}

func TestCheckDir(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, base string) (dir string)
		want string
	}{
		{"ok: mode 0755", func(t *testing.T, base string) string { return base }, ""},
		{"ok: link of this user", func(t *testing.T, base string) string {
			must(t, os.Symlink("../"+filepath.Base(base)+"/.", base+"/link"))
			return base + "/link/link"
		}, ""},
		{"ok: below a folder with the sticky bit", func(t *testing.T, base string) string {
			must(t, os.MkdirAll(base+"/tmp/dir", 0o755))
			must(t, os.Chmod(base+"/tmp", 0o777|fs.ModeSticky))
			return base + "/tmp/dir"
		}, ""},
		{"bad: writable by the group", func(t *testing.T, base string) string {
			must(t, os.Chmod(base, 0o775))
			return base
		}, "mode 0775"},
		{"bad: writable by others", func(t *testing.T, base string) string {
			must(t, os.Chmod(base, 0o777))
			return base
		}, "mode 0777"},
		{"bad: writable by others, with the sticky bit", func(t *testing.T, base string) string {
			must(t, os.Chmod(base, 0o777|fs.ModeSticky))
			return base
		}, "mode 0777"},
		{"bad: folder above is writable by others", func(t *testing.T, base string) string {
			must(t, os.MkdirAll(base+"/above/dir", 0o755))
			must(t, os.Chmod(base+"/above", 0o777))
			return base + "/above/dir"
		}, "/above\" is writable by others"},
		{"bad: link through a folder that is writable by others", func(t *testing.T, base string) string {
			must(t, os.MkdirAll(base+"/above/dir", 0o755))
			must(t, os.Chmod(base+"/above", 0o777))
			must(t, os.Symlink(base+"/above/dir", base+"/link"))
			return base + "/link"
		}, "/above\" is writable by others"},
		{"bad: missing, in a folder that is writable by others", func(t *testing.T, base string) string {
			must(t, os.Mkdir(base+"/above", 0o755))
			must(t, os.Chmod(base+"/above", 0o777))
			return base + "/above/dir"
		}, "/above\" is writable by others"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := c.make(t, t.TempDir())
			err := CheckDir(dir)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			remedy(t, err)
			if err := CheckDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after the remedy: %v", err)
			}
		})
	}
	loop := filepath.Join(t.TempDir(), "loop")
	must(t, os.Symlink(loop, loop))
	if err := CheckDir(loop); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link to itself: %v, want ELOOP", err)
	}
	if err := CheckDir(filepath.Join(t.TempDir(), "missing", "dir")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing folder: %v, want ErrNotExist", err)
	}
}
