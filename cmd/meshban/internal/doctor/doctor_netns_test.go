//go:build linux && netns

package doctor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
)

// insideEnv is set in the test process that runs in its own namespaces.
const insideEnv = "DOCTOR_TEST_INSIDE"

// TestEachCheck breaks one thing at a time, in a network namespace of its own with a real kernel, and expects that only
// the check about it complains, with a remedy. Before and after, the machine is healthy.
func TestEachCheck(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestEachCheck$", "-test.v")
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestEachCheck") {
			t.Fatalf("in its own namespace: %v\n%s", err, out)
		}
		return
	}
	sh(t, "mount -t tmpfs tmpfs /run; ip link set lo up")
	for _, c := range breaks {
		t.Run(c.check+"/"+c.name, func(t *testing.T) {
			m := healthy(t)
			expect(t, m, "", "")
			after := c.breaks(t, m)
			remedy := expect(t, m, c.check, c.state)
			if len(m.status.Problems) == 0 { // the agent's remedies are typed by the agent's tests
				typeRemedy(t, m, remedy)
			}
			if after != "" {
				sh(t, after)
				expect(t, m, "", "")
			}
		})
	}
	for _, c := range checks {
		broken := false
		for _, b := range breaks {
			broken = broken || b.check == c.name
		}
		if !broken {
			t.Errorf("no test breaks what %q checks", c.name)
		}
	}
	t.Run("no agent", func(t *testing.T) {
		m := healthy(t)
		m.status, m.members = nil, nil
		for _, f := range m.examine(t.Context()) {
			if f.State == Warn || f.State == Bad || f.Check == "ports" && (f.State != NotChecked || f.Text != "no agent") {
				t.Errorf("%+v", f)
			}
			if f.Check == "line file" && f.State != OK {
				t.Errorf("%+v", f)
			}
		}
		m.setUp = false
		sh(t, "chmod o+w "+m.root+"/state/newbans.log")
		complain := map[string]string{"jails": Warn, "line file": Bad}
		for _, f := range m.examine(t.Context()) {
			if want, is := complain[f.Check]; is && f.State != want {
				t.Errorf("%+v", f)
			}
		}
		if err := os.Remove(m.root + "/state/newbans.log"); err != nil {
			t.Fatal(err)
		}
		if f := m.lineFile(t.Context()); f.state != NotChecked { // before the first start
			t.Errorf("%+v", f)
		}
	})
}

// expect checks that only the named check complains, and that whatever complains has a remedy, which it returns.
func expect(t *testing.T, m *machine, check, state string) (remedy string) {
	t.Helper()
	seen := false
	for _, f := range m.examine(t.Context()) {
		complains := f.State == Warn || f.State == Bad
		if complains != (f.Check == check) || complains && f.State != state || complains && f.Remedy == "" || f.Text == "" {
			t.Errorf("%+v; want %q of %q only", f, state, check)
		}
		if f.State == NotChecked && check == "" {
			t.Errorf("a healthy machine: %+v", f)
		}
		if complains {
			seen, remedy = true, f.Remedy
		}
	}
	if seen != (check != "") {
		t.Errorf("complains: %t; want %q of %q", seen, state, check)
	}
	return remedy
}

// standIns are programs that a remedy names and that would change more than this namespace. A test of the package cli
// reads what follows meshban.
const standIns = "systemctl journalctl apt-get fail2ban-client docker modprobe update-alternatives sysctl ufw firewall-cmd editor install ping meshban"

// typeRemedy types a remedy into a shell. Files below /etc and the state folder are those of the test.
func typeRemedy(t *testing.T, m *machine, remedy string) {
	t.Helper()
	bin := t.TempDir()
	for name := range strings.FieldsSeq(standIns) {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, m, "/etc/fail2ban/jail.local", "")
	line := regexp.MustCompile(`(^|[ >])/(etc|state|full)\b`).ReplaceAllString(remedy, "${1}"+m.root+"/$2")
	sh(t, "PATH="+bin+":$PATH\n"+line)
}

