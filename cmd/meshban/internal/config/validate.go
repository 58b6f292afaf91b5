package config

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// problem is an Error whose line is not known yet.
type problem struct {
	Error
	with string // the other key, if two conflict
}

// Validate checks each value and whether they fit together, for a Config that a flag changed after Parse. The error
// is one *Error or several joined.
func (c Config) Validate() error {
	var errs []error
	for _, p := range c.problems() {
		e := p.Error
		errs = append(errs, &e)
	}
	return errors.Join(errs...)
}

type checker struct{ found []problem }

func (k *checker) fail(key, with, what, remedy string) {
	k.found = append(k.found, problem{Error{Key: key, Problem: what, Remedy: remedy}, with})
}

func (k *checker) length(key string, d, low, high time.Duration) {
	if d < low || d > high {
		k.fail(key, "", FormatDuration(d)+" is out of bounds", fmt.Sprintf("write %s to %s", FormatDuration(low), FormatDuration(high)))
	}
}

func (k *checker) count(key string, n, low, high int) {
	if n < low || n > high {
		k.fail(key, "", fmt.Sprintf("%d is out of bounds", n), fmt.Sprintf("write %d to %d", low, high))
	}
}

func (c Config) problems() []problem {
	var k checker
	c.checkMesh(&k)
	c.checkBans(&k)
	c.checkPeers(&k)
	c.checkLines(&k)
	c.checkFirewall(&k)
	c.checkControl(&k)
	c.checkAllow(&k)
	c.checkMetrics(&k)
	c.checkLog(&k)
	return k.found
}

func (c Config) checkMesh(k *checker) {
	if c.Name == "" || len(c.Name) > MaxName || strings.ContainsFunc(c.Name, func(r rune) bool { return !nameRune(r) }) {
		k.fail("name", "", quote(c.Name)+" is not a name", fmt.Sprintf("write 1 to %d letters, digits, dots, dashes or underscores", MaxName))
	}
	if a := c.Bind.Addr(); !a.IsValid() || a.IsMulticast() || a.Zone() != "" || a.Is4In6() {
		k.fail("bind", "", quote(c.Bind.String())+" is not an address to listen on", "write an address of this machine, or 0.0.0.0:7946, or [::]:7946")
	}
	if c.Advertise.IsValid() {
		a := c.Advertise.Addr()
		switch {
		case a.IsUnspecified(), a.IsMulticast(), a.Zone() != "", a.Is4In6():
			k.fail("advertise", "", quote(c.Advertise.String())+" is not an address where this node can be reached", "write the one that the other nodes see")
		case c.Advertise.Port() == 0:
			k.fail("advertise", "", "has port 0", "write the port that the other nodes see")
		case a.Is6() && c.Bind.Addr().Is4():
			k.fail("advertise", "bind", fmt.Sprintf("%s is IPv6, but bind %s is IPv4", a, c.Bind), fmt.Sprintf("write `bind: \"[::]:%d\"`", c.Bind.Port()))
		case a.Is4() && c.Bind.Addr().Is6() && !c.Bind.Addr().IsUnspecified():
			k.fail("advertise", "bind", fmt.Sprintf("%s is IPv4, but bind %s is IPv6", a, c.Bind), "write two addresses of one family")
		}
	} else if c.Advertise.Port() != 0 {
		k.fail("advertise", "", "has a port but no address", "write ADDRESS:PORT")
	}
	if len(c.Join) > MaxJoin {
		k.fail("join", "", fmt.Sprintf("has %d items", len(c.Join)), fmt.Sprintf("write at most %d", MaxJoin))
	}
	for _, s := range c.Join {
		if full, err := ParseJoin(s); err != nil {
			e := asError(err)
			k.fail("join", "", e.Problem, e.Remedy)
		} else if full != s {
			k.fail("join", "", quote(s)+" is not host:port", "write "+full)
		}
	}
}

func (c Config) checkBans(k *checker) {
	k.length("bans.for", c.Bans.For, MinFor, MaxMaxFor)
	k.length("bans.max_for", c.Bans.MaxFor, MinFor, MaxMaxFor)
	if c.Bans.For > c.Bans.MaxFor {
		k.fail("bans.for", "bans.max_for", fmt.Sprintf("%s is longer than max_for, %s", FormatDuration(c.Bans.For), FormatDuration(c.Bans.MaxFor)),
			"write a shorter one or raise max_for")
	}
	k.count("bans.widest_ipv4", c.Bans.MinPrefix4, MinWidest4, MaxWidest4)
	k.count("bans.widest_ipv6", c.Bans.MinPrefix6, MinWidest6, MaxWidest6)
	c.checkQuorums(k)
	k.count("escalation.factor", c.Escalation.Factor, MinFactor, MaxFactor)
	k.length("escalation.memory", c.Escalation.Memory, MinFor, MaxMaxFor)
}

