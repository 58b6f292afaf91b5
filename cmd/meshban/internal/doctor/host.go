package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
	"github.com/meshban/meshban/cmd/meshban/internal/setup"
)

const (
	// maxFile bounds what is read of a file, and maxFiles how many of a folder are.
	maxFile, maxFiles = 8 << 20, 200
	// least free bytes of the disk and of memory.
	leastDisk, leastMemory = 256 << 20, 48 << 20
	// capNetAdmin is the bit of CAP_NET_ADMIN.
	capNetAdmin = 12
)

func newMachine(o Options) *machine {
	return &machine{
		config: o.Config, dir: o.Dir, euid: os.Geteuid(), from: os.Getenv("SSH_CONNECTION"), peer: o.Peer, setUp: setup.Fail2banInstalled(),
		jails:    fail2ban.Client{}.Setup,
		sessions: func() ([]hostinfo.Entry, error) { return hostinfo.NewSessions().Read(time.Now()) },
		run:      runProgram, find: findProgram, dial: dial, resolve: resolve,
	}
}

func (m *machine) configFile() string {
	return cmp.Or(m.config.Path, filepath.Join(m.dir, config.FileName))
}

// read returns the beginning of a file; "" if it cannot be read.
func (m *machine) read(path string) string {
	f, err := os.Open(m.root + path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return ""
	}
	return string(text)
}

// glob returns the files that match one of patterns, at most maxFiles.
func (m *machine) glob(patterns ...string) []string {
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(m.root + p)
		if err != nil {
			continue // cannot happen: these patterns are valid
		}
		for _, f := range found {
			all = append(all, strings.TrimPrefix(f, m.root))
		}
	}
	return all[:min(len(all), maxFiles)]
}

func (m *machine) fail2ban(ctx context.Context) finding {
	jails, err := m.jails(ctx)
	switch {
	case errors.Is(err, fail2ban.ErrNotInstalled):
		return skip("no fail2ban here")
	case m.euid != 0 && err != nil:
		return skip("only root may ask fail2ban")
	case err != nil:
		return bad("systemctl restart fail2ban; journalctl -u fail2ban -n 20", "%v", err)
	case len(jails) == 0:
		return warn(`printf '[sshd]\nenabled = true\n' >>/etc/fail2ban/jail.local; fail2ban-client reload`, "fail2ban runs, but no jail is enabled")
	}
	for _, j := range jails {
		if !j.Reads {
			return bad(fmt.Sprintf(`printf '[%s]\nbackend = systemd\n' >>/etc/fail2ban/jail.local; fail2ban-client reload --restart`, j.Name),
				"the jail %s reads neither a log file nor the journal", j.Name)
		}
	}
	return ok("fail2ban runs, and each of its %d jails has a log", len(jails))
}

func (m *machine) jailsTell(ctx context.Context) finding {
	_, err := m.jails(ctx)
	switch {
	case errors.Is(err, fail2ban.ErrNotInstalled):
		return skip("no fail2ban here")
	case !m.setUp:
		return warn("meshban setup fail2ban", "fail2ban's jails do not tell the mesh of their bans")
	case m.status == nil:
		return skip("no agent")
	}
	f := m.status.Fail2ban
	switch {
	case f == nil:
		return skip("the agent has not asked fail2ban yet")
	case f.Error != "":
		return warn("systemctl restart fail2ban", "the agent cannot ask fail2ban: %s", f.Error)
	case len(f.Silent) > 0:
		return warn("meshban setup fail2ban", "these jails do not tell the mesh of their bans: %s", strings.Join(f.Silent, ", "))
	}
	return ok("every jail tells the mesh: %s", strings.Join(f.Tells, ", "))
}

// banactionPrograms are the programs of fail2ban's own actions, by the beginning of their names.
var banactionPrograms = []struct{ action, program, pack string }{
	{"iptables-ipset", "ipset", "ipset"}, {"iptables", "iptables", "iptables"}, {"nftables", "nft", "nftables"}, {"ufw", "ufw", "ufw"},
	{"firewallcmd-ipset", "ipset", "ipset"}, {"firewallcmd", "firewall-cmd", "firewalld"}, {"shorewall", "shorewall", "shorewall"},
}

func (m *machine) banactions(ctx context.Context) finding {
	jails, err := m.jails(ctx)
	if errors.Is(err, fail2ban.ErrNotInstalled) {
		return skip("no fail2ban here")
	} else if err != nil {
		return skip("%v", err)
	}
	for _, j := range jails {
		for _, a := range j.Actions {
			for _, p := range banactionPrograms {
				if !strings.HasPrefix(a, p.action) {
					continue
				}
				if m.find(p.program) != nil {
					return bad("apt-get install "+p.pack, "the action %s of the jail %s needs %s, which is not installed", a, j.Name, p.program)
				}
				break
			}
		}
	}
	return ok("the programs of fail2ban's actions are there")
}

