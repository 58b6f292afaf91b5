package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// field is one key of the file, with its reader and writer.
type field struct {
	key   string // dotted
	about string // comment in a rendered file
	list  bool   // a key without a value is an empty list
	read  func(n *yaml.Node, c *Config) error
	text  func(c Config) string // as YAML; `""` if the default depends on the machine or on another key
}

// fields has every key, in file order. A key comes after those that its default depends on.
var fields = []field{
	{key: "name", about: "this node's name, for people",
		read: textValue(func(c *Config) *string { return &c.Name }),
		text: func(c Config) string { return yamlString(c.Name) }},
	{key: "bind", about: "where the mesh listens, UDP and TCP",
		read: scalar(func(s string, c *Config) error { return set(&c.Bind)(ParseAddrPort(s, DefaultPort)) }),
		text: func(c Config) string { return yamlAddrPort(c.Bind) }},
	{key: "advertise", about: "where the other nodes reach this one",
		read: optional(func(s string, c *Config) error {
			c.Advertise = netip.AddrPort{}
			if s == "" {
				return nil
			}
			return set(&c.Advertise)(ParseAddrPort(s, c.Bind.Port()))
		}),
		text: func(c Config) string { return yamlAddrPort(c.Advertise) }},
	{key: "join", about: "nodes to join, HOST or HOST:PORT", list: true,
		read: items(MaxJoin, ParseJoin, func(c *Config) *[]string { return &c.Join }),
		text: func(c Config) string { return yamlList(c.Join) }},

	{key: "bans.for", about: "length of a ban where none is given",
		read: scalar(func(s string, c *Config) error { return set(&c.Bans.For)(ParseDuration(s)) }),
		text: func(c Config) string { return FormatDuration(c.Bans.For) }},
	{key: "bans.max_for", about: "the longest ban taken from anyone",
		read: scalar(func(s string, c *Config) error { return set(&c.Bans.MaxFor)(ParseDuration(s)) }),
		text: func(c Config) string { return FormatDuration(c.Bans.MaxFor) }},
	{key: "bans.widest_ipv4", about: "widest IPv4 prefix taken from a peer, in bits",
		read: number(func(c *Config) *int { return &c.Bans.MinPrefix4 }),
		text: func(c Config) string { return strconv.Itoa(c.Bans.MinPrefix4) }},
	{key: "bans.widest_ipv6", about: "widest IPv6 prefix taken from a peer, in bits",
		read: number(func(c *Config) *int { return &c.Bans.MinPrefix6 }),
		text: func(c Config) string { return strconv.Itoa(c.Bans.MinPrefix6) }},
	{key: "bans.quorum", about: "nodes that must have seen an attacker",
		read: func(n *yaml.Node, c *Config) error {
			if n.Kind != yaml.MappingNode {
				return number(func(c *Config) *int { return &c.Bans.Quorum.Origins })(n, c)
			}
			q, err := readQuorum(n, false)
			return set(&c.Bans.Quorum)(q.Quorum, err)
		},
		text: func(c Config) string {
			if c.Bans.Quorum.Within == 0 {
				return strconv.Itoa(c.Bans.Quorum.Origins)
			}
			return "{" + c.Bans.Quorum.yaml() + "}"
		}},
	{key: "bans.quorum_by_source", about: "the same for bans of some sources", list: true,
		read: readQuorums,
		text: func(c Config) string {
			if len(c.Bans.BySource) == 0 {
				return "[]"
			}
			var b strings.Builder
			for _, q := range c.Bans.BySource {
				b.WriteString("\n    - {source: " + yamlString(q.Source) + ", " + q.yaml() + "}")
			}
			return b.String()
		}},

	numberField("escalation.factor", "by how much each former offence makes a ban longer", func(c *Config) *int { return &c.Escalation.Factor }),
	{key: "escalation.memory", about: "how long after its end an offence counts",
		read: scalar(func(s string, c *Config) error { return set(&c.Escalation.Memory)(ParseDuration(s)) }),
		text: func(c Config) string { return FormatDuration(c.Escalation.Memory) }},

	numberField("peers.rate", "new bans a minute taken from one peer", func(c *Config) *int { return &c.Peers.Rate }),
	numberField("peers.burst", "new bans at once taken from one peer", func(c *Config) *int { return &c.Peers.Burst }),
	numberField("peers.imports", "imported bans an hour taken from one peer", func(c *Config) *int { return &c.Peers.Imports }),
	numberField("peers.active", "bans in force of one peer", func(c *Config) *int { return &c.Peers.Active }),
	{key: "peers.max_for", about: "the longest ban taken from a peer",
		read: scalar(func(s string, c *Config) error { return set(&c.Peers.MaxFor)(ParseDuration(s)) }),
		text: func(c Config) string { return FormatDuration(c.Peers.MaxFor) }},
	{key: "peers.unban_any", about: "take unbans and allows from peers",
		read: boolean(func(c *Config) *bool { return &c.Peers.UnbanAny }),
		text: func(c Config) string { return strconv.FormatBool(c.Peers.UnbanAny) }},

	numberField("breaker.rate", "new bans a minute taken from all peers together", func(c *Config) *int { return &c.Breaker.Rate }),
	numberField("breaker.burst", "new bans at once taken from all peers together", func(c *Config) *int { return &c.Breaker.Burst }),
	numberField("breaker.imports", "imported bans an hour taken from all peers together", func(c *Config) *int { return &c.Breaker.Imports }),

	{key: "lines.file", about: "the file that other programs append their bans to",
		read: textValue(func(c *Config) *string { return &c.Lines.File }),
		text: func(c Config) string { return yamlString(c.Lines.File) }},
	{key: "lines.emit", about: "write a line for each ban that arrives from the mesh",
		read: boolean(func(c *Config) *bool { return &c.Lines.Emit }),
		text: func(c Config) string { return strconv.FormatBool(c.Lines.Emit) }},
	{key: "lines.ports", about: "ban the address on all ports, or on those that the line names",
		read: oneOf(func(c *Config) *PortsMode { return &c.Lines.Ports }, PortsAll, PortsAsWritten),
		text: func(c Config) string { return string(c.Lines.Ports) }},
	{key: "lines.for", about: "length of a ban whose line does not say one",
		read: optional(func(s string, c *Config) error {
			if s == "" {
				return nil
			}
			return set(&c.Lines.For)(ParseDuration(s))
		}),
		text: func(c Config) string {
			if c.Lines.For == c.Bans.For {
				return `""`
			}
			return FormatDuration(c.Lines.For)
		}},

	{key: "fail2ban.unban", about: "have fail2ban let go of what is unbanned in the mesh",
		read: boolean(func(c *Config) *bool { return &c.Fail2ban.Unban }),
		text: func(c Config) string { return strconv.FormatBool(c.Fail2ban.Unban) }},

	{key: "firewall.backends", about: "auto, or which ways into the kernel to try, in this order",
		read: readBackends,
		text: func(c Config) string {
			if slices.Equal(c.Firewall.Backends, Backends()) {
				return "auto"
			}
			return "[" + strings.Join(c.Firewall.Backends, ", ") + "]"
		}},
	{key: "firewall.outbound", about: "drop or allow our own connections to a banned address",
		read: oneOf(func(c *Config) *Outbound { return &c.Firewall.Outbound }, OutboundDrop, OutboundAllow),
		text: func(c Config) string { return string(c.Firewall.Outbound) }},
	{key: "firewall.check", about: "how often the rules in the kernel are checked",
		read: scalar(func(s string, c *Config) error {
			d, err := ParseDuration(s)
			if err != nil { // most durations that it suggests are too long here
				err = bad(asError(err).Problem, "write "+FormatDuration(MinCheck)+" to "+FormatDuration(MaxCheck))
			}
			return set(&c.Firewall.Check)(d, err)
		}),
		text: func(c Config) string { return FormatDuration(c.Firewall.Check) }},

	{key: "control.read_group", about: "the group that may look, by the control socket",
		read: optional(func(s string, c *Config) error { c.Control.ReadGroup = s; return nil }),
		text: func(c Config) string { return yamlString(c.Control.ReadGroup) }},
	{key: "control.write_group", about: "the group that may look and change, by the control socket",
		read: optional(func(s string, c *Config) error { c.Control.WriteGroup = s; return nil }),
		text: func(c Config) string { return yamlString(c.Control.WriteGroup) }},

	{key: "allow", about: "never banned: addresses and CIDRs", list: true,
		read: items(MaxAllow, parseAllow, func(c *Config) *[]netip.Prefix { return &c.Allow }),
		text: func(c Config) string { return yamlList(prefixTexts(c.Allow)) }},
	{key: "metrics", about: "where Prometheus reads this node's metrics",
		read: optional(func(s string, c *Config) error {
			c.Metrics = netip.AddrPort{}
			if s == "" {
				return nil
			}
			return set(&c.Metrics)(ParseAddrPort(s, 0))
		}),
		text: func(c Config) string { return yamlAddrPort(c.Metrics) }},

	{key: "log.level", about: "debug, info, warn or error",
		read: scalar(func(s string, c *Config) error { return set(&c.Log.Level)(parseLevel(s)) }),
		text: func(c Config) string { return strings.ToLower(c.Log.Level.String()) }},
	{key: "log.format", about: "text or json",
		read: oneOf(func(c *Config) *LogFormat { return &c.Log.Format }, LogText, LogJSON),
		text: func(c Config) string { return string(c.Log.Format) }},
}

