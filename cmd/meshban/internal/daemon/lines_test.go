package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh/frame"
)

// A peer banned an address, and this node emitted the ban. A line can only be the local fail2ban's answer to that if
// it says no more than the ban.
func TestOnlyWhatOurEmissionCausedIsAnEcho(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	b.tighten(func(c *config.Config) { c.Lines.Ports = config.PortsAsWritten })
	for i, tt := range []struct {
		name  string
		ports string        // of the peer's ban
		left  time.Duration // until it ends
		line  string        // after the address
		echo  bool
	}{
		{"ok: the recipe's answer", "", time.Hour, "PORT 0:65535", true},
		{"ok: the recipe's answer to a ban that ends soon", "", 20 * time.Second, "PORT 0", true},
		{"ok: the recipe's answer to a ban of one port", "22", time.Hour, "PORT 0:65535", true},
		{"ok: the same port, as long", "22", time.Hour, "PORT 22 bantime=3600 jail=newbans failures=1", true},
		{"ok: one of its ports, for less", "22,80", time.Hour, "PORT ssh bantime=600", true},
		{"bad: another port", "22", time.Hour, "PORT 80", false},
		{"bad: another port with a jail", "22", time.Hour, "PORT 80 bantime=600 jail=nginx failures=3", false},
		{"bad: one port more", "22", time.Hour, "PORT 22,80 bantime=600", false},
		{"bad: another protocol", "22/udp", time.Hour, "PORT 22/tcp bantime=600", false},
		{"bad: an hour against seconds", "", 20 * time.Second, "PORT 22 bantime=3600 jail=sshd failures=5", false},
		{"bad: an hour against seconds, all ports", "", 20 * time.Second, "PORT 0:65535 bantime=3600 jail=recidive failures=5", false},
		{"bad: for ever", "", time.Hour, "PORT 22 bantime=-1", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := fmt.Sprintf("192.0.2.%d", i+1)
			if _, err := a.Ban(t.Context(), control.BanRequest{Addrs: []netip.Prefix{netip.MustParsePrefix(addr + "/32")}, For: control.Duration(tt.left), Ports: tt.ports, Source: "cli"}); err != nil {
				t.Fatal(err)
			}
			until(t, "the peer's ban", func() bool { return b.enforces(t, addr+"/32") })
			echoes, published := b.lines.echoes.Load(), b.mesh.Stats().Published
			b.write(t, "HOST "+addr+" "+tt.line+"\n")
			until(t, "the line was read", func() bool { return b.lines.echoes.Load()+b.lines.banned.Load() > uint64(i) })
			if got := b.lines.echoes.Load() > echoes; got != tt.echo {
				t.Errorf("taken for an echo: %v, want %v", got, tt.echo)
			}
			if tt.echo {
				if b.mesh.Stats().Published > published {
					t.Error("an echo travelled")
				}
				return
			}
			until(t, "the ban travels", func() bool { return b.mesh.Stats().Published > published })
		})
	}
}