func (m *machine) backend(context.Context) finding {
	f := m.status.Firewall
	var tried []string
	for _, t := range f.Tried {
		tried = append(tried, t.Backend+" does not work here: "+t.Error)
	}
	if f.Backend == "none" {
		text, remedy := m.problem("firewall")
		return bad(cmp.Or(remedy, "meshban status"), "%s", strings.Join(append([]string{cmp.Or(text, "no packet is dropped")}, tried...), "; "))
	}
	return ok("%s", strings.Join(append([]string{f.Backend + " drops the packets"}, tried...), "; "))
}

// firstRule reports rules that come before ours.
func (m *machine) firstRule(ctx context.Context) finding {
	table := "raw"
	if m.config.Firewall.Outbound == config.OutboundAllow {
		table = "mangle"
	}
	const again = "systemctl restart meshban"
	switch backend := m.status.Firewall.Backend; {
	case backend == "none":
		return skip("no backend")
	case m.euid != 0:
		return skip("only root may look")
	case backend == "nftables":
		if out, err := m.run(ctx, "nft", "list", "table", "inet", "meshban"); err != nil || !strings.Contains(out, "hook prerouting") {
			return bad(again, "the table inet meshban is not in the kernel")
		}
		return ok("our chain comes before connection tracking")
	}
	out, err := m.run(ctx, "iptables", "-w", "5", "-t", table, "-S", "PREROUTING")
	if err != nil {
		return skip("iptables -S: %v", err)
	}
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "-A ") {
			continue
		}
		if strings.Contains(line, "MESHBAN") {
			return ok("our rule is the first of %s PREROUTING", table)
		}
		return bad(again, "a rule comes before ours in %s PREROUTING: %s", table, strings.TrimSpace(line))
	}
	return bad(again, "our rule is not in %s PREROUTING", table)
}

// flushers are services that empty the kernel's rules when they start or reload.
var flushers = []string{"nftables", "ufw", "firewalld"}

func (m *machine) repairs(ctx context.Context) finding {
	n := m.status.Firewall.Repairs
	if n == 0 {
		return ok("no rule or set of meshban's was removed")
	}
	var active []string
	for _, unit := range flushers {
		if _, err := m.run(ctx, "systemctl", "is-active", "--quiet", unit); err == nil {
			active = append(active, unit)
		}
	}
	who := "none of " + strings.Join(flushers, ", ") + " is active"
	if len(active) > 0 {
		who = "active here: " + strings.Join(active, ", ")
	}
	return warn("journalctl -u "+strings.Join(flushers, " -u ")+" -u meshban --since -1d", "something removed rules or sets of ours %d times; they were put back; %s", n, who)
}

// mixedRules reports rules of both kinds of iptables. It runs iptables-legacy only where it is in use: it loads modules.
func (m *machine) mixedRules(ctx context.Context) finding {
	if m.euid != 0 {
		return skip("only root may look")
	}
	if m.read("/proc/net/ip_tables_names") == "" && m.read("/proc/net/ip6_tables_names") == "" {
		return ok("there are no legacy tables")
	}
	rules := func(program string) int {
		out, err := m.run(ctx, program)
		if err != nil {
			return 0 // it is not installed
		}
		return strings.Count("\n"+out, "\n-A ")
	}
	legacy := rules("iptables-legacy-save") + rules("ip6tables-legacy-save")
	nft := rules("iptables-nft-save") + rules("ip6tables-nft-save")
	if legacy > 0 && nft > 0 {
		return warn("iptables-legacy-save; update-alternatives --set iptables /usr/sbin/iptables-nft # then add these rules again", "%d rules of iptables-legacy and %d of iptables-nft are both in force", legacy, nft)
	}
	return ok("all rules of iptables are of one kind")
}

func (m *machine) privileges(context.Context) finding {
	if m.euid != 0 {
		return skip("only root may look")
	}
	for line := range strings.Lines(m.read("/proc/self/status")) {
		if hex, is := strings.CutPrefix(line, "CapBnd:"); is {
			caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err == nil && caps&(1<<capNetAdmin) == 0 {
				return bad("docker run --cap-add NET_ADMIN --cap-add NET_RAW IMAGE # start the container like this", "this container lacks CAP_NET_ADMIN")
			}
		}
	}
	if m.status != nil && m.status.Firewall.Backend == "none" {
		for _, t := range m.status.Firewall.Tried {
			if strings.Contains(t.Error, "not supported here") || strings.Contains(t.Error, "module") {
				return bad("modprobe -a ip_set_hash_ip ip_set_hash_net nf_tables; systemctl restart meshban", "the kernel lacks a module: %s", t.Error)
			}
		}
	}
	return ok("root may change the firewall")
}