// read sets the field f of c to n.
func (d *decoder) read(f field, n *yaml.Node, c *Config) {
	if !d.plain(f.key, n) {
		return
	}
	if isNull(n) {
		if !f.list {
			d.fail(n.Line, f.key, "has no value", "write one or delete the line")
		}
		return
	}
	for _, err := range unjoin(f.read(n, c)) {
		e, line := asError(err), n.Line
		if e.Line > 0 {
			line = e.Line
		}
		d.fail(line, f.key, e.Problem, e.Remedy)
	}
}

// scalar reads the text of a scalar, whatever YAML takes it for: `for: 30` must fail as a duration without a unit.
func scalar(parse func(s string, c *Config) error) func(*yaml.Node, *Config) error {
	return func(n *yaml.Node, c *Config) error {
		if n.Kind != yaml.ScalarNode {
			return bad("is "+kind(n), "write a single value")
		}
		if n.Value == "" {
			return bad("is empty", "write a value or delete the line")
		}
		return parse(n.Value, c)
	}
}

// optional is scalar, but "" stands for the default.
func optional(parse func(s string, c *Config) error) func(*yaml.Node, *Config) error {
	return func(n *yaml.Node, c *Config) error {
		if n.Kind == yaml.ScalarNode && n.Value == "" {
			return parse("", c)
		}
		return scalar(parse)(n, c)
	}
}

