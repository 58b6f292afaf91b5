package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestRenderDefault(t *testing.T) {
	got := string(Render(Default(dir)))
	for line := range strings.SplitSeq(strings.TrimSpace(got), "\n") {
		if line != "" && !strings.HasPrefix(line, "#") {
			t.Errorf("the defaults are written out: %q", line)
		}
	}
}

func TestRenderExample(t *testing.T) {
	c := from(func(c *Config) {
		c.Name = "web1"
		c.Join = []string{"web2:7946", "[2001:db8::2]:7946"}
		c.Bans.Quorum.Origins = 2
		c.Bans.For, c.Lines.For = time.Hour, time.Hour
		c.Lines.File = `/var/log/a "b" \c.log`
		c.Allow = []Allowed{{Prefix: netip.MustParsePrefix("192.0.2.7/32")}}
	})
	const want = renderHead + `
# this node's name, for people
name: "web1"

# nodes to join, HOST or HOST:PORT
join:
  - "web2:7946"
  - "[2001:db8::2]:7946"

bans:
  # length of a ban where none is given
  for: 1h
  # nodes that must have seen an attacker
  quorum: 2

lines:
  # the file that other programs append their bans to
  file: "/var/log/a \"b\" \\c.log"

# never banned: addresses, CIDRs and names
allow:
  - "192.0.2.7"
`
	if got := string(Render(c)); got != want {
		t.Fatalf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestRenderHintsParse(t *testing.T) {
	hints := strings.ReplaceAll(strings.TrimPrefix(renderHints, "\n# Often wanted:\n"), "#allow", "allow")
	c, err := Parse("f.yaml", []byte(strings.ReplaceAll(hints, "#metrics", "metrics")), dir)
	if err != nil || len(c.Allow) != 2 || !c.Metrics.IsValid() {
		t.Fatalf("the hints do not parse as they read: %+v, %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(Reference()))
	f.Add(Render(Default(dir)))
	for _, s := range []string{
		"", "---\n", "name: web1\nbind: 127.0.0.1:0\nadvertise: [\n",
		"join: [web1, '[::1]:1', 192.0.2.1]\nallow: ['::ffff:192.0.2.0/120', 2001:db8::/32]\n",
		"lines: {file: \"/a \\\" b\", emit: FALSE, ports: as-written, for: 1w1d1ns}\nbans: {for: 1.5d, max_for: 30d, widest_ipv4: 8, quorum: 16}\n",
		"bans: {quorum: {within: 1h, origins: 3}, quorum_by_source: [{source: \"line:*\", origins: 2, within: 30m}, {source: cli, origins: 1}]}\n",
		"firewall: {backends: 'none', outbound: allow, counters: yes, check: 1s}\nmetrics: '[::1]:1'\nlog: {level: error, format: json}\n",
		"files: [{name: a.conf, format: nginx}, {every: 1h, format: hosts.deny, name: B_-9}]\n",
		"hooks: [{name: a, on: [ban, held], sources: [cli], whose: all, every: 90s, at_most: 1, webhook: {url_file: /a, preset: ntfy, timeout: 2s, tries: 9}}]\n",
		"hooks:\n- {on: [alive], webhook: {body: \"{\\\"a\\\":\\n\\\"{{text}}\\\"}\", url_file: /b}, name: b}\n- {name: c, exec: [/c, x, x], on: [ban]}\n",
		"a: &a [*a, *b]\n<<: *a\n", "name: !!binary aGk=\n", "? {a: b}\n: |-\n  c\n", "name: 2026-11-22\n", "allow:\n-\n", "name: a\n...\n---\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.yaml", data, dir)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "f.yaml:") {
					t.Fatalf("an error without its file, or on two lines: %q", err)
				}
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("parsed, but not valid: %v", err)
		}
		text := Render(c)
		again, err := Parse("f.yaml", text, dir)
		if err != nil {
			t.Fatalf("does not parse again: %v\n%s", err, text)
		}
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("got  %+v\nwant %+v\n%s", again, c, text)
		}
	})
}