// sets reports bans that are not in force, and sets that are almost full.
func (m *machine) sets(ctx context.Context) finding {
	if p := m.status.Paused; p != nil {
		remedy := "meshban pause off"
		if p.All {
			remedy += " --all # on a node that has ca.key"
		}
		return bad(remedy, "nothing is dropped until %s: paused by %s", p.Until.Format(time.RFC3339), p.By)
	}
	if n := m.status.Firewall.NotEnforced; n > 0 {
		return bad("meshban list", "%d bans are not enforced: no room in the kernel, or an exception could not be placed", n)
	}
	if m.status.Firewall.Backend != "ipset" || m.euid != 0 {
		return ok("all bans are in the kernel")
	}
	out, err := m.run(ctx, "ipset", "list", "-terse")
	if err != nil {
		return ok("all bans are in the kernel")
	}
	name, most := "", 0
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "Name: "):
			name, most = words[1], 0
		case strings.HasPrefix(line, "Header: "):
			if i := slices.Index(words, "maxelem"); i >= 0 && i+1 < len(words) {
				most, _ = strconv.Atoi(words[i+1]) // 0 = no limit is known
			}
		case strings.HasPrefix(line, "Number of entries: ") && strings.HasPrefix(name, "meshban"):
			if n, err := strconv.Atoi(words[3]); err == nil && most > 0 && n > most/10*9 {
				return warn("meshban unban --source import --dry-run", "the set %s holds %d of at most %d entries", name, n, most)
			}
		}
	}
	return ok("all bans are in the kernel, and no set is almost full")
}

// timeZone reports a fail2ban that was started before the time zone was changed: it reads the log's times wrongly.
func (m *machine) timeZone(context.Context) finding {
	pid := strings.TrimSpace(m.read("/run/fail2ban/fail2ban.pid"))
	started, err := os.Stat(m.root + "/proc/" + cmp.Or(pid, "none"))
	if err != nil {
		return skip("no fail2ban runs here")
	}
	zone, err := os.Lstat(m.root + "/etc/localtime")
	if err == nil && zone.ModTime().After(started.ModTime()) {
		return warn("systemctl restart fail2ban", "the time zone was changed after fail2ban was started, so it may read the times of its logs wrongly")
	}
	return ok("fail2ban has the machine's time zone")
}

func (m *machine) lineFile(context.Context) finding {
	l := control.LineStatus{File: m.config.Lines.File}
	if m.status != nil {
		if f, is := m.known(Bad, "line file"); is {
			return f
		}
		l = m.status.Lines
	}
	info, err := os.Stat(m.root + l.File)
	if errors.Is(err, fs.ErrNotExist) && m.status == nil {
		return skip("the agent makes %s when it starts", l.File)
	} else if errors.Is(err, fs.ErrNotExist) {
		return bad("touch "+l.File, "%s is not there", l.File)
	} else if err != nil {
		return skip("%v", err)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return bad("chmod o-w "+l.File, "any user can write to %s, and so ban any address", l.File)
	}
	noHost := l.IgnoredBy["no HOST"]
	if _, err := os.Lstat(m.root + "/dev/log"); err != nil && (noHost > 0 || !m.setUp) {
		return warn("apt-get install rsyslog", "there is no /dev/log, so `logger -s` writes no HOST line")
	}
	if l.Ignored > 0 && l.Accepted == 0 && l.Echoes == 0 {
		return warn("tail "+l.File, "all %d lines of %s were ignored: %s", l.Ignored, l.File, reasons(l.IgnoredBy))
	}
	if m.status == nil {
		return ok("not every user can write to %s; no agent reads it", l.File)
	}
	text := fmt.Sprintf("%s is read, with %d lines accepted", l.File, l.Accepted)
	if l.Ignored > 0 {
		text += " and some ignored: " + reasons(l.IgnoredBy)
	}
	return ok("%s", text)
}