// textValue reads text unchanged; "" keeps the default.
func textValue(at func(*Config) *string) func(*yaml.Node, *Config) error {
	return func(n *yaml.Node, c *Config) error {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
			return bad("is "+kind(n)+", not text", "write text, in quotes where it looks like something else")
		}
		if n.Value != "" {
			*at(c) = n.Value
		}
		return nil
	}
}

func boolean(at func(*Config) *bool) func(*yaml.Node, *Config) error {
	return func(n *yaml.Node, c *Config) error {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			return bad("is "+describe(n), "write true or false, without quotes")
		}
		*at(c) = strings.EqualFold(n.Value, "true")
		return nil
	}
}

// numberField returns a key whose value is an integer.
func numberField(key, about string, at func(*Config) *int) field {
	return field{key: key, about: about, read: number(at), text: func(c Config) string { return strconv.Itoa(*at(&c)) }}
}

func number(at func(*Config) *int) func(*yaml.Node, *Config) error {
	return func(n *yaml.Node, c *Config) error {
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
			return bad("is "+describe(n)+", not a whole number", "write digits without quotes")
		}
		*at(c) = v
		return nil
	}
}

func oneOf[T ~string](at func(*Config) *T, words ...T) func(*yaml.Node, *Config) error {
	return scalar(func(s string, c *Config) error {
		*at(c) = T(s)
		if !slices.Contains(words, T(s)) {
			return notOneOf(s, words...)
		}
		return nil
	})
}

