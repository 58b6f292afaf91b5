//go:build linux && netns

package cli

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// owner and stranger are users that only this test has.
const owner, stranger = 47110, 47111

// program builds meshban where every user can run it, and returns its path.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(openDir(t), "meshban")
	if out, err := exec.Command("go", "build", "-o", path, "../..").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// openDir returns a folder of root's that every user can traverse.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "folder")
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ok(t, os.Chmod(dir, 0o755))
	return dir
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// as runs the program as a user and returns its exit code and output.
func as(uid uint32, program string, args ...string) (int, string) {
	cmd := exec.Command(program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return -1, err.Error()
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// No verb works in a state folder that another user could have filled or could replace.
func TestFolderOfOthersIsRefused(t *testing.T) {
	bin := program(t)
	chown := func(uid int, paths ...string) {
		for _, p := range paths {
			ok(t, os.Lchown(p, uid, uid))
		}
	}
	type folder struct {
		name string
		make func(dir string) // makes the folder bad; before, it is sound and belongs to the user who runs the program
		want string
	}
	bad := []folder{
		{"folder of another user", func(dir string) { chown(stranger, dir) }, "belongs to user 47111"},
		{"writable by all", func(dir string) { ok(t, os.Chmod(dir, 0o777)) }, "mode 0777"},
		{"writable by the group", func(dir string) { ok(t, os.Chmod(dir, 0o771)) }, "mode 0771"},
		{"access list of another user", func(dir string) {
			if out, err := exec.Command("setfacl", "-m", "u:47111:rwx", dir).CombinedOutput(); err != nil {
				ok(t, os.Chmod(dir, 0o775)) // no access lists here: set the mode that such a list shows
				t.Logf("setfacl: %v %s", err, out)
			}
		}, "is writable by others"},
		{"folder above is writable by all", func(dir string) { ok(t, os.Chmod(filepath.Dir(dir), 0o777)) }, "could replace"},
		{"folder above is of another user", func(dir string) { chown(stranger, filepath.Dir(dir)) }, "could replace"},
		{"link of another user", func(dir string) {
			ok(t, os.Rename(dir, dir+".real"))
			ok(t, os.Symlink(dir+".real", dir))
			chown(stranger, dir)
			ok(t, os.Chmod(filepath.Dir(dir), 0o777|fs.ModeSticky))
		}, "is a symbolic link of user 47111"},
	}
	for _, file := range []string{"meshban.yaml", "node.key", "mesh.key", "ca.key", "node.cert", "store.db", "audit.jsonl", "lock"} {
		keep := func(dir string) string {
			path := filepath.Join(dir, file)
			ok(t, os.WriteFile(path+".aside", nil, 0o600))
			if err := os.Rename(path, path+".aside"); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			return path
		}
		bad = append(bad,
			folder{file + " is a link", func(dir string) {
				path := keep(dir)
				ok(t, os.Symlink(path+".aside", path))
			}, "is a symbolic link"},
			folder{file + " is a link to nothing", func(dir string) { ok(t, os.Symlink("/nonexistent/x", keep(dir))) }, "is a symbolic link"},
			folder{file + " is a named pipe", func(dir string) { ok(t, syscall.Mkfifo(keep(dir), 0o600)) }, "is a named pipe"},
			folder{file + " is a file of another user", func(dir string) {
				path := keep(dir)
				ok(t, os.WriteFile(path, nil, 0o600))
				chown(stranger, path)
			}, "belongs to user 47111"},
			folder{file + " is a second name of another user's file", func(dir string) {
				path := keep(dir)
				other := filepath.Join(filepath.Dir(dir), "other")
				ok(t, os.WriteFile(other, nil, 0o644))
				chown(stranger, other)
				ok(t, os.Link(other, path))
			}, "belongs to user 47111"},
			folder{file + " is writable by others", func(dir string) {
				path := keep(dir)
				ok(t, os.WriteFile(path, nil, 0o600))
				chown(owner, path)
				ok(t, os.Chmod(path, 0o646))
			}, "mode 0646"})
	}
	verbs := [][]string{
		{"agent", "--firewall", "none", "--bind", "127.0.0.1:0"}, {"init"}, {"join", "mb1-nothing"}, {"join", "--request"},
		{"rotate", "node-key"}, {"ca", "export", "/nonexistent/x"},
		{"ca", "sign", "--key", "/nonexistent/x", "/dev/null"}, {"setup", "systemd", "--print"}, {"teardown"},
	}
	for _, uid := range []int{0, owner} {
		for _, c := range bad {
			t.Run(c.name+", user "+strconv.Itoa(uid), func(t *testing.T) {
				above := openDir(t)
				dir := filepath.Join(above, "state")
				ok(t, os.Mkdir(dir, 0o711))
				chown(uid, above, dir)
				if code, said := as(uint32(uid), bin, "--dir", dir, "init"); code != exitDone {
					t.Fatalf("init: exit code %d\n%s", code, said)
				}
				c.make(dir)
				if uid == 0 {
					// The mode cases gave the file to owner; give it to root.
					if strings.HasSuffix(c.name, "writable by others") {
						chown(0, filepath.Join(dir, strings.Fields(c.name)[0]))
					}
				}
				tried := verbs
				if strings.Contains(c.name, ".") || strings.HasPrefix(c.name, "lock ") {
					tried = verbs[:2] // one function, which all verbs call, checks the files
				}
				for _, verb := range tried {
					code, said := as(uint32(uid), bin, append([]string{"--dir", dir}, verb...)...)
					want := exitFailed
					if verb[0] == "agent" {
						want = exitConfig
					}
					if code != want || !strings.Contains(said, c.want) {
						t.Errorf("%v: exit code %d, want %d with %q\n%s", verb, code, want, c.want, said)
					}
				}
			})
		}
	}
}

// A config file elsewhere may belong to root and to nobody else.
func TestConfigElsewhere(t *testing.T) {
	bin := program(t)
	for _, c := range []struct {
		name string
		uid  int
		make func(path string)
		code int
		want string
	}{
		{"ok: of root, wrong content", 0, func(string) {}, exitConfig, "nonsense"},
		{"bad: link", 0, func(path string) {
			ok(t, os.Rename(path, path+".real"))
			ok(t, os.Symlink(path+".real", path))
		}, exitConfig, "is a symbolic link"},
		{"bad: of another user", stranger, func(string) {}, exitConfig, "belongs to user 47111"},
		{"bad: writable by others", 0, func(path string) { ok(t, os.Chmod(path, 0o666)) }, exitConfig, "mode 0666"},
		{"bad: missing", 0, func(path string) { ok(t, os.Remove(path)) }, exitFailed, "no such file"},
	} {
		for _, uid := range []int{0, owner} {
			t.Run(c.name+", user "+strconv.Itoa(uid), func(t *testing.T) {
				dir := openDir(t)
				path := filepath.Join(dir, "my.yaml")
				ok(t, os.WriteFile(path, []byte("nonsense: 1\n"), 0o644))
				ok(t, os.Chown(path, c.uid, c.uid))
				state := filepath.Join(dir, "state")
				ok(t, os.Mkdir(state, 0o700))
				ok(t, os.Chown(state, uid, uid))
				c.make(path)
				code, said := as(uint32(uid), bin, "agent", "--dir", state, "--config", path, "--firewall", "none")
				if code != c.code || !strings.Contains(said, c.want) {
					t.Errorf("exit code %d, want %d with %q\n%s", code, c.code, c.want, said)
				}
			})
		}
	}
}
