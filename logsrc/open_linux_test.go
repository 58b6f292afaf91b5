package logsrc

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestOpenPath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a", "file")
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	link := func(name, target string) string {
		path := filepath.Join(dir, name)
		must(t, os.Symlink(target, path))
		return path
	}
	for _, c := range []struct {
		name, path string
		err        error
	}{
		{"ok: file", file, nil},
		{"ok: double slash", dir + "//a/./file", nil},
		{"ok: up and down", dir + "/a/b/../file", nil},
		{"ok: own link", link("l1", file), nil},
		{"ok: own link, relative", link("l2", "a/file"), nil},
		{"ok: own link up", link("a/b/l3", "../file"), nil},
		{"ok: own link to a folder", link("l4", "a") + "/file", nil},
		{"ok: own link to a link", link("l5", "l2"), nil},
		{"bad: missing", dir + "/a/none", syscall.ENOENT},
		{"bad: missing folder", dir + "/none/file", syscall.ENOENT},
		{"bad: file as a folder", file + "/file", syscall.ENOTDIR},
		{"bad: folder", dir + "/a", errNotRegular},
		{"bad: root", "/", errNotRegular},
		{"bad: device", "/dev/null", errNotRegular},
		{"bad: loop", link("l6", "l6"), syscall.ELOOP},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := openPath(c.path, os.O_RDONLY, 0)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err == nil {
				want, statErr := os.Stat(file)
				must(t, statErr)
				got, statErr := f.Stat()
				must(t, statErr)
				must(t, f.Close())
				if !os.SameFile(got, want) {
					t.Error("another file was opened")
				}
			}
		})
	}
}

func TestOpenPathMakesFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	f, err := openPath(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	must(t, err)
	must(t, f.Close())
	if _, err := openPath(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); !errors.Is(err, os.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	if f, err = openPath(path, os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, f.Close())
}