func notOneOf[T ~string](s string, words ...T) *Error {
	var all []string
	for _, w := range words {
		all = append(all, string(w))
	}
	return bad(quote(s)+" is not known", "write "+strings.Join(all, " or "))
}

// items reads a list of at most most items; duplicates are dropped.
func items[T comparable](most int, parse func(string) (T, error), at func(*Config) *[]T) func(*yaml.Node, *Config) error {
	return func(n *yaml.Node, c *Config) error {
		if n.Kind != yaml.SequenceNode {
			remedy := "write each item on its own line after a dash"
			if _, err := parse(n.Value); n.Kind == yaml.ScalarNode && len(n.Value) <= maxQuoted && err == nil {
				remedy = "write [" + strconv.Quote(n.Value) + "]"
			}
			return bad("is "+describe(n)+", not a list", remedy)
		}
		if len(n.Content) > most {
			return bad(fmt.Sprintf("has %d items", len(n.Content)), fmt.Sprintf("write at most %d", most))
		}
		var errs []error
		seen := make(map[T]bool, len(n.Content))
		for _, item := range n.Content {
			v, err := parseItem(item, parse)
			if err != nil {
				e := *asError(err)
				e.Line = item.Line
				errs = append(errs, &e)
				continue
			}
			if !seen[v] {
				seen[v] = true
				*at(c) = append(*at(c), v)
			}
		}
		return errors.Join(errs...)
	}
}

func parseItem[T any](n *yaml.Node, parse func(string) (T, error)) (v T, err error) {
	if n.Kind != yaml.ScalarNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return v, bad("has "+kind(n)+" in the list", "write a plain value")
	}
	if n.Value == "" || isNull(n) {
		return v, bad("has an empty item", "write a value or delete it")
	}
	return parse(n.Value)
}

func readBackends(n *yaml.Node, c *Config) error {
	if n.Kind == yaml.SequenceNode {
		var list []string
		for _, item := range n.Content {
			s, err := parseItem(item, func(s string) (string, error) { return s, nil })
			if err != nil {
				return err
			}
			list = append(list, s)
		}
		return set(&c.Firewall.Backends)(checkBackends(list))
	}
	return scalar(func(s string, c *Config) error { return set(&c.Firewall.Backends)(ParseBackends(s)) })(n, c)
}

// parseAllow parses an entry of allow.
func parseAllow(s string) (netip.Prefix, error) {
	p, err := ParsePrefix(s)
	if err == nil && p.Bits() == 0 {
		return p, bad(quote(s)+" covers every address, so nothing would be banned",
			"write the networks that you mean, or `backends: none` under firewall to block nothing")
	}
	return p, err
}

func parseLevel(s string) (slog.Level, error) {
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	for _, l := range levels {
		if s == strings.ToLower(l.String()) {
			return l, nil
		}
	}
	return 0, notOneOf(s, "debug", "info", "warn", "error")
}

// set stores a parsed value if there is no error.
func set[T any](at *T) func(T, error) error {
	return func(v T, err error) error {
		if err == nil {
			*at = v
		}
		return err
	}
}

// describe returns the value of a scalar, or else the kind of n.
func describe(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return quote(n.Value)
	}
	return kind(n)
}

func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Problem: err.Error()}
}

func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}
