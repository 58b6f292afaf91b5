package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// machine returns options whose root is a folder that looks like a machine with fail2ban and systemd.
func machine(t *testing.T) Options {
	t.Helper()
	o := node
	o.Root = t.TempDir()
	for _, dir := range []string{"action.d", "filter.d", "jail.d"} {
		mkdir(t, o.Root+fail2banDir+"/"+dir)
	}
	mkdir(t, o.Root+systemdDir)
	mkdir(t, o.Root+"/var/lib")
	o.Run = func(context.Context, string, ...string) ([]byte, error) { return nil, exec.ErrNotFound }
	return o
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tree returns every file, link and folder below root, with its content.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			all[path] = "folder"
		case d.Type()&fs.ModeSymlink != 0:
			all[path], err = os.Readlink(path)
		default:
			var data []byte
			data, err = os.ReadFile(path)
			all[path] = string(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// same fails unless everything below root is as it was.
func same(t *testing.T, root string, was map[string]string) {
	t.Helper()
	now := tree(t, root)
	for path := range now {
		if _, ok := was[path]; !ok {
			t.Errorf("%s is new", path)
		}
	}
	for path, text := range was {
		if now[path] != text {
			t.Errorf("%s has changed from %q to %q", path, text, now[path])
		}
	}
}

func both(t *testing.T, o Options) []File {
	return append(files(t, Fail2ban, o), files(t, Systemd, o)...)
}

func install(t *testing.T, o Options) Report {
	t.Helper()
	r, err := Install(t.Context(), both(t, o), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestInstallAndRemove(t *testing.T) {
	o := machine(t)
	bare := tree(t, o.Root)
	r := install(t, o)
	if len(r.Written) != 6 || len(r.Unchanged) != 0 {
		t.Fatalf("report of the first time:\n%s", r)
	}
	if want := []string{"fail2ban-client reload --restart", "systemctl daemon-reload", "systemctl enable --now meshban"}; !slices.Equal(r.Next, want) {
		t.Errorf("next is %q, want %q", r.Next, want)
	}
	now := tree(t, o.Root)
	for _, f := range both(t, o) {
		if now[o.Root+f.Path] != string(f.Content) {
			t.Errorf("%s was not installed", f.Path)
		}
	}
	if text, ok := now[o.Root+"/var/lib/meshban/newbans.log"]; !ok || text != "" {
		t.Error("no line file for fail2ban to watch")
	}

	again := install(t, o)
	if len(again.Written) != 0 || len(again.Unchanged) != 6 || len(again.Next) != 0 {
		t.Errorf("report of the second time:\n%s", again)
	}
	same(t, o.Root, now)

	for unit, link := range wantsLinks {
		mkdir(t, filepath.Dir(o.Root+link))
		if err := os.Symlink(unit, o.Root+link); err != nil {
			t.Fatal(err)
		}
		bare[filepath.Dir(o.Root+link)] = "folder"
	}
	// `setup systemd --remove` took fail2ban's files too.
	for only, removed := range map[string]int{"fail2ban": 4, "systemd": 4} {
		some := o
		some.Only = only
		if r, err := Remove(t.Context(), some); err != nil || len(r.Removed) != removed {
			t.Errorf("removal of %s: %v, report:\n%s", only, err, r)
		}
		install(t, o)
		for unit, link := range wantsLinks {
			if err := os.Symlink(unit, o.Root+link); err != nil && !errors.Is(err, os.ErrExist) {
				t.Fatal(err)
			}
		}
	}
	// A user who has stopped the agent, as README says, is not told to stop it.
	for _, c := range []struct {
		state string
		err   error
		next  []string
	}{
		{"active\n", nil, []string{"systemctl stop meshban", "systemctl daemon-reload"}},
		{"activating\n", errors.New("exit status 3"), []string{"systemctl stop meshban", "systemctl daemon-reload"}},
		{"inactive\n", errors.New("exit status 3"), []string{"systemctl daemon-reload"}},
		{"", exec.ErrNotFound, []string{"systemctl daemon-reload"}},
	} {
		some := o
		some.Only = "systemd"
		some.Run = func(context.Context, string, ...string) ([]byte, error) { return []byte(c.state), c.err }
		if r, err := Remove(t.Context(), some); err != nil || !slices.Equal(r.Next, c.next) {
			t.Errorf("systemctl says %q: next is %q, want %q; %v", c.state, r.Next, c.next, err)
		}
		install(t, o)
		for unit, link := range wantsLinks {
			if err := os.Symlink(unit, o.Root+link); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := Remove(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Removed) != 8 || len(r.Kept) != 0 {
		t.Errorf("report of the removal:\n%s", r)
	}
	if want := []string{"fail2ban-client reload --restart", "systemctl daemon-reload"}; !slices.Equal(r.Next, want) {
		t.Errorf("next is %q, want %q", r.Next, want)
	}
	maps.Copy(bare, map[string]string{
		o.Root + "/var/lib/meshban":             "folder",
		o.Root + "/var/lib/meshban/newbans.log": "",
	})
	same(t, o.Root, bare)

	if r, err = Remove(t.Context(), o); err != nil || len(r.Removed)+len(r.Kept)+len(r.Next) != 0 {
		t.Errorf("a second removal: %v, report:\n%s", err, r)
	}
}

// What reads a list is reloaded, and nothing of that stays.
func TestProgramsAreReloaded(t *testing.T) {
	o := machine(t)
	o.Lists = []List{{"b.conf", "nginx"}, {"a.txt", "plain"}, {"c.acl", "haproxy"}, {"a.conf", "nginx"}}
	bare := tree(t, o.Root)
	units, err := Systemd(o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Install(t.Context(), units, o)
	want := []string{"systemctl daemon-reload", "systemctl enable --now meshban", "systemctl enable --now meshban-haproxy.path", "systemctl enable --now meshban-nginx.path"}
	if err != nil || len(r.Written) != 6 || !slices.Equal(r.Next, want) {
		t.Fatalf("%v, report:\n%s", err, r)
	}
	if text := content(t, units, "meshban-nginx.path"); !strings.Contains(text, "\nPathChanged=/var/lib/meshban/feeds/b.conf\nPathChanged=/var/lib/meshban/feeds/a.conf\n") {
		t.Errorf("%s", text)
	}
	if text := content(t, units, "meshban-haproxy.service"); !strings.Contains(text, "\nExecStart=systemctl try-reload-or-restart haproxy.service\n") {
		t.Errorf("%s", text)
	}
	o.Lists = o.Lists[:1]
	if units, err = Systemd(o); err != nil {
		t.Fatal(err)
	}
	again, err := Install(t.Context(), units, o)
	if want := []string{"systemctl daemon-reload", "systemctl enable --now meshban-nginx.path"}; err != nil || !slices.Equal(again.Next, want) || len(again.Written) != 1 {
		t.Errorf("%v, report:\n%s", err, again)
	}
	link := o.Root + linkOf(reloadFile("nginx", ".path"))
	mkdir(t, filepath.Dir(link))
	bare[filepath.Dir(link)] = "folder"
	if err := os.Symlink(reloadFile("nginx", ".path"), link); err != nil {
		t.Fatal(err)
	}
	o.Run = func(_ context.Context, _ string, args ...string) ([]byte, error) {
		if args[1] == "meshban-nginx.path" {
			return []byte("active\n"), nil
		}
		return nil, errors.New("exit status 3")
	}
	r, err = Remove(t.Context(), o)
	if want := []string{"systemctl stop meshban-nginx.path", "systemctl daemon-reload"}; err != nil || !slices.Equal(r.Next, want) || len(r.Kept) != 0 {
		t.Errorf("%v, report:\n%s", err, r)
	}
	same(t, o.Root, bare)
}

func TestInstallReplacesWhatIsOurs(t *testing.T) {
	o := machine(t)
	install(t, o)
	o.Dir = "/srv/meshban"
	r := install(t, o)
	if len(r.Written) != 3 || len(r.Unchanged) != 3 { // the action, the jail, the unit
		t.Fatalf("report:\n%s", r)
	}
	if !slices.Contains(r.Next, "systemctl restart meshban") {
		t.Errorf("the running agent keeps the old unit: next is %q", r.Next)
	}
	if unit := tree(t, o.Root)[o.Root+unitFile]; !strings.Contains(unit, "/srv/meshban") {
		t.Errorf("the unit is the old one:\n%s", unit)
	}
}

func TestInstallRefuses(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, o Options)
		err     []string
	}{
		{"bad: not ours", func(t *testing.T, o Options) {
			put(t, o.Root+jailFile, "[meshban]\nenabled = true\n")
		}, []string{jailFile, "not from meshban", "move it away"}},
		{"bad: not ours, with our marker further down", func(t *testing.T, o Options) {
			put(t, o.Root+unitFile, "# mine\n"+Marker+"\n")
		}, []string{unitFile, "not from meshban"}},
		{"bad: edited", func(t *testing.T, o Options) {
			install(t, o)
			f, err := os.OpenFile(o.Root+fail2banFiles[0], os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString("port = 22\n"); err != nil {
				t.Fatal(err)
			}
		}, []string{"was edited", "action.d/meshban.local"}},
		{"bad: marker alone", func(t *testing.T, o Options) {
			put(t, o.Root+unitFile, Marker+"\n")
		}, []string{"was edited", "systemctl edit meshban"}},
		{"bad: masked unit", func(t *testing.T, o Options) {
			if err := os.Symlink("/dev/null", o.Root+unitFile); err != nil {
				t.Fatal(err)
			}
		}, []string{unitFile, "not from meshban"}},
		{"bad: two at once", func(t *testing.T, o Options) {
			put(t, o.Root+jailFile, "x")
			mkdir(t, o.Root+unitFile)
		}, []string{jailFile, unitFile}},
		{"bad: no fail2ban", func(t *testing.T, o Options) {
			if err := os.RemoveAll(o.Root + fail2banDir); err != nil {
				t.Fatal(err)
			}
		}, []string{"fail2ban is not on this machine"}},
		{"bad: no systemd", func(t *testing.T, o Options) {
			if err := os.RemoveAll(o.Root + "/etc/systemd"); err != nil {
				t.Fatal(err)
			}
		}, []string{"systemd is not on this machine"}},
		{"bad: no folder", func(t *testing.T, o Options) {
			if err := os.Remove(o.Root + fail2banDir + "/filter.d"); err != nil {
				t.Fatal(err)
			}
			put(t, o.Root+fail2banDir+"/filter.d", "a file in place of a folder")
		}, []string{"nothing installed", "filter.d", "not a directory"}},
		{"bad: no folder for the line file, after all else is written", func(t *testing.T, o Options) {
			put(t, o.Root+"/var/lib/meshban", "a file in place of a folder")
		}, []string{"nothing installed", "is not a folder"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := machine(t)
			c.prepare(t, o)
			was := tree(t, o.Root)
			_, err := Install(t.Context(), both(t, o), o)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.err {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			same(t, o.Root, was)
		})
	}
}

func TestInstallRefusesAServiceThatCannotLast(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Options)
		err  string
	}{
		{"bad: program", func(o *Options) { o.Binary = "/tmp/meshban" }, `the program, "/tmp/meshban", does not survive a reboot`},
		{"bad: state folder", func(o *Options) { o.Dir = "/run/meshban" }, "does not survive a reboot"},
		{"bad: line file", func(o *Options) { o.LineFile = "/tmp/newbans.log" }, "its own /tmp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := machine(t)
			c.edit(&o)
			was := tree(t, o.Root)
			unit := files(t, Systemd, o) // can still be printed
			if _, err := Install(t.Context(), unit, o); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("error is %v, want one with %q", err, c.err)
			}
			same(t, o.Root, was)
		})
	}
}

func TestRollbackPutsTheOldFilesBack(t *testing.T) {
	o := machine(t)
	install(t, o)
	if err := os.Chmod(o.Root+fail2banFiles[0], 0o640); err != nil {
		t.Fatal(err)
	}
	was := tree(t, o.Root)
	o.LineFile = "/srv/lines/newbans.log" // changes the action and the jail, adds a folder and a line file
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	o.Run = func(context.Context, string, ...string) ([]byte, error) {
		if calls++; calls == 2 { // everything is written
			cancel()
		}
		return nil, nil
	}
	if _, err := Install(ctx, both(t, o), o); !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	same(t, o.Root, was)
	if info, err := os.Stat(o.Root + fail2banFiles[0]); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
}

func TestRemoveKeepsWhatIsNotAsItWas(t *testing.T) {
	o := machine(t)
	install(t, o)
	action := o.Root + fail2banFiles[0]
	put(t, action, tree(t, o.Root)[action]+"port = 22\n")
	put(t, o.Root+unitFile, "[Unit]\n")
	r, err := Remove(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Removed) != 4 || len(r.Kept) != 2 {
		t.Fatalf("report:\n%s", r)
	}
	for _, want := range []string{fail2banFiles[0] + " (edited since it was installed", unitFile + " (not from meshban)"} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, r)
		}
	}
	now := tree(t, o.Root)
	if now[action] == "" || now[o.Root+unitFile] == "" {
		t.Error("a file that should stay is gone")
	}
}

