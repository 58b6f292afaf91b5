//go:build linux && netns

package setup

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const appJail = `
[app]
enabled = true
filter = app
backend = polling
logpath = /var/log/app.log
port = http,https
maxretry = 2
`

func TestStockConfigurationTakesOurs(t *testing.T) {
	b := newBox(t, "")
	r := b.install()
	if len(r.Notes) != 0 {
		t.Errorf("Debian's own jails need a change:\n%s", r)
	}
	if out := b.out("fail2ban-client", "-t"); !strings.Contains(out, "OK: configuration test is successful") {
		t.Errorf("fail2ban-client -t says:\n%s", out)
	}
	if r, err := Remove(t.Context(), b.opts); err != nil || len(r.Removed) != 4 || len(r.Notes) != 0 {
		t.Errorf("removal: %v, report:\n%s", err, r)
	}
	b.out("fail2ban-client", "-t")
}

func TestBansPassBothWays(t *testing.T) {
	b := newBox(t, "[DEFAULT]\nbantime = 11m\naction = %(action_mwl)s\nmta = none\n"+appJail+`
action = %(action_)s

[own]
enabled = true
filter = app
backend = polling
logpath = /var/log/own.log
action = iptables-allports[name=own]

[perma]
enabled = true
filter = app
backend = polling
logpath = /var/log/perma.log
action = %(action_)s
bantime = -1
maxretry = 1

[pass2allow-app]
enabled = true
filter = app
backend = polling
logpath = /var/log/app.log
port = ftp
maxretry = 2
blocktype = RETURN
action = %(action_)s[blocktype=%(blocktype)s, actionstart_on_demand=false]
`)
	put(t, b.root+fail2banDir+"/action.d/none-whois-lines.conf", "[Definition]\nactionban = true\n")
	put(t, b.root+"/var/log/own.log", "")
	put(t, b.root+"/var/log/perma.log", "")
	r := b.install()
	if !strings.Contains(r.String(), "do not report their bans to meshban: own. ") {
		t.Errorf("report:\n%s", r)
	}
	b.start()

	b.fail("192.0.2.1")
	b.line("HOST 192.0.2.1 PORT http,https bantime=660 jail=app failures=2")
	b.fail("2001:db8::7")
	b.line("HOST 2001:db8::7 PORT http,https bantime=660 jail=app failures=2")
	b.append("/var/log/perma.log", stamp()+" app: login failed from 192.0.2.3\n")
	b.line("HOST 192.0.2.3 PORT 0:65535 bantime=-1 jail=perma failures=1")
	b.eventually("fail2ban's own bans", func() bool {
		return strings.Contains(b.rules("iptables"), "-A f2b-app -s 192.0.2.1/32") && strings.Contains(b.rules("ip6tables"), "-A f2b-app -s 2001:db8::7/128")
	})
	if rules := b.rules("iptables"); !strings.Contains(rules, "-A f2b-pass2allow-app -s 192.0.2.1/32 -j RETURN") {
		t.Errorf("a jail lost the option after action_:\n%s", rules)
	}

	emitted := []string{
		stamp() + " web1 newbans[123]: HOST 198.51.100.7 PORT 0",
		stamp() + " db-2.example.net newbans[4194304]: HOST 2001:db8::9 PORT 22",
	}
	b.append("/var/lib/meshban/newbans.log", strings.Join(emitted, "\n")+"\n")
	b.eventually("the mesh's bans in the status", func() bool {
		return slices.Equal(b.banned("meshban"), []string{"198.51.100.7", "2001:db8::9"})
	})

	// A later ban, after which an echo would have come.
	b.fail("192.0.2.4")
	b.line("HOST 192.0.2.4 PORT http,https bantime=660 jail=app failures=2")
	want := []string{
		"HOST 192.0.2.1 PORT http,https bantime=660 jail=app failures=2",
		"HOST 2001:db8::7 PORT http,https bantime=660 jail=app failures=2",
		"HOST 192.0.2.3 PORT 0:65535 bantime=-1 jail=perma failures=1",
		emitted[0], emitted[1],
		"HOST 192.0.2.4 PORT http,https bantime=660 jail=app failures=2",
	}
	if got := b.lines(); !slices.Equal(got, want) {
		t.Fatalf("the line file has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	b.stop()
	b.start()
	b.eventually("the bans are back after a restart", func() bool {
		return len(b.banned("app")) == 3 && len(b.banned("perma")) == 1 && len(b.banned("meshban")) == 2
	})
	b.fail("192.0.2.5")
	b.line("HOST 192.0.2.5 PORT http,https bantime=660 jail=app failures=2")
	want = append(want, "HOST 192.0.2.5 PORT http,https bantime=660 jail=app failures=2")
	if got := b.lines(); !slices.Equal(got, want) {
		t.Fatalf("after a restart the line file has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAProlongedBanIsReportedWithItsLength(t *testing.T) {
	b := newBox(t, "[DEFAULT]\nbantime = 3\nbantime.increment = true\n"+appJail)
	b.install()
	b.start()
	b.fail("192.0.2.1")
	b.line("HOST 192.0.2.1 PORT http,https bantime=3 jail=app failures=2")
	b.eventually("the end of the first ban", func() bool { return len(b.banned("app")) == 0 })
	b.fail("192.0.2.1")
	b.eventually("a line with twice the length", func() bool {
		return slices.ContainsFunc(b.lines(), func(s string) bool {
			return strings.HasPrefix(s, "HOST 192.0.2.1 PORT http,https bantime=6 jail=app failures=")
		})
	})
}

// Whatever happens to the line file, fail2ban starts and bans.
func TestOurActionNeverBlocksABan(t *testing.T) {
	const folder = "/var/lib/meshban"
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, b *box)
	}{
		{"ok: no folder", func(t *testing.T, b *box) {
			if err := os.RemoveAll(b.root + folder); err != nil {
				t.Fatal(err)
			}
		}},
		{"ok: a pipe that nobody reads", func(t *testing.T, b *box) {
			if err := syscall.Mkfifo(b.root+folder+"/pipe", 0o600); err != nil {
				t.Fatal(err)
			}
			put(t, b.root+fail2banDir+"/action.d/meshban.local", "[Init]\nfile = "+folder+"/pipe\n")
		}},
		{"ok: a device", func(t *testing.T, b *box) {
			if err := os.Symlink("/dev/full", b.root+folder+"/device"); err != nil {
				t.Fatal(err)
			}
			put(t, b.root+fail2banDir+"/action.d/meshban.local", "[Init]\nfile = "+folder+"/device\n")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, appJail)
			b.install()
			c.spoil(t, b)
			b.start()
			for _, addr := range []string{"192.0.2.1", "192.0.2.2"} {
				b.fail(addr)
				b.eventually("fail2ban's own ban", func() bool { return strings.Contains(b.rules("iptables"), "-A f2b-app -s "+addr+"/32") })
			}
			if strings.Contains(b.log(), "ERROR") {
				t.Errorf("fail2ban logged an error:\n%s", b.log())
			}
		})
	}
}

// Many administrators copy jail.conf to jail.local, which sets action_ once more.
func TestACopyOfJailConfHidesTheAction(t *testing.T) {
	stock, err := os.ReadFile(fail2banDir + "/jail.conf")
	if err != nil {
		t.Fatal(err)
	}
	b := newBox(t, string(stock)+appJail)
	const want = `to meshban: sshd, app. "/etc/fail2ban/jail.local" sets action_ for all jails: make this the first line of action_ there`
	r := b.install()
	if !strings.Contains(r.String(), want) {
		t.Fatalf("report:\n%s", r)
	}
	_, line, _ := strings.Cut(strings.TrimSpace(r.Notes[0]), "if it has one: ")
	put(t, b.root+fail2banDir+"/jail.local", strings.Replace(string(stock), "\naction_ = ", "\naction_ = "+line+"\n          ", 1)+appJail)
	b.start()
	b.fail("192.0.2.1")
	b.line("HOST 192.0.2.1 PORT http,https bantime=600 jail=app failures=2")
}

// fail2ban refuses to start when a jail has two actions of one name, and its own test does not notice.
func TestAnActionByHandDoesNotStopFail2ban(t *testing.T) {
	b := newBox(t, appJail+"action = %(action_)s\n         meshban[port=\"%(port)s\"]\n")
	r := b.install()
	if strings.Contains(r.String(), "do not report") || !strings.Contains(r.String(), "write two lines for each ban, because they name meshban themselves: app") {
		t.Errorf("report:\n%s", r)
	}
	b.start()
	b.fail("192.0.2.1")
	b.line("HOST 192.0.2.1 PORT http,https bantime=600 jail=app failures=2")
	b.stop()

	if _, err := Remove(t.Context(), b.opts); err == nil || !strings.Contains(err.Error(), "Unable to read action 'meshban'") {
		t.Errorf("removed an action that a jail names: %v", err)
	}
	b.out("fail2ban-client", "-t")
}

func TestFilterMatchesWhatTheAgentEmits(t *testing.T) {
	b := newBox(t, "")
	b.install()
	for _, c := range []struct{ name, line, want string }{
		{"ok: IPv4", "Nov 22 11:02:11 web1 newbans[123]: HOST 192.0.2.7 PORT 0", "192.0.2.7"},
		{"ok: IPv6", "Nov  2 11:02:11 web1 newbans[123]: HOST 2001:db8::7 PORT 22", "2001:db8::7"},
		{"ok: full host name", "Nov 22 11:02:11 db-2.example.net newbans[1]: HOST 192.0.2.7 PORT 65535", "192.0.2.7"},
		{"bad: fail2ban's own line", "HOST 192.0.2.7 PORT ssh bantime=600 jail=sshd failures=5", ""},
		{"bad: a line of logger", "<13>Nov 22 11:02:11 root[7]: HOST 192.0.2.7 PORT 22", ""},
		{"bad: logger with our tag", "<13>Nov 22 11:02:11 web1 newbans[7]: HOST 192.0.2.7 PORT 22", ""},
		{"bad: no date", "web1 newbans[123]: HOST 192.0.2.7 PORT 0", ""},
		{"bad: words after it", "Nov 22 11:02:11 web1 newbans[123]: HOST 192.0.2.7 PORT 0 bantime=600", ""},
		{"bad: words before the host", "Nov 22 11:02:11 x web1 newbans[123]: HOST 192.0.2.7 PORT 0", ""},
		{"bad: no process id", "Nov 22 11:02:11 web1 newbans: HOST 192.0.2.7 PORT 0", ""},
		{"bad: two of them", "Nov 22 11:02:11 web1 newbans[1]: HOST 192.0.2.7 PORT 0 newbans[1]: HOST 192.0.2.8 PORT 0", ""},
		{"bad: name", "Nov 22 11:02:11 web1 newbans[123]: HOST localhost PORT 0", ""},
		{"bad: CIDR", "Nov 22 11:02:11 web1 newbans[123]: HOST 192.0.2.0/24 PORT 0", ""},
		{"bad: service", "Nov 22 11:02:11 web1 newbans[123]: HOST 192.0.2.7 PORT ssh", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := b.matches(c.line, "meshban"); got != c.want {
				t.Errorf("%q matches as %q, want %q", c.line, got, c.want)
			}
		})
	}
}