func sh(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// put writes a file below the machine's root.
func put(t *testing.T, m *machine, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.root+path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.root+path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// healthy returns a machine with nothing wrong: real programs and a real kernel, and files below a folder.
func healthy(t *testing.T) *machine {
	t.Helper()
	sh(t, "iptables-nft -t raw -F; iptables-nft -t raw -X; iptables-nft -t raw -N MESHBAN; iptables-nft -t raw -I PREROUTING -j MESHBAN; "+
		"ipset destroy; ipset create meshban-v4 hash:ip maxelem 65536")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	rtt, holds, end := 0.4, true, time.Now().Add(300*24*time.Hour)
	m := newMachine(Options{Dir: "/state", Config: config.Default("/state")})
	m.root, m.from, m.setUp = t.TempDir(), "192.0.2.9 4711 192.0.2.1 22", true
	m.config.Join = []string{"127.0.0.1:7946"}
	m.status = &control.Status{
		Name: "web1", Version: "1", Addr: "192.0.2.1:7946", Firewall: control.FirewallStatus{Backend: "ipset"},
		Lines: control.LineStatus{File: "/state/newbans.log", Accepted: 3}, Fail2ban: &control.Fail2banStatus{Tells: []string{"sshd"}},
	}
	m.members = []control.Member{
		{Name: "web1", ID: "00112233445566778899aabbccddeeff", State: control.MemberAlive, Self: true, Version: "1", HoldsCA: &holds, CertUntil: &end},
		{Name: "web2", ID: "ffeeddccbbaa99887766554433221100", State: control.MemberAlive, Addr: l.Addr().String(), RTTms: &rtt, Version: "1", UDP: control.UDPFine, CertUntil: &end},
	}
	m.allowed = []control.AllowEntry{{Prefix: control.PrefixOf(netip.MustParsePrefix("192.0.2.0/24"))}}
	m.jails = func(context.Context) ([]fail2ban.JailSetup, error) {
		return []fail2ban.JailSetup{{Name: "sshd", Reads: true, Actions: []string{"iptables-multiport", "meshban-default"}}}, nil
	}
	m.sessions = func() ([]hostinfo.Entry, error) { return nil, nil }
	for path, text := range map[string]string{
		"/state/newbans.log": "", "/dev/log": "", "/proc/7/comm": "fail2ban-server\n", "/run/fail2ban/fail2ban.pid": "7\n", "/etc/localtime": "",
		"/proc/self/status": "Name:\tx\nCapBnd:\t000001ffffffffff\n", "/proc/meminfo": "MemTotal: 4000000 kB\nMemAvailable: 2000000 kB\n",
		"/proc/sys/fs/file-nr": "1000\t0\t100000\n", "/etc/nftables.conf": "flush ruleset\n", "/etc/nginx/nginx.conf": "# set_real_ip_from 192.0.2.0/24;\n",
	} {
		put(t, m, path, text)
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(m.root+"/etc/localtime", past, past); err != nil {
		t.Fatal(err)
	}
	return m
}

// problem has the agent report a problem.
func problem(text string) func(*testing.T, *machine) string {
	return func(_ *testing.T, m *machine) string { m.status.Problems = []string{text}; return "" }
}

// file writes a file of the machine.
func file(path, text string) func(*testing.T, *machine) string {
	return func(t *testing.T, m *machine) string { put(t, m, path, text); return "" }
}

// do changes the machine.
func do(change func(*machine)) func(*testing.T, *machine) string {
	return func(_ *testing.T, m *machine) string { change(m); return "" }
}

// jail replaces the only jail.
func jail(j fail2ban.JailSetup) func(*testing.T, *machine) string {
	return do(func(m *machine) {
		m.jails = func(context.Context) ([]fail2ban.JailSetup, error) { return []fail2ban.JailSetup{j}, nil }
	})
}

// breaks are what goes wrong. breaks returns the command that mends it, or "".
var breaks = []struct {
	check, name, state string
	breaks             func(*testing.T, *machine) string
}{
	{"fail2ban", "a jail without a log", Bad, jail(fail2ban.JailSetup{Name: "sshd"})},
	{"jails", "one is silent", Warn, do(func(m *machine) { m.status.Fail2ban.Silent = []string{"nginx"} })},
	{"jails", "not set up", Warn, do(func(m *machine) { m.setUp = false })},
	{"banactions", "no shorewall", Bad, jail(fail2ban.JailSetup{Name: "sshd", Reads: true, Actions: []string{"shorewall"}})},
	{"backend", "none", Bad, do(func(m *machine) {
		m.status.Firewall.Backend = "none"
		m.status.Firewall.Tried = []control.Attempt{{Backend: "ipset", Error: "needs root"}}
		m.status.Problems = []string{"firewall: backend none: no packet is dropped on this machine; run it as root"}
	})},
	{"first rule", "another comes first", Bad, func(t *testing.T, _ *machine) string {
		sh(t, "iptables -t raw -I PREROUTING -s 198.51.100.1 -j ACCEPT")
		return "iptables -t raw -D PREROUTING -s 198.51.100.1 -j ACCEPT"
	}},
	{"first rule", "ours is gone", Bad, func(t *testing.T, _ *machine) string {
		sh(t, "iptables -t raw -D PREROUTING -j MESHBAN")
		return "iptables -t raw -I PREROUTING -j MESHBAN"
	}},
	{"first rule", "the nft table is gone", Bad, do(func(m *machine) { m.status.Firewall.Backend = "nftables" })},
	{"repairs", "somebody flushes", Warn, do(func(m *machine) { m.status.Firewall.Repairs = 3 })},
	{"mixed rules", "legacy and nft", Warn, func(t *testing.T, m *machine) string {
		sh(t, "iptables-legacy -A INPUT -s 198.51.100.1 -j DROP")
		names, err := os.ReadFile("/proc/net/ip_tables_names")
		if err != nil {
			t.Fatal(err)
		}
		put(t, m, "/proc/net/ip_tables_names", string(names))
		return "iptables-legacy -F"
	}},
	{"privileges", "no CAP_NET_ADMIN", Bad, file("/proc/self/status", "CapBnd:\t00000000a80425fb\n")},
	{"sets", "not enforced", Bad, do(func(m *machine) { m.status.Firewall.NotEnforced = 5 })},
	{"sets", "paused", Bad, do(func(m *machine) {
		m.status.Firewall.NotEnforced, m.status.Paused = 5, &control.PauseStatus{Until: control.TimeOf(time.Now().Add(time.Hour)), By: "root"}
	})},
	{"sets", "almost full", Warn, func(t *testing.T, _ *machine) string {
		sh(t, "ipset create meshban-x hash:ip maxelem 10; for i in 0 1 2 3 4 5 6 7 8 9; do ipset add meshban-x 192.0.2.$i; done")
		return "ipset destroy meshban-x"
	}},
	{"ports", "TCP is refused", Bad, do(func(m *machine) { m.members[1].Addr = "127.0.0.1:1" })},
	{"ports", "TCP does not come in", Bad, do(func(m *machine) { m.reach = []control.Reach{{ID: m.members[1].ID, TCP: new(false)}} })},
	{"ports", "TCP is dropped", Bad, func(t *testing.T, m *machine) string {
		_, port, err := net.SplitHostPort(m.members[1].Addr)
		if err != nil {
			t.Fatal(err)
		}
		sh(t, "iptables -A INPUT -p tcp --dport "+port+" -j DROP")
		return "iptables -F INPUT"
	}},
	{"ports", "UDP is lost", Bad, do(func(m *machine) { m.members[1].UDP = "UDP to it does not arrive" })},
	{"address", "peers see another", Warn, problem("advertise: peers see 198.51.100.7; write advertise: 198.51.100.7:7946 into meshban.yaml")},
	{"datagrams", "large ones are lost", Warn, do(func(m *machine) { m.members[1].UDP = "large UDP packets to it do not arrive" })},
	{"clocks", "ahead", Warn, problem("clock: web2 is 7 s ahead; set its clock")},
	{"time zone", "changed", Warn, func(t *testing.T, m *machine) string {
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(m.root+"/etc/localtime", later, later); err != nil {
			t.Fatal(err)
		}
		return ""
	}},
	{"join list", "no such name", Warn, do(func(m *machine) {
		m.config.Join = []string{"nosuch.invalid:7946"}
		m.resolve = func(context.Context, string) error { return errors.New("lookup nosuch.invalid: no such host") }
	})},
	{"join list", "nobody answers", Bad, problem("join: nobody on the join list answers; correct it")},
	{"versions", "another version", Warn, do(func(m *machine) { m.members[1].Version = "2" })},
	{"versions", "one key twice", Bad, problem("clone: two machines have this node's key; give one a folder of its own")},
	{"certificates", "ends soon", Warn, do(func(m *machine) { end := time.Now().Add(time.Hour); m.members[1].CertUntil = &end })},
	{"certificates", "no authority", Bad, problem("authority: no node that is alive has ca.key; import it")},
	{"line file", "gone", Bad, func(t *testing.T, m *machine) string {
		if err := os.Remove(m.root + "/state/newbans.log"); err != nil {
			t.Fatal(err)
		}
		return ""
	}},
	{"line file", "everybody writes", Bad, func(t *testing.T, m *machine) string {
		if err := os.Chmod(m.root+"/state/newbans.log", 0o666); err != nil {
			t.Fatal(err)
		}
		return "chmod o-w " + m.root + "/state/newbans.log"
	}},
	{"line file", "all ignored", Warn, do(func(m *machine) {
		m.status.Lines.Accepted, m.status.Lines.Ignored, m.status.Lines.IgnoredBy = 0, 4, map[string]uint64{"no HOST": 4}
	})},
	{"line file", "no /dev/log", Warn, func(t *testing.T, m *machine) string {
		if err := os.Remove(m.root + "/dev/log"); err != nil {
			t.Fatal(err)
		}
		m.status.Lines.Ignored, m.status.Lines.IgnoredBy = 1, map[string]uint64{"no HOST": 1}
		return ""
	}},
	{"kernel drops", "a CDN in front", Warn, file("/etc/nginx/conf.d/cdn.conf", "server {\n  set_real_ip_from 192.0.2.0/24;\n}\n")},
	{"kernel drops", "rootless docker", Warn, file("/proc/9/comm", "rootlesskit\n")},
	{"your login", "not protected", Bad, do(func(m *machine) { m.from = "198.51.100.77 4711 192.0.2.1 22" })},
	{"resources", "little memory", Warn, file("/proc/meminfo", "MemAvailable: 9000 kB\n")},
	{"resources", "few file descriptors", Warn, file("/proc/sys/fs/file-nr", "99000\t0\t100000\n")},
	{"resources", "full disk", Warn, func(t *testing.T, m *machine) string {
		m.dir = "/full"
		sh(t, "mkdir "+m.root+"/full; mount -t tmpfs -o size=1m tmpfs "+m.root+"/full")
		t.Cleanup(func() { sh(t, "umount "+m.root+"/full") })
		return ""
	}},
	{"saved rules", "nft", Bad, file("/etc/nftables.conf", "table inet meshban {\n}\n")},
	{"saved rules", "iptables", Bad, file("/etc/iptables/rules.v4", "-A MESHBAN -m set --match-set meshban-v4 src -j DROP\n")},
}
