package setup

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

var node = Options{Binary: "/usr/local/bin/meshban", Dir: "/var/lib/meshban"}

// files returns the files that make returns for o.
func files(t *testing.T, make func(Options) ([]File, error), o Options) []File {
	t.Helper()
	all, err := make(o)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// content returns the content of the file whose path ends in end.
func content(t *testing.T, all []File, end string) string {
	t.Helper()
	for _, f := range all {
		if strings.HasSuffix(f.Path, end) {
			return string(f.Content)
		}
	}
	t.Fatalf("no file %s", end)
	return ""
}

func TestEveryFileIsSealed(t *testing.T) {
	all := append(files(t, Fail2ban, node), files(t, Systemd, node)...)
	if len(all) != 6 {
		t.Fatalf("%d files, want 6", len(all))
	}
	for _, f := range all {
		lines := bytes.SplitAfterN(f.Content, []byte("\n"), 3)
		if string(lines[0]) != Marker+"\n" || !bytes.Equal(seal(lines[2]), f.Content) {
			t.Errorf("%s does not begin with marker and digest: %q", f.Path, lines[:2])
		}
		if f.Mode != 0o644 {
			t.Errorf("%s has mode %o", f.Path, f.Mode)
		}
		for i, c := range f.Content {
			if c != '\n' && (c < ' ' || c > '~') {
				t.Fatalf("%s has the byte %#x at %d: fail2ban on an old locale reads ASCII only", f.Path, c, i)
			}
		}
		if strings.Contains(string(f.Content), "{{") || strings.Contains(string(f.Content), "<no value>") {
			t.Errorf("%s still has a piece of its template", f.Path)
		}
	}
}

func TestFail2banNamesThePaths(t *testing.T) {
	o := node
	o.LineFile, o.Shown = "/srv/lines.log", time.Hour
	all := files(t, Fail2ban, o)
	if action := content(t, all, "action.d/meshban.conf"); !strings.Contains(action, "\nfile = /srv/lines.log\n") {
		t.Errorf("the action writes elsewhere:\n%s", action)
	}
	jail := content(t, all, "jail.d/meshban.conf")
	for _, want := range []string{"logpath = /srv/lines.log\n          /etc/fail2ban/jail.d/meshban.conf\n", "bantime  = 3600\n"} {
		if !strings.Contains(jail, want) {
			t.Errorf("the jail lacks %q:\n%s", want, jail)
		}
	}
}

func TestSystemdFollowsThePaths(t *testing.T) {
	for _, c := range []struct {
		name     string
		opts     Options
		has, not []string
	}{
		{"ok: the usual place", node,
			[]string{"\nStateDirectory=meshban\n", "\nReadWritePaths=-/run/xtables.lock\n", "\nProtectHome=yes\n",
				"\nExecStart=/usr/local/bin/meshban agent --dir /var/lib/meshban\n", "\nRequiresMountsFor=/var/lib/meshban\n", "\nAssertPathExists=/var/lib/meshban/mesh.key\n"},
			[]string{"mkdir", "\nExecStop="}},
		{"ok: another state folder", Options{Binary: "/opt/meshban", Dir: "/srv/mesh/ban"},
			[]string{"\nReadWritePaths=-/run/xtables.lock /srv/mesh/ban\n", "\nExecStartPre=+/bin/mkdir -p -m 0711 /srv/mesh/ban\n"},
			[]string{"\nStateDirectory"}},
		{"ok: line file elsewhere", Options{Binary: "/opt/meshban", LineFile: "/var/log/newbans.log"},
			[]string{"\nStateDirectory=meshban\n", "\nReadWritePaths=-/run/xtables.lock /var/log\n", "\nRequiresMountsFor=/var/lib/meshban /var/log\n"}, nil},
		{"ok: only a wrong config is not tried again", node,
			[]string{"\nRestart=on-failure\n", "\nRestartPreventExitStatus=78\n", "\nStartLimitIntervalSec=0\n", "\nMemoryMax=1G\n", "\nOOMPolicy=stop\n"},
			[]string{"Status=2\n", "SuccessExitStatus", "RestartForceExitStatus"}},
		{"ok: program in a home", Options{Binary: "/root/go/bin/meshban"}, []string{"\nProtectHome=read-only\n"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			unit := content(t, files(t, Systemd, c.opts), "meshban.service")
			for _, s := range c.has {
				if !strings.Contains(unit, s) {
					t.Errorf("lacks %q:\n%s", s, unit)
				}
			}
			for _, s := range c.not {
				if strings.Contains(unit, s) {
					t.Errorf("has %q:\n%s", s, unit)
				}
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(Options) ([]File, error)
		opts Options
		err  string
	}{
		{"bad: relative folder", Fail2ban, Options{Dir: "state"}, "state folder"},
		{"bad: blank", Fail2ban, Options{LineFile: "/var/log/new bans.log"}, "line file"},
		{"bad: percent", Fail2ban, Options{LineFile: "/var/log/%d.log"}, "line file"},
		{"bad: shell", Fail2ban, Options{LineFile: "/var/log/$(id).log"}, "line file"},
		{"bad: two lines", Systemd, Options{Binary: "/bin/meshban\nExecStart=/bin/sh"}, "program"},
		{"bad: tag of fail2ban", Fail2ban, Options{LineFile: "/var/log/<ip>.log"}, "line file"},
		{"bad: not clean", Systemd, Options{Dir: "/var/lib/../meshban"}, "state folder"},
		{"bad: too short to show", Fail2ban, Options{Shown: time.Millisecond}, "too short"},
		{"bad: line file in the root", Systemd, Options{Binary: "/opt/meshban", LineFile: "/newbans.log"}, "would have to be writable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := c.make(c.opts); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error is %v, want one with %q", err, c.err)
			}
		})
	}
}

func TestDefaultsAreThisProgram(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o, err := Options{}.complete()
	if err != nil {
		t.Fatal(err)
	}
	if o.Binary != exe || o.Dir != "/var/lib/meshban" || o.LineFile != "/var/lib/meshban/newbans.log" {
		t.Fatalf("got %+v", o)
	}
}

func TestPrint(t *testing.T) {
	unit := files(t, Systemd, node)
	if got := Print(unit[:1]); got != string(unit[0].Content) {
		t.Errorf("one file is not printed as it is:\n%s", got)
	}
	all := files(t, Fail2ban, node)
	got := Print(all)
	for _, f := range all {
		if !strings.Contains(got, "==> "+f.Path+" <==\n"+string(f.Content)) {
			t.Errorf("%s is not there below its path:\n%s", f.Path, got)
		}
	}
}
