package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const dir = "/var/lib/meshban"

// from returns Default changed by edit, as Parse("f.yaml", ...) would.
func from(edit func(*Config)) Config {
	c := Default(dir)
	c.Path = "f.yaml"
	edit(&c)
	return c
}

func TestParseOK(t *testing.T) {
	for _, c := range []struct {
		name, in string
		edit     func(*Config)
	}{
		{"ok: empty", "", func(*Config) {}},
		{"ok: comments", "# nothing\n", func(*Config) {}},
		{"ok: document marks", "---\n...\n", func(*Config) {}},
		{"ok: empty mapping", "{}\n", func(*Config) {}},
		{"ok: sections and lists with all commented out", "bans:\n#  for: 1h\njoin:\nallow:\n", func(*Config) {}},
		{"ok: a quorum within a time", "bans: {quorum: {origins: 2, within: 30m}}\n", func(c *Config) {
			c.Bans.Quorum = Quorum{2, 30 * time.Minute}
		}},
		{"ok: quorums by source", "bans:\n  quorum_by_source:\n  - {source: \"line:*\", origins: 2, within: 30m}\n  - {source: cli, origins: 1}\n", func(c *Config) {
			c.Bans.BySource = []QuorumBy{{Source: "line:*", Quorum: Quorum{2, 30 * time.Minute}}, {Source: "cli", Quorum: Quorum{Origins: 1}}}
		}},
		{"ok: hooks", `
hooks:
- name: ops
  on: [problem, solved]
  webhook: {url_file: /etc/ops.url, preset: slack, timeout: 5s, tries: 1}
- {name: daily, on: [ban], sources: ["line:*", cli], whose: all, every: 1d, at_most: 5, exec: [/bin/tell, -a, x, -a, y]}
`, func(c *Config) {
			ops, daily := defaultHook(), defaultHook()
			ops.Name, ops.On, ops.Webhook = "ops", []string{"problem", "solved"}, Webhook{URLFile: "/etc/ops.url", Preset: PresetSlack, Timeout: 5 * time.Second, Tries: 1}
			daily.Name, daily.On, daily.Sources, daily.Whose = "daily", []string{"ban"}, []string{"line:*", "cli"}, WhoseAll
			daily.Every, daily.AtMost, daily.Exec = day, 5, []string{"/bin/tell", "-a", "x", "-a", "y"}
			c.Hooks = []Hook{ops, daily}
		}},
		{"ok: CRLF", "name: web1\r\nbans:\r\n  for: 1h\r\n", func(c *Config) {
			c.Name, c.Bans.For, c.Lines.For = "web1", time.Hour, time.Hour
		}},
		{"ok: byte order mark", "\ufeffname: web1\n", func(c *Config) { c.Name = "web1" }},
		{"ok: all keys", `
name: web1
bind: "[::]:7000"
advertise: 203.0.113.9
join: [web2, "[2001:db8::2]:7001", web2:7946]
lines: {file: /var/log/newbans.log, emit: false, ports: as-written, for: 2h}
bans: {for: 1h, max_for: 7d, widest_ipv4: 16, widest_ipv6: 32, quorum: 2}
firewall: {backends: [nftables, none], outbound: allow, counters: true, check: 5s}
control: {read_group: adm, write_group: 1001}
allow:
  - 192.0.2.0/24
  - 192.0.2.9
  - 2001:db8::/64
  - 192.0.2.9/32
metrics: 127.0.0.1:9946
api: {listen: "0.0.0.0:8443", certificate: /etc/a.pem, key: /etc/b.pem, hold: 30s}
files: [{name: a.conf, format: nginx}, {name: b, format: plain, every: 1m}]
log: {level: debug, format: json}
`, func(c *Config) {
			c.Name = "web1"
			c.Bind = netip.MustParseAddrPort("[::]:7000")
			c.Advertise = netip.MustParseAddrPort("203.0.113.9:7000")
			c.Join = []string{"web2:7946", "[2001:db8::2]:7001"}
			c.Lines = Lines{File: "/var/log/newbans.log", Ports: PortsAsWritten, For: 2 * time.Hour}
			c.Bans = Bans{For: time.Hour, MaxFor: 7 * day, MinPrefix4: 16, MinPrefix6: 32, Quorum: Quorum{Origins: 2}}
			c.Firewall = Firewall{Backends: []string{"nftables", "none"}, Outbound: OutboundAllow, Counters: true, Check: 5 * time.Second}
			c.Control = Control{ReadGroup: "adm", WriteGroup: "1001"}
			c.Allow = []Allowed{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}, {Prefix: netip.MustParsePrefix("192.0.2.9/32")}, {Prefix: netip.MustParsePrefix("2001:db8::/64")}}
			c.Metrics = netip.MustParseAddrPort("127.0.0.1:9946")
			c.API = API{Listen: netip.MustParseAddrPort("0.0.0.0:8443"), Certificate: "/etc/a.pem", Key: "/etc/b.pem", Hold: 30 * time.Second}
			c.Files = []File{{"a.conf", "nginx", 5 * time.Second}, {"b", "plain", time.Minute}}
			c.Log = Log{Level: -4, Format: LogJSON}
		}},
		{"ok: names in allow", "allow: [192.0.2.7, Office.example.NET., a-b.c_d.example]\n", func(c *Config) {
			c.Allow = []Allowed{{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, {Name: "office.example.net"}, {Name: "a-b.c_d.example"}}
		}},
		{"ok: advertise takes the port of a bind that stands below", "advertise: 203.0.113.9\nbind: 0.0.0.0:7000\n", func(c *Config) {
			c.Bind, c.Advertise = netip.MustParseAddrPort("0.0.0.0:7000"), netip.MustParseAddrPort("203.0.113.9:7000")
		}},
		{"ok: lines.for follows bans.for", "bans: {for: 45m}\n", func(c *Config) { c.Bans.For, c.Lines.For = 45*time.Minute, 45*time.Minute }},
		{"ok: backends as one word", "firewall: {backends: none}\n", func(c *Config) { c.Firewall.Backends = []string{"none"} }},
		{"ok: backends as on the command line", `firewall: {backends: "ipset,nftables"}` + "\n", func(c *Config) { c.Firewall.Backends = []string{"ipset", "nftables"} }},
		{"ok: any free port", "bind: 127.0.0.1:0\n", func(c *Config) { c.Bind = netip.MustParseAddrPort("127.0.0.1:0") }},
		{"ok: defaults by name", "name: \"\"\nadvertise: \"\"\nmetrics: \"\"\nlines: {file: \"\", for: \"\"}\n", func(*Config) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse("f.yaml", []byte(c.in), dir)
			if err != nil {
				t.Fatal(err)
			}
			if want := from(c.edit); !reflect.DeepEqual(got, want) {
				t.Fatalf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestReferenceIsTheDefault(t *testing.T) {
	got, err := Parse("f.yaml", []byte(Reference()), dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := from(func(*Config) {}); !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func TestReferenceHasEveryKey(t *testing.T) {
	d := decoder{nodes: make(map[string]*yaml.Node), lines: make(map[string]int), wrong: make(map[string]bool)}
	root, ok := d.document([]byte(Reference()))
	if !ok {
		t.Fatal(d.err())
	}
	d.section("", root)
	lines := strings.Split(Reference(), "\n")
	for _, key := range keys {
		n, ok := d.nodes[key]
		if !ok {
			t.Errorf("%s is not in the reference", key)
			continue
		}
		if above := strings.TrimSpace(lines[n.Line-2]); !strings.HasPrefix(above, "#") && key != "bans.widest_ipv6" {
			t.Errorf("%s has no comment above it, but %q", key, above)
		}
	}
	if n := leaves(reflect.TypeFor[Config]()) - 3; n != len(keys) { // without Path and Dir; and a quorum has two values
		t.Errorf("Config has %d values, the file %d keys", n, len(keys))
	}
}

// leaves counts the fields of t that are not sections.
func leaves(t reflect.Type) int {
	n := 0
	for f := range t.Fields() {
		if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == t.PkgPath() {
			n += leaves(f.Type)
		} else {
			n++
		}
	}
	return n
}

func TestReferenceFitsATerminal(t *testing.T) {
	for i, line := range strings.Split(Reference(), "\n") {
		if len(line) > 94 || strings.ContainsRune(line, '\t') {
			t.Errorf("line %d is %d wide or has a tab: %q", i+1, len(line), line)
		}
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(file, []byte("name: web1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, dir)
	if err != nil || c.Name != "web1" || c.Path != file || c.Dir != dir {
		t.Fatalf("got %+v, %v", c, err)
	}
	if c, err := Load("", dir); err != nil || !reflect.DeepEqual(c, Default(dir)) {
		t.Fatalf("no file: got %+v, %v", c, err)
	}
	if _, err := Load(file+".not", dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing file: got %v", err)
	}
	if _, err := Load(t.TempDir(), dir); err == nil {
		t.Fatal("a folder was read as a file")
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("# x\n", MaxFile/4+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(file, dir)
	check(t, err, "is larger than 1048576 bytes")
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default("relative").Validate(); err != nil {
		t.Fatal(err)
	}
	if file := Default("relative").Lines.File; !filepath.IsAbs(file) {
		t.Fatalf("the line file is relative: %s", file)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name, err string
		edit      func(*Config)
	}{
		{"bad: bind", "bind: ", func(c *Config) { c.Bind = netip.AddrPort{} }},
		{"bad: bind to a group", "not an address to listen on", func(c *Config) { c.Bind = netip.MustParseAddrPort("224.0.0.1:7946") }},
		{"bad: advertise", "advertise: ", func(c *Config) { c.Advertise = netip.MustParseAddrPort("0.0.0.0:7946") }},
		{"bad: line file", "write /var/lib/meshban/newbans.log", func(c *Config) { c.Lines.File = "newbans.log" }},
		{"bad: line file is a folder", "is not the path of a file", func(c *Config) { c.Lines.File = "/var/log/" }},
		{"bad: api", "api.listen: ", func(c *Config) { c.API.Listen = netip.MustParseAddrPort("[::]:8080") }},
		{"bad: metrics", "metrics: ", func(c *Config) { c.Metrics = netip.MustParseAddrPort("[::]:7946") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			check(t, from(c.edit).Validate(), c.err)
		})
	}
}
