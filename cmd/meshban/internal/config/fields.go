package config

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// field is a key of the file and its value in a Config.
type field struct {
	key   string // dotted
	about string // comment in a rendered file
	value
}

// fields returns every key of the file, in file order, with its value in c. A key comes after those that its default
// depends on.
func (c *Config) fields() []field {
	addrPort := func(at *netip.AddrPort, port func() uint16) value {
		return setting[netip.AddrPort]{at, optional(func(s string) (netip.AddrPort, error) { return ParseAddrPort(s, port()) }), formatAddrPort}
	}
	noPort := func() uint16 { return 0 }
	lineLength := func(d time.Duration) string {
		if d == c.Bans.For {
			return `""`
		}
		return FormatDuration(d)
	}
	return []field{
		{"name", "this node's name, for people", text(&c.Name, ParseName)},
		{"bind", "where the mesh listens, UDP and TCP", setting[netip.AddrPort]{&c.Bind, word(func(s string) (netip.AddrPort, error) { return ParseAddrPort(s, DefaultPort) }), formatAddrPort}},
		{"advertise", "where the other nodes reach this one", addrPort(&c.Advertise, func() uint16 { return c.Bind.Port() })},
		{"join", "nodes to join, HOST or HOST:PORT", list(&c.Join, MaxJoin, item(ParseJoin), yamlString, dashes)},

		{"bans.for", "length of a ban where none is given", length(&c.Bans.For, MinFor, MaxMaxFor)},
		{"bans.max_for", "the longest ban taken from anyone", length(&c.Bans.MaxFor, MinFor, MaxMaxFor)},
		{"bans.widest_ipv4", "widest IPv4 prefix taken from a peer, in bits", number(&c.Bans.MinPrefix4, MinWidest4, MaxWidest4)},
		{"bans.widest_ipv6", "widest IPv6 prefix taken from a peer, in bits", number(&c.Bans.MinPrefix6, MinWidest6, MaxWidest6)},
		{"bans.quorum", "nodes that must have seen an attacker", quorum(&c.Bans.Quorum)},
		{"bans.quorum_by_source", "the same for bans of some sources", list(&c.Bans.BySource, MaxSources, quorumByKeys.read, quorumByKeys.format, "write ["+strings.TrimPrefix(formBySource, "write ")+"]")},

		{"escalation.factor", "by how much each former offence makes a ban longer", number(&c.Escalation.Factor, MinFactor, MaxFactor)},
		{"escalation.memory", "how long after its end an offence counts", length(&c.Escalation.Memory, MinFor, MaxMaxFor)},

		{"peers.rate", "new bans a minute taken from one peer", number(&c.Peers.Rate, MinAllowance, MaxAllowance)},
		{"peers.burst", "new bans at once taken from one peer", number(&c.Peers.Burst, MinAllowance, MaxAllowance)},
		{"peers.imports", "imported bans an hour taken from one peer", number(&c.Peers.Imports, 0, MaxAllowance)},
		{"peers.active", "bans in force of one peer", number(&c.Peers.Active, MinAllowance, MaxAllowance)},
		{"peers.max_for", "the longest ban taken from a peer", length(&c.Peers.MaxFor, MinFor, MaxMaxFor)},
		{"peers.unban_any", "take unbans and allows from peers", boolean(&c.Peers.UnbanAny)},

		{"breaker.rate", "new bans a minute taken from all peers together", number(&c.Breaker.Rate, MinAllowance, MaxAllowance)},
		{"breaker.burst", "new bans at once taken from all peers together", number(&c.Breaker.Burst, MinAllowance, MaxAllowance)},
		{"breaker.imports", "imported bans an hour taken from all peers together", number(&c.Breaker.Imports, 0, MaxAllowance)},

		{"lines.file", "the file that other programs append their bans to", text(&c.Lines.File, asWritten)},
		{"lines.emit", "write a line for each ban that arrives from the mesh", boolean(&c.Lines.Emit)},
		{"lines.ports", "ban the address on all ports, or on those that the line names", choice(&c.Lines.Ports, PortsAll, PortsAsWritten)},
		{"lines.for", "length of a ban whose line does not say one", setting[time.Duration]{&c.Lines.For, optional(within(MinFor, MaxMaxFor)), lineLength}},

		{"fail2ban.unban", "have fail2ban let go of what is unbanned in the mesh", boolean(&c.Fail2ban.Unban)},

		{"firewall.backends", "auto, or which ways into the kernel to try, in this order", backends(&c.Firewall.Backends)},
		{"firewall.outbound", "drop or allow our own connections to a banned address", choice(&c.Firewall.Outbound, OutboundDrop, OutboundAllow)},
		{"firewall.counters", "count packets for each ban", boolean(&c.Firewall.Counters)},
		{"firewall.check", "how often the rules in the kernel are checked", length(&c.Firewall.Check, MinCheck, MaxCheck)},

		{"control.read_group", "the group that may look, by the control socket", optionalText(&c.Control.ReadGroup, parseGroup)},
		{"control.write_group", "the group that may look and change, by the control socket", optionalText(&c.Control.WriteGroup, parseGroup)},

		{"allow", "never banned: addresses, CIDRs and names", list(&c.Allow, MaxAllow, item(parseAllow), formatAllow, dashes)},
		{"metrics", "where Prometheus reads this node's metrics", addrPort(&c.Metrics, noPort)},
		{"files", "lists for other programs, written below feeds/ in the state folder", list(&c.Files, MaxFiles, fileKeys.read, fileKeys.format, "write [{name: nginx.conf, format: nginx}]")},

		{"api.listen", "where bouncers, routers and scripts read and send bans", addrPort(&c.API.Listen, noPort)},
		{"api.certificate", "the certificate that it shows, a PEM file", optionalText(&c.API.Certificate, parsePath)},
		{"api.key", "the key of that certificate, a PEM file", optionalText(&c.API.Key, parsePath)},
		{"api.hold", "how long a bouncer's request waits for a change", length(&c.API.Hold, MinHold, MaxHold)},

		{"hooks", "who is told of what", list(&c.Hooks, MaxHooks, hookKeys.read, hookKeys.format, "write ["+strings.TrimPrefix(formHook, "write ")+"]")},

		{"log.level", "debug, info, warn or error",
			choice(&c.Log.Level, slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError)},
		{"log.format", "text or json", choice(&c.Log.Format, LogText, LogJSON)},
	}
}

// read sets the value of f to n.
func (d *decoder) read(f field, n *yaml.Node) {
	if !d.plain(f.key, n) {
		return
	}
	if isNull(n) {
		if f.String() != emptyList { // for a list, a key without a value means the empty list
			d.fail(n.Line, f.key, "has no value", "write one or delete the line")
		}
		return
	}
	for _, err := range unjoin(f.UnmarshalYAML(n)) {
		e, line := asError(err), n.Line
		if e.Line > 0 {
			line = e.Line
		}
		d.fail(line, f.key, strings.TrimPrefix(e.Key+" "+e.Problem, " "), e.Remedy)
	}
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