func (c Config) checkPeers(k *checker) {
	for _, a := range []struct {
		section string
		Allowance
	}{{"peers", c.Peers.Allowance}, {"breaker", c.Breaker}} {
		k.count(a.section+".rate", a.Rate, MinAllowance, MaxAllowance)
		k.count(a.section+".burst", a.Burst, MinAllowance, MaxAllowance)
		k.count(a.section+".imports", a.Imports, 0, MaxAllowance)
	}
	k.count("peers.active", c.Peers.Active, MinAllowance, MaxAllowance)
	k.length("peers.max_for", c.Peers.MaxFor, MinFor, MaxMaxFor)
}

func (c Config) checkLines(k *checker) {
	f := c.Lines.File
	switch {
	case len(f) > MaxPath || !utf8.ValidString(f) || strings.ContainsFunc(f, func(r rune) bool { return !unicode.IsPrint(r) }):
		k.fail("lines.file", "", quote(f)+" is not a path", fmt.Sprintf("write at most %d printable characters", MaxPath))
	case !filepath.IsAbs(f):
		k.fail("lines.file", "", quote(f)+" is not an absolute path", "write "+filepath.Join(c.Dir, f))
	case filepath.Clean(f) != f || f == "/":
		k.fail("lines.file", "", quote(f)+" is not the path of a file", "write "+filepath.Join(filepath.Clean(f), LineFileName)+" or the like")
	}
	if m := c.Lines.Ports; m != PortsAll && m != PortsAsWritten {
		e := notOneOf(string(m), PortsAll, PortsAsWritten)
		k.fail("lines.ports", "", e.Problem, e.Remedy)
	}
	if c.Lines.For == c.Bans.For {
		return // checked there
	}
	k.length("lines.for", c.Lines.For, MinFor, MaxMaxFor)
	if c.Lines.For > c.Bans.MaxFor {
		k.fail("lines.for", "bans.max_for", fmt.Sprintf("%s is longer than bans.max_for, %s", FormatDuration(c.Lines.For), FormatDuration(c.Bans.MaxFor)),
			"write a shorter one or raise bans.max_for")
	}
}

func (c Config) checkFirewall(k *checker) {
	if _, err := checkBackends(c.Firewall.Backends); err != nil {
		e := asError(err)
		k.fail("firewall.backends", "", e.Problem, e.Remedy)
	} else if len(c.Firewall.Backends) == 1 && c.Firewall.Backends[0] == "auto" {
		k.fail("firewall.backends", "", `"auto" is not expanded`, "write "+strings.Join(Backends(), ", "))
	}
	if o := c.Firewall.Outbound; o != OutboundDrop && o != OutboundAllow {
		e := notOneOf(string(o), OutboundDrop, OutboundAllow)
		k.fail("firewall.outbound", "", e.Problem, e.Remedy)
	}
	k.length("firewall.check", c.Firewall.Check, MinCheck, MaxCheck)
}

func (c Config) checkControl(k *checker) {
	for key, group := range map[string]string{"control.read_group": c.Control.ReadGroup, "control.write_group": c.Control.WriteGroup} {
		bad := strings.ContainsFunc(group, func(r rune) bool { return !nameRune(r) })
		if bad || len(group) > MaxGroup || strings.HasPrefix(group, "-") {
			k.fail(key, "", quote(group)+" is not a group", "write the name or the number of a group of this machine")
		}
	}
}

func (c Config) checkAllow(k *checker) {
	if len(c.Allow) > MaxAllow {
		k.fail("allow", "", fmt.Sprintf("has %d items", len(c.Allow)), fmt.Sprintf("write at most %d", MaxAllow))
	}
	for _, p := range c.Allow {
		if q, err := parseAllow(p.String()); err != nil {
			e := asError(err)
			k.fail("allow", "", e.Problem, e.Remedy)
		} else if p != q {
			k.fail("allow", "", quote(p.String())+" is IPv4 in IPv6", "write "+q.String())
		}
	}
}

func (c Config) checkMetrics(k *checker) {
	m := c.Metrics
	if !m.IsValid() {
		if m.Port() != 0 {
			k.fail("metrics", "", "has a port but no address", "write ADDRESS:PORT")
		}
		return
	}
	a, b := m.Addr(), c.Bind.Addr()
	switch {
	case a.IsMulticast(), a.Zone() != "", a.Is4In6():
		k.fail("metrics", "", quote(m.String())+" is not an address to listen on", "write an address of this machine and a port")
	case m.Port() != 0 && m.Port() == c.Bind.Port() && (a == b || a.IsUnspecified() || b.IsUnspecified()):
		k.fail("metrics", "bind", fmt.Sprintf("%s is already used by bind, %s", m, c.Bind), "write another port")
	}
}

func (c Config) checkLog(k *checker) {
	switch c.Log.Level {
	case slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError:
	default:
		k.fail("log.level", "", quote(c.Log.Level.String())+" is not known", "write debug or info or warn or error")
	}
	if f := c.Log.Format; f != LogText && f != LogJSON {
		e := notOneOf(string(f), LogText, LogJSON)
		k.fail("log.format", "", e.Problem, e.Remedy)
	}
}