func TestRemoveKeepsWhatAnEditedJailNeeds(t *testing.T) {
	o := machine(t)
	install(t, o)
	put(t, o.Root+jailFile, tree(t, o.Root)[o.Root+jailFile]+"maxretry = 2\n")
	r, err := Remove(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{unitFile, setsFile}; !slices.Equal(r.Removed, want) || len(r.Kept) != 4 {
		t.Fatalf("fail2ban would skip every jail without the action; report:\n%s", r)
	}
}

// String formats the report for messages of tests.
func (r Report) String() string {
	var b strings.Builder
	for _, part := range []struct {
		head string
		list []string
	}{{"wrote", r.Written}, {"unchanged", r.Unchanged}, {"removed", r.Removed}, {"kept", r.Kept}, {"note:", r.Notes}, {"next:", r.Next}} {
		for _, s := range part.list {
			fmt.Fprintf(&b, "%-9s %s\n", part.head, s)
		}
	}
	return b.String()
}

// The alert rules are installed where Prometheus is, are not overwritten once edited, and are taken away.
func TestRulesOfPrometheus(t *testing.T) {
	o := machine(t)
	rules := files(t, Prometheus, o)
	if _, err := Install(t.Context(), rules, o); err == nil || !strings.Contains(err.Error(), "Prometheus is not on this machine") {
		t.Errorf("%v", err)
	}
	mkdir(t, o.Root+prometheusDir)
	before := tree(t, o.Root)
	r, err := Install(t.Context(), rules, o)
	if err != nil || !slices.Equal(r.Written, []string{rulesFile}) || !slices.Equal(r.Next, []string{"systemctl reload prometheus"}) || len(r.Notes) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	o.Only = "systemd"
	if r, err := Remove(t.Context(), o); err != nil || len(r.Removed) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	o.Only = "prometheus"
	if r, err := Remove(t.Context(), o); err != nil || !slices.Equal(r.Removed, []string{rulesFile}) || !maps.Equal(tree(t, o.Root), before) {
		t.Errorf("%+v, %v", r, err)
	}
	put(t, o.Root+rulesFile, string(rules[0].Content)+"# mine\n")
	if _, err := Install(t.Context(), rules, o); err == nil || !strings.Contains(err.Error(), "another file of rules") {
		t.Errorf("%v", err)
	}
}