// matches returns the address that the filter finds in line.
func (b *box) matches(line, filter string) string {
	b.t.Helper()
	put(b.t, b.root+"/var/log/one.log", line+"\n")
	out, err := b.command(b.t.Context(), "fail2ban-regex", "--out", "ip", "/var/log/one.log", filter).Output()
	if err != nil && len(out) > 0 {
		b.t.Fatalf("fail2ban-regex: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// The stock jail for repeated offenders reads fail2ban's log. It must count only what this machine saw itself; with
// the mesh's bans, it would ban each attacker again, on every node, for a week.
func TestRepeatedOffendersAreCountedWhereTheyOffend(t *testing.T) {
	b := newBox(t, "[recidive]\nenabled = true\n")
	put(t, b.root+"/var/log/fail2ban.log", "")
	b.install()
	dump := b.out("fail2ban-client", "-d")
	i := strings.Index(dump, "['set', 'recidive', 'addfailregex', ")
	if i < 0 {
		t.Fatalf("no regex of recidive in\n%s", dump)
	}
	for _, c := range []struct{ name, jail, want string }{
		{"ok: a ban of this machine", "sshd", "192.0.2.7"},
		{"ok: of a jail with a name like ours", "meshban2", "192.0.2.7"},
		{"bad: its own", "recidive", ""},
		{"bad: shown for the mesh", "meshban", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			line := "2026-11-22 13:48:01,922 fail2ban.actions        [31883]: NOTICE  [" + c.jail + "] Ban 192.0.2.7"
			if got := b.matches(line, `recidive[_jailname="(?:recidive|meshban)"]`); got != c.want {
				t.Errorf("%q matches as %q, want %q", line, got, c.want)
			}
		})
	}
	if text, _, _ := strings.Cut(dump[i:], "\n"); !strings.Contains(text, "(?:recidive|meshban)") {
		t.Errorf("the jail has another regex: %s", text)
	}
}
