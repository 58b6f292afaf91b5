package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseBad(t *testing.T) {
	for _, c := range []struct{ name, in, err string }{
		{"bad: unknown key", "nam: x\n", `f.yaml:1: nam: unknown key, did you mean "name"?`},
		{"bad: unknown key in a section", "bans:\n  maxfor: 1h\n", `f.yaml:2: bans.maxfor: unknown key, did you mean "max_for"?`},
		{"bad: dash in a key", "bans:\n  max-for: 1h\n", `did you mean "max_for"?`},
		{"bad: capital", "Bind: 0.0.0.0:1\n", `f.yaml:1: Bind: unknown key, did you mean "bind"?`},
		{"bad: key of a section at the margin", "quorum: 2\n", `quorum: unknown key, write "quorum" under "bans:"`},
		{"bad: key of two sections", "for: 2h\n", `write "for" under "bans:", or "for" under "lines:"`},
		{"bad: dotted key", "bans.for: 2h\n", `write "for" under "bans:"`},
		{"bad: key of the margin in a section", "bans:\n  allow: []\n", `write "allow" at the left margin`},
		{"bad: key like no other", "colour: red\n", "unknown key, write one of name, bind, advertise, join, bans, escalation, peers, breaker, lines, fail2ban, firewall, control, allow, metrics, files, api, hooks, log"},
		{"bad: key over many lines", "? |\n  a\n  b\n: c\n", `"a\nb\n": unknown key`},
		{"bad: duplicate key", "name: a\nbind: 127.0.0.1:1\nname: b\n", "f.yaml:3: name: is repeated (first on line 1), write it once"},
		{"bad: duplicate section", "bans: {for: 1h}\nbans: {for: 2h}\n", "f.yaml:2: bans: is repeated"},
		{"bad: merge key", "<<: {name: x}\n", "<<: unknown key"},
		{"bad: list as key", "[a, b]: c\n", "f.yaml:1: file: has a list where a key should be"},
		{"bad: list as file", "- name\n", "f.yaml:1: file: is a list, not a section"},
		{"bad: text as file", "hello\n", "f.yaml:1: file: is text, not a section"},
		{"bad: text as section", "bans: 30m\n", "f.yaml:1: bans: is text, not a section, write `key: value` lines, one of for, max_for,"},
		{"bad: two documents", "name: a\n---\nname: b\n", "file: has a second document, keep one"},
		{"bad: syntax", "name: a\n  b: c\n", "f.yaml:2: file: is not valid YAML (mapping values are not allowed in this context)"},
		{"bad: syntax in a second document", "name: a\n---\n: [\n", "is not valid YAML"},
		{"bad: tab", "bans:\n\tfor: 1h\n", "indent with spaces, not with tabs"},
		{"bad: unknown anchor", "name: a\njoin: *x\n", "f.yaml:2: file: is not valid YAML (unknown anchor 'x' referenced)"},
		{"bad: alias", "allow: &a [192.0.2.1]\njoin: *a\n", "f.yaml:2: join: is an alias, write the value itself"},
		{"bad: anchor", "allow: &a [192.0.2.1]\n", "allow: has an anchor, write the value without &a"},
		{"bad: tag", "bans: !policy {for: 1h}\n", "bans: has a tag, write the value without !policy"},
		{"bad: not UTF-8", "name: a\nbind: \"\xff\"\n", "f.yaml:2: file: is not UTF-8 text"},
		{"bad: control character", "name: a\n\nbind: \x01\n", "f.yaml:3: file: has the control character U+0001, delete it"},
		{"bad: too large", strings.Repeat("#", MaxFile+1), "file: is larger than"},

		{"bad: no value", "name:\n", "f.yaml:1: name: has no value, write one or delete the line"},
		{"bad: list as value", "name: [a]\n", "name: is a list, not text"},
		{"bad: number as name", "name: 17\n", "name: is a number, not text"},
		{"bad: section as value", "bind: {port: 1}\n", "bind: is a section, write a single value"},
		{"bad: blank in a name", "name: web 1\n", `name: "web 1" is not a name`},
		{"bad: name too long", "name: " + strings.Repeat("a", 65) + "\n", "write 1 to 64 letters"},
		{"bad: bind", "\nbind: 7946\n", `f.yaml:2: bind: "7946" is not an address and port`},
		{"bad: advertise of nobody", "advertise: 0.0.0.0\n", "f.yaml:1: advertise: "},
		{"bad: advertise without any port", "bind: 127.0.0.1:0\nadvertise: 192.0.2.1\n", `f.yaml:2: advertise: "192.0.2.1" has no port`},
		{"bad: advertise of the other family", "bind: 0.0.0.0:7946\nadvertise: 2001:db8::1\n", "advertise: 2001:db8::1 is IPv6, but bind 0.0.0.0:7946 is IPv4, write `bind: \"[::]:7946\"`"},
		{"bad: join as text", "join: web1\n", `join: is "web1", not a list, write ["web1"]`},
		{"bad: empty join item", "join: [web1, \"\"]\n", "join: has an empty item"},
		{"bad: section in a list", "join:\n  - web1\n  - host: web2\n", "f.yaml:3: join: has a section in the list, write a plain value"},
		{"bad: too many", "join: [" + strings.Repeat("a,", MaxJoin+1) + "]\n", "join: has 1001 items, write at most 1000"},
		{"bad: host bits", "allow:\n  - 192.0.2.1\n  - 192.0.2.1/24\n", `f.yaml:3: allow: "192.0.2.1/24" has host bits set, write 192.0.2.0/24`},
		{"bad: address with a slip in allow", "allow: [192.0.2.x]\n", `"192.0.2.x" is not an address`},
		{"bad: name without a dot in allow", "allow: [office]\n", "or a full name such as office.example.net"},
		{"bad: name with a digit in its last label in allow", "allow: [office.lan2]\n", "nor a name whose last label has letters alone"},
		{"bad: name with a port in allow", "allow: [\"office.example.net:22\"]\n", `"office.example.net:22" is not an address`},
		{"bad: seventeen names in allow", "allow: [" + strings.Join(strings.Split("abcdefghijklmnopq", ""), ".example.net, ") + ".example.net]\n", "allow: has 17 names, write at most 16"},
		{"bad: everything allowed", "allow: [\"::/0\"]\n", "so nothing would be banned"},
		{"bad: yes", "lines: {emit: yes}\n", `lines.emit: is "yes", write true or false, without quotes`},
		{"bad: true in quotes", "lines: {emit: \"true\"}\n", "write true or false"},
		{"bad: ports", "lines: {ports: ssh}\n", `lines.ports: "ssh" is not known, write all or as-written`},
		{"bad: relative file", "lines: {file: newbans.log}\n", `is not an absolute path, write /var/lib/meshban/newbans.log`},
		{"bad: number without unit", "bans:\n  for: 30\n", `f.yaml:2: bans.for: "30" has no unit, write 30s for seconds or 30m for minutes`},
		{"bad: too short", "bans: {for: 10ms}\n", "bans.for: 10ms is out of bounds, write 1s to 30d"},
		{"bad: too long", "bans: {max_for: 31d}\n", "bans.max_for: 31d is out of bounds, write 1s to 30d"},
		{"bad: longer than the longest", "bans: {for: 2h, max_for: 1h}\n", "bans.for: 2h is longer than max_for, 1h"},
		{"bad: the longest shorter than the default", "\nbans: {max_for: 10m}\n", "f.yaml:2: bans.for: 30m is longer than max_for, 10m"},
		{"bad: lines longer than the longest", "lines: {for: 2d}\nbans: {max_for: 1d}\n", "f.yaml:1: lines.for: 2d is longer than bans.max_for, 1d"},
		{"bad: width in quotes", "bans: {widest_ipv4: \"24\"}\n", "write digits without quotes"},
		{"bad: width with a slash", "bans: {widest_ipv4: /24}\n", `bans.widest_ipv4: is "/24", not a whole number`},
		{"bad: width", "bans: {widest_ipv4: 7}\n", "7 is out of bounds, write 8 to 32"},
		{"bad: IPv6 width", "bans: {widest_ipv6: 129}\n", "write 19 to 128"},
		{"bad: quorum", "bans: {quorum: 0}\n", "write 1 to 16"},
		{"bad: quorum of nobody", "bans: {quorum: {within: 30m}}\n", "is incomplete"},
		{"bad: quorum with another key", "bans: {quorum: {origins: 2, for: 30m}}\n", `unknown key "for"`},
		{"bad: quorum within no time", "bans: {quorum: {origins: 2, within: 1ms}}\n", "write 1s to 30d"},
		{"bad: quorum twice", "bans: {quorum: {origins: 2, origins: 3}}\n", "twice"},
		{"bad: quorum of no source", "bans: {quorum_by_source: [{origins: 2}]}\n", "is incomplete"},
		{"bad: quorum of a source with a star inside", "bans: {quorum_by_source: [{source: \"a*b\", origins: 2}]}\n", "is not a source"},
		{"bad: too many quorums", "bans: {quorum_by_source: [" + strings.Repeat("a,", MaxSources+1) + "]}\n", "bans.quorum_by_source: has 65 items, write at most 64"},
		{"bad: quorums that are no list", "bans: {quorum_by_source: {source: cli, origins: 2}}\n", "not a list"},
		{"bad: half a quorum", "bans: {quorum: 1.5}\n", `is "1.5", not a whole number`},
		{"bad: outbound", "firewall: {outbound: maybe}\n", `firewall.outbound: "maybe" is not known, write drop or allow`},
		{"bad: group", "control: {read_group: a b}\n", `control.read_group: "a b" is not a group`},
		{"bad: long group", "control: {write_group: " + strings.Repeat("g", MaxGroup+1) + "}\n", "control.write_group: "},
		{"bad: join", "join: [web 1]\n", "is not a host"},
		{"bad: quorum with an alias", "bans: {quorum: {origins: &a 2}}\n", "bans.quorum: origins has no plain value"},
		{"bad: list as key of a quorum", "bans: {quorum: {[a]: 2}}\n", "has the unknown key a list"},
		{"bad: backend", "firewall: {backends: [ipset, pf]}\n", `"pf" is not a backend`},
		{"bad: no backend", "firewall: {backends: []}\n", "names no backend"},
		{"bad: check", "firewall: {check: 1h}\n", "firewall.check: 1h is out of bounds, write 1s to 10m"},
		{"bad: metrics port of bind", "metrics: 127.0.0.1:7946\n", "metrics: 127.0.0.1:7946 is already used by bind, [::]:7946, write another port"},
		{"bad: metrics without port", "metrics: 127.0.0.1\n", "has no port"},
		{"bad: api port of bind", "api: {listen: \"127.0.0.1:7946\"}\n", "api.listen: 127.0.0.1:7946 is already used by bind, [::]:7946, write another port"},
		{"bad: api port of metrics", "metrics: 127.0.0.1:8080\napi: {listen: \"127.0.0.1:8080\"}\n", "api.listen: 127.0.0.1:8080 is already used by metrics, 127.0.0.1:8080, write another port"},
		{"bad: api without TLS", "api: {listen: \"192.0.2.1:8080\"}\n", "api.listen: 192.0.2.1:8080 is not a loopback address, so keys and bans need TLS, write certificate and key"},
		{"bad: api on all addresses", "api: {listen: \"[::]:8080\"}\n", "listen: 127.0.0.1:8080"},
		{"bad: api certificate without key", "api: {certificate: /a.pem}\n", "api.key: is missing, write certificate and key, or neither"},
		{"bad: api key without certificate", "api: {key: /a.pem}\n", "api.certificate: is missing, write certificate and key, or neither"},
		{"bad: api certificate", "api: {certificate: a.pem, key: /b.pem}\n", `api.certificate: "a.pem" is not the absolute path of a file`},
		{"bad: hold", "api: {hold: 1h}\n", "api.hold: 1h is out of bounds, write 1s to 10m"},
		{"bad: file without a format", "files: [{name: a}]\n", `files: "" is not a format, write plain, cidr, json`},
		{"bad: file without a name", "files:\n- {format: nginx}\n", `f.yaml:2: files: "" is not the name of a file, write {name: nginx.conf, format: nginx, every: 5s}`},
		{"bad: file elsewhere", "files: [{name: ../a, format: nginx}]\n", `"../a" is not the name of a file`},
		{"bad: file that begins with a dot", "files: [{name: .a, format: nginx}]\n", `".a" is not the name of a file`},
		{"bad: file that begins with a dash", "files: [{name: -a, format: nginx}]\n", `"-a" is not the name of a file`},
		{"bad: file with another key", "files: [{name: a, format: nginx, path: /b}]\n", `has the unknown key "path"`},
		{"bad: format of a file", "files: [{name: a, format: apache}]\n", `"apache" is not a format, write plain`},
		{"bad: file without a pause", "files: [{name: a, format: plain, every: 10ms}]\n", "files: every 10ms is out of bounds, write 1s to 1d"},
		{"bad: two files of a name", "files: [{name: a, format: plain}, {name: a, format: json}]\n", `files: "a" is the name of two files, write another name`},
		{"bad: files that are no list", "files: {name: a, format: plain}\n", "not a list, write [{name: nginx.conf, format: nginx}]"},
		{"bad: too many files", "files: [" + strings.Repeat("a,", MaxFiles+1) + "]\n", "files: has 17 items, write at most 16"},
		{"bad: hooks that are no list", "hooks: {name: a}\n", "not a list, write [{name: ops"},
		{"bad: hook without a name", "hooks: [{on: [ban], exec: [/a]}]\n", "has no name"},
		{"bad: hook without an event", "hooks: [{name: a, exec: [/a]}]\n", `"a" has no event, write`},
		{"bad: hook on what there is not", "hooks:\n- name: a\n  on: [bam]\n", `f.yaml:3: hooks: on "bam" is not an event of hooks, write one of ban, unban`},
		{"bad: hook with another key", "hooks: [{name: a, url: b}]\n", `has the unknown key "url", write one of name, on, sources, whose, every, at_most, webhook, exec`},
		{"bad: webhook with another key", "hooks: [{name: a, webhook: {url: b}}]\n", `webhook has the unknown key "url", write one of url_file, preset`},
		{"bad: hook with a key twice", "hooks: [{name: a, name: b}]\n", "has name twice"},
		{"bad: hook without a receiver", "hooks: [{name: a, on: [ban]}]\n", "not exactly one of webhook.url_file and exec"},
		{"bad: hook with two receivers", "hooks: [{name: a, on: [ban], exec: [/a], webhook: {url_file: /b}}]\n", "not exactly one of"},
		{"bad: program with a preset", "hooks: [{name: a, on: [ban], exec: [/a], webhook: {preset: slack}}]\n", "both webhook and exec"},
		{"bad: body beside a preset", "hooks: [{name: a, on: [ban], webhook: {url_file: /b, preset: slack, body: x}}]\n", "a body beside a preset"},
		{"bad: webhook that is no section", "hooks: [{name: a, webhook: /b}]\n", `webhook is "/b", not keys of a webhook`},
		{"bad: relative url_file", "hooks: [{name: a, on: [ban], webhook: {url_file: b}}]\n", `webhook.url_file "b" is not the absolute path of a file, write`},
		{"bad: relative program", "hooks: [{name: a, on: [ban], exec: [b]}]\n", `exec "b" is not an absolute path`},
		{"bad: every without a unit", "hooks: [{name: a, every: 5}]\n", `hooks: every "5" has no unit, write 5s`},
		{"bad: too many at most", "hooks: [{name: a, on: [ban], exec: [/a], at_most: 101}]\n", "at_most 101 is out of bounds, write 1 to 100"},
		{"bad: timeout", "hooks: [{name: a, on: [ban], webhook: {url_file: /b, timeout: 2m}}]\n", "webhook.timeout 2m is out of bounds, write 1s to 1m"},
		{"bad: preset", "hooks: [{name: a, webhook: {preset: teams}}]\n", `webhook.preset "teams" is not known, write json or slack`},
		{"bad: heartbeat with more", "hooks: [{name: a, on: [alive, ban], exec: [/a]}]\n", "has alive beside others"},
		{"bad: reports of what others saw", "hooks: [{name: a, on: [ban], whose: all, webhook: {url_file: /b, preset: abuseipdb}}]\n", "write `on: [ban]` and `whose: own`"},
		{"bad: two hooks of a name", "hooks: [{name: a, on: [ban], exec: [/a]}, {name: a, on: [ban], exec: [/b]}]\n", `"a" is the name of two hooks`},
		{"bad: too many hooks", "hooks: [" + strings.Repeat("{name: a, on: [ban], exec: [/a]},", MaxHooks+1) + "]\n", "hooks: has 17 items, write at most 16"},
		{"bad: level", "log: {level: loud}\n", `log.level: "loud" is not known, write debug or info or warn or error`},
		{"bad: format", "log: {format: xml}\n", "write text or json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(c.in), dir)
			check(t, err, c.err)
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "f.yaml:") {
					t.Fatalf("no file and line in %q", line)
				}
			}
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Key == "" {
				t.Fatalf("no *Error with a line and a key: %#v", err)
			}
		})
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	_, err := Parse("f.yaml", []byte(`bans:
  for: soon
  quorum: 99
allow: [192.0.2.1/24, x]
colour: red
name: ""
`), dir)
	want := []string{
		`f.yaml:2: bans.for: "soon" is not a length of time, `,
		`f.yaml:3: bans.quorum: 99 is out of bounds, `,
		`f.yaml:4: allow: "192.0.2.1/24" has host bits set, `,
		`f.yaml:4: allow: "x" is not an address, `,
		`f.yaml:5: colour: unknown key, `,
	}
	if err == nil {
		t.Fatal("no error")
	}
	got := strings.Split(err.Error(), "\n")
	if len(got) != len(want) {
		t.Fatalf("got %d errors, want %d:\n%v", len(got), len(want), err)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("error %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestErrorsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range MaxErrors + 7 {
		fmt.Fprintf(&b, "k%d: v\n", i)
	}
	_, err := Parse("f.yaml", []byte(b.String()), dir)
	check(t, err, "f.yaml: 7 more errors")
	if n := strings.Count(err.Error(), "\n"); n != MaxErrors {
		t.Fatalf("%d errors, want %d and one that counts the rest", n, MaxErrors)
	}
}