// Without an emission, no line is an echo.
func TestWithoutAnEmissionThereIsNoEcho(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	quiet := a.join(t, "quiet")
	quiet.tighten(func(c *config.Config) { c.Lines.Emit = false })
	a.ban(t, time.Hour, "192.0.2.0/24", "198.51.100.1/32")
	if err := a.publish(time.Now(), []ban.Op{{
		Kind: ban.KindBan, Prefix: netip.MustParsePrefix("198.51.100.2/32"), Until: endOf(time.Now(), time.Hour), Source: ban.SourceImport,
	}}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{b, quiet} {
		until(t, "all bans", func() bool {
			return n.enforces(t, "192.0.2.0/24") && n.enforces(t, "198.51.100.1/32") && n.enforces(t, "198.51.100.2/32")
		})
	}
	until(t, "the emission", func() bool { return b.lines.emitted.Load() == 1 })
	if text := b.lineFile(t); strings.Count(text, "HOST") != 1 || !strings.Contains(text, "HOST 198.51.100.1 ") {
		t.Errorf("emitted %q, want the ban by command alone", text)
	}
	b.write(t, "HOST 192.0.2.7 PORT 0\nHOST 198.51.100.2 PORT 0\n")
	until(t, "two sightings", func() bool { return b.lines.banned.Load() == 2 })
	quiet.write(t, "HOST 198.51.100.1 PORT 0\n")
	until(t, "a sighting", func() bool { return quiet.lines.banned.Load() == 1 })
}

// However malformed the rest of a line is, the attacker that it names is banned.
func TestAMisreadLineBans(t *testing.T) {
	t.Parallel()
	n := first(t, "a")
	bad := []string{"PORT nosuch", "PORT <port>", "PORT 99999", "PORT 22 bantime=x", "PORT 22 failures=many", "PORT 90:80 jail=x", "PORT"}
	text := ""
	for i, tail := range bad {
		text += fmt.Sprintf("HOST 192.0.2.%d %s\n", i+1, tail)
	}
	n.write(t, text)
	for i := range bad {
		until(t, bad[i], func() bool { return n.enforces(t, fmt.Sprintf("192.0.2.%d/32", i+1)) })
	}
	s, err := n.Status(t.Context())
	if err != nil || s.Lines.Accepted != uint64(len(bad)) || s.Lines.Ignored != 0 {
		t.Errorf("lines %+v, %v", s.Lines, err)
	}
	if got := fmt.Sprint(s.Lines.MisreadBy); got != "map[bad option:2 bad port:3 unknown service:1]" {
		t.Errorf("misread %s", got)
	}
}

// A line that names more ports than a ban may have bans all ports.
func TestALineWithTooManyPortsBans(t *testing.T) {
	t.Parallel()
	n := first(t, "a")
	n.tighten(func(c *config.Config) { c.Lines.Ports = config.PortsAsWritten })
	n.write(t, "HOST 192.0.2.1 PORT 1:65534\nHOST 192.0.2.2 PORT 1-65535\nHOST 192.0.2.3 PORT ssh,1000:1511/tcp\nHOST 192.0.2.4 PORT 22,0:65535/udp\n")
	for addr, want := range map[string]string{"192.0.2.1/32": "", "192.0.2.2/32": "", "192.0.2.3/32": "22,1000-1511/tcp", "192.0.2.4/32": ""} {
		until(t, addr, func() bool {
			e, ok := n.entry(t, addr)
			return ok && e.State == control.StateEnforced && e.Ports == want
		})
	}
	s, err := n.Status(t.Context())
	if err != nil || fmt.Sprint(s.Lines.MisreadBy) != "map[too many ports:2]" || s.Lines.Ignored != 0 {
		t.Errorf("lines %+v, %v", s.Lines, err)
	}
	for _, ports := range []string{"1-513", "0/tcp"} {
		results, err := n.Ban(t.Context(), control.BanRequest{Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")}, For: control.Duration(time.Hour), Ports: ports})
		if err != nil || len(results.Results) != 1 || results.Results[0].Err == nil || results.Results[0].Err.Rule != ban.RulePorts {
			t.Errorf("ban on ports %s: %+v, %v", ports, results, err)
		}
	}
}

// A line bans an address for less time than this node's ban that another node has lifted: the line revokes the longer
// ban. Otherwise the longer ban would be in force again on some nodes once the other node is revoked.
func TestALineTakesALiftedBanBack(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	const addr = "192.0.2.1/32"
	a.ban(t, 5*time.Hour, addr)
	until(t, "the ban on the peer", func() bool { return b.enforces(t, addr) })
	if _, err := b.Unban(t.Context(), control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix(addr)}}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is lifted", func() bool { return !a.enforces(t, addr) })
	a.write(t, "HOST 192.0.2.1 PORT 22 bantime=600\n")
	until(t, "the line bans", func() bool { return a.enforces(t, addr) })
	revoked := false
	for f := range a.mesh.Frames() {
		if ops, err := ban.DecodeOps(f.Payload); err == nil && f.Origin == frame.ID(a.self) {
			revoked = revoked || slices.ContainsFunc(ops, func(op ban.Op) bool { return op.Kind == ban.KindRevoke && time.Until(op.Until) > 5*time.Hour })
		}
	}
	if !revoked {
		t.Error("the longer ban is not taken back")
	}
}

// An operator bans a network through fail2ban: set JAIL banip 203.0.113.0/28.
func TestAPrefixOfAJail(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.write(t, "HOST 203.0.113.0/28 PORT 22 bantime=600 jail=sshd failures=0\n"+
		"HOST 2001:db8:7::/64 PORT 22 bantime=600 jail=sshd failures=0\n"+
		"HOST 0.0.0.0/1 PORT 22 bantime=600 jail=sshd failures=0\n"+
		"HOST 198.51.100.0/28 PORT 22\n")
	until(t, "the prefixes on the peer", func() bool { return b.enforces(t, "203.0.113.0/28") && b.enforces(t, "2001:db8:7::/64") })
	if s, err := a.Status(t.Context()); err != nil || s.Lines.Accepted != 2 || s.Lines.Ignored != 2 {
		t.Errorf("lines %+v, %v", s.Lines, err)
	}
	if text := b.lineFile(t); text != "" {
		t.Errorf("a prefix has no classic form, but b emitted %q", text)
	}
}

// Lifted bans stay lifted if someone edits the line file, while the agent runs or while it is down.
func TestAnEditedLineFileBansNobodyAgain(t *testing.T) {
	t.Parallel()
	n := first(t, "a")
	text := ""
	for i := range 9 {
		text += fmt.Sprintf("Nov 22 11:02:1%d web1 root[7]: HOST 192.0.2.%d PORT 22\n", i, i+1)
	}
	n.write(t, text)
	until(t, "all banned", func() bool { return n.counts().Active == 9 })
	var all []netip.Prefix
	for i := range 9 {
		all = append(all, netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i+1)))
	}
	if _, err := n.Unban(t.Context(), control.UnbanRequest{Prefixes: all}); err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) {
		t.Helper()
		path := n.cfg.Lines.File
		now, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".tmp", []byte(strings.Replace(string(now), old, new, 1)), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".tmp", path); err != nil {
			t.Fatal(err)
		}
	}
	edit(text[:len(text)/9], "")
	n.write(t, "HOST 198.51.100.1 PORT 22\n")
	until(t, "the new line", func() bool { return n.enforces(t, "198.51.100.1/32") })
	n.stop()
	edit("PORT 22", "PORT 80")
	edit("192.0.2.9 ", "192.0.2.9  ")
	n = start(t, n.home, n.cfg)
	n.write(t, "HOST 198.51.100.2 PORT 22\n")
	until(t, "the new line after the restart", func() bool { return n.enforces(t, "198.51.100.2/32") })
	if got := n.counts().Active; got != 2 {
		t.Errorf("%d addresses are banned, want the two new ones", got)
	}
}