func reasons(by map[string]uint64) string {
	var all []string
	for reason, n := range by {
		all = append(all, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// proxyWords are directives of a web server that takes its clients' addresses from a proxy in front of it.
var proxyWords = []string{"set_real_ip_from", "RemoteIPHeader", "RemoteIPTrustedProxy"}

// kernelDrops reports where the kernel does not see the clients' addresses.
func (m *machine) kernelDrops(context.Context) finding {
	const bouncer = "meshban help crowdsec # block there, with a bouncer"
	for _, path := range m.glob("/etc/nginx/nginx.conf", "/etc/nginx/conf.d/*.conf", "/etc/nginx/sites-enabled/*", "/etc/apache2/conf-enabled/*.conf",
		"/etc/apache2/mods-enabled/*.conf", "/etc/apache2/sites-enabled/*") {
		for line := range strings.Lines(m.read(path)) {
			if words := strings.Fields(line); len(words) > 1 && slices.Contains(proxyWords, words[0]) {
				return warn(bouncer, "%s has %s: behind a CDN or proxy the kernel sees the proxy's address only", path, words[0])
			}
		}
	}
	procs, err := filepath.Glob(m.root + "/proc/[0-9]*/comm")
	if err != nil {
		return skip("%v", err)
	}
	for _, p := range procs {
		if strings.HasPrefix(m.read(strings.TrimPrefix(p, m.root)), "rootlesskit") {
			return warn(bouncer, "rootless docker or podman runs here: its containers may see other client addresses than the kernel does")
		}
	}
	return ok("no proxy and no rootless container engine is in front")
}

// login reports an address from which somebody is logged in and that a ban could lock out.
func (m *machine) login(context.Context) finding {
	var from []netip.Addr
	if addr, _, _ := strings.Cut(m.from, " "); addr != "" {
		if a, err := netip.ParseAddr(addr); err == nil {
			from = append(from, a.Unmap().WithZone(""))
		}
	}
	entries, err := m.sessions()
	for _, e := range entries {
		from = append(from, e.Prefix.Addr())
	}
	for _, a := range from {
		if !a.IsLoopback() && !slices.ContainsFunc(m.allowed, func(e control.AllowEntry) bool { return e.Prefix.Contains(a) }) {
			return bad(fmt.Sprintf("meshban allow %s", a), "%s, from which you are logged in, is not protected", a)
		}
	}
	switch {
	case err != nil && len(from) == 0:
		return skip("%v", err)
	case len(from) == 0:
		return ok("nobody is logged in by ssh")
	}
	return ok("%s, from which you are logged in, is protected", from[0])
}

func (m *machine) resources(context.Context) finding {
	var disk unix.Statfs_t
	if err := unix.Statfs(m.root+m.dir, &disk); err == nil {
		if free := uint64(disk.Bavail) * uint64(disk.Bsize); free < leastDisk {
			return warn("df -h "+m.dir, "the disk of %s has %d MiB free", m.dir, free>>20)
		}
	}
	for line := range strings.Lines(m.read("/proc/meminfo")) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "MemAvailable:" {
			continue
		}
		if kib, err := strconv.ParseUint(words[1], 10, 64); err == nil && kib<<10 < leastMemory {
			return warn("ps aux --sort=-rss | head", "%d MiB of memory are available", kib>>10)
		}
	}
	if words := strings.Fields(m.read("/proc/sys/fs/file-nr")); len(words) == 3 {
		used, err := strconv.ParseUint(words[0], 10, 64)
		most, err2 := strconv.ParseUint(words[2], 10, 64)
		if err == nil && err2 == nil && used > most/10*9 {
			return warn("sysctl -w fs.file-max=1000000", "%d of at most %d file descriptors are in use", used, most)
		}
	}
	return ok("disk space, memory and file descriptors are sufficient")
}

// savedRules reports saved rules that name sets or tables of ours.
func (m *machine) savedRules(context.Context) finding {
	for _, path := range []string{"/etc/nftables.conf", "/etc/sysconfig/nftables.conf"} {
		if text := m.read(path); strings.Contains(text, "MESHBAN") || strings.Contains(text, "table inet meshban") {
			return bad("systemctl stop meshban; meshban teardown; (echo flush ruleset; nft list ruleset) >"+path+"; systemctl start meshban", "%s contains meshban's rules: at boot it restores bans that have ended, or fails to load", path)
		}
	}
	for _, path := range []string{"/etc/iptables/rules.v4", "/etc/iptables/rules.v6", "/etc/sysconfig/iptables", "/etc/sysconfig/ip6tables"} {
		if strings.Contains(m.read(path), "--match-set meshban") && len(m.glob("/etc/systemd/system/meshban-sets.service")) == 0 {
			return bad("meshban setup systemd && systemctl daemon-reload", "%s refers to meshban's sets, and cannot load at boot until they exist", path)
		}
	}
	return ok("no saved rules depend on ours")
}
