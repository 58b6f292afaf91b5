package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// problem is an Error whose line is not known yet.
type problem struct {
	Error
	with string // the other key, if two conflict
}

// Validate checks whether the values fit together, for a Config that flags changed after Parse: each value by itself is
// checked where it is read. The error is one *Error or several joined.
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

func (c Config) problems() []problem {
	var k checker
	c.checkSockets(&k)
	c.checkAllow(&k)
	c.checkAdvertise(&k)
	c.checkBans(&k)
	c.checkLines(&k)
	checkNames(&k, "files", c.Files, func(f File) string { return f.Name })
	checkNames(&k, "hooks", c.Hooks, func(h Hook) string { return h.Name })
	return k.found
}

// checkNames reports names that two items of a list have.
func checkNames[T any](k *checker, key string, list []T, name func(T) string) {
	seen := map[string]bool{}
	for _, item := range list {
		if n := name(item); seen[n] {
			k.fail(key, "", quote(n)+" is the name of two "+key, "write another name")
		}
		seen[name(item)] = true
	}
}

// ParseName returns s if it can be the name of a node.
func ParseName(s string) (string, error) {
	if s == "" || len(s) > MaxName || !named(s) {
		return "", bad(quote(s)+" is not a name", fmt.Sprintf("write 1 to %d letters, digits, dots, dashes or underscores", MaxName))
	}
	return s, nil
}

func parseGroup(s string) (string, error) {
	if len(s) > MaxGroup || !named(s) || strings.HasPrefix(s, "-") {
		return "", bad(quote(s)+" is not a group", "write the name or the number of a group of this machine")
	}
	return s, nil
}

// named reports whether s has only the characters of a name.
func named(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return !nameRune(r) }) }

// isName reports whether an entry of allow is a name. Its last label has letters alone, so that no address with a slip is
// one.
func isName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	dot := strings.LastIndexByte(s, '.')
	return dot > 0 && len(s) <= maxHostName && hostOK(s) && len(s) > dot+2 &&
		!strings.ContainsFunc(s[dot+1:], func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
}

// parseAllow parses an entry of allow.
func parseAllow(s string) (Allowed, error) {
	if isName(s) {
		return Allowed{Name: strings.ToLower(strings.TrimSuffix(s, "."))}, nil
	}
	p, err := ParsePrefix(s)
	if err != nil && hostOK(s) {
		return Allowed{}, bad(quote(s)+" is not an address, nor a name whose last label has letters alone", "write an address, a CIDR such as 192.0.2.0/24, or a full name such as office.example.net")
	}
	if err == nil && p.Bits() == 0 {
		return Allowed{}, bad(quote(s)+" covers every address, so nothing would be banned",
			"write the networks that you mean, or `backends: none` under firewall to block nothing")
	}
	return Allowed{Prefix: p}, err
}

// maxHostName bounds a name in allow, in bytes: what DNS allows.
const maxHostName = 253

// checkAllow bounds the names in allow: each is looked up every minute.
func (c Config) checkAllow(k *checker) {
	names := 0
	for _, a := range c.Allow {
		if a.Name != "" {
			names++
		}
	}
	if names > MaxNames {
		k.fail("allow", "", fmt.Sprintf("has %d names", names), fmt.Sprintf("write at most %d, and addresses or CIDRs for the rest", MaxNames))
	}
}

// checkSockets checks where the agent listens.
func (c Config) checkSockets(k *checker) {
	sockets := []struct {
		key string
		at  netip.AddrPort
	}{{"bind", c.Bind}, {"metrics", c.Metrics}, {"api.listen", c.API.Listen}}
	for i, s := range sockets {
		switch a := s.at.Addr(); {
		case i > 0 && s.at == netip.AddrPort{}: // off
			continue
		case !a.IsValid(), a.IsMulticast():
			k.fail(s.key, "", quote(s.at.String())+" is not an address to listen on", "write an address of this machine and a port")
		}
		for _, other := range sockets[:i] {
			if sharesPort(s.at, other.at) {
				k.fail(s.key, other.key, fmt.Sprintf("%s is already used by %s, %s", s.at, other.key, other.at), "write another port")
			}
		}
	}
	if (c.API.Certificate == "") != (c.API.Key == "") {
		missing, there := "api.key", "api.certificate"
		if c.API.Certificate == "" {
			missing, there = there, missing
		}
		k.fail(missing, there, "is missing", "write certificate and key, or neither")
	}
	if l := c.API.Listen; l.IsValid() && !l.Addr().IsLoopback() && c.API.Certificate == "" && c.API.Key == "" {
		k.fail("api.listen", "", fmt.Sprintf("%s is not a loopback address, so keys and bans need TLS", l),
			fmt.Sprintf("write certificate and key, the paths of PEM files, under api, or listen: 127.0.0.1:%d", l.Port()))
	}
}

// sharesPort reports whether no two sockets can listen on both.
func sharesPort(a, b netip.AddrPort) bool {
	return a.Port() != 0 && a.Port() == b.Port() && (a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}

func (c Config) checkAdvertise(k *checker) {
	a := c.Advertise.Addr()
	switch {
	case c.Advertise == netip.AddrPort{}: // memberlist finds out
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast():
		k.fail("advertise", "", quote(c.Advertise.String())+" is not an address where this node can be reached", "write the one that the other nodes see")
	case c.Advertise.Port() == 0:
		k.fail("advertise", "", "has port 0", "write the port that the other nodes see")
	case a.Is6() && c.Bind.Addr().Is4():
		k.fail("advertise", "bind", fmt.Sprintf("%s is IPv6, but bind %s is IPv4", a, c.Bind), fmt.Sprintf("write `bind: \"[::]:%d\"`", c.Bind.Port()))
	case a.Is4() && c.Bind.Addr().Is6() && !c.Bind.Addr().IsUnspecified():
		k.fail("advertise", "bind", fmt.Sprintf("%s is IPv4, but bind %s is IPv6", a, c.Bind), "write two addresses of one family")
	}
}

func (c Config) checkBans(k *checker) {
	if c.Bans.For > c.Bans.MaxFor {
		k.fail("bans.for", "bans.max_for", fmt.Sprintf("%s is longer than max_for, %s", FormatDuration(c.Bans.For), FormatDuration(c.Bans.MaxFor)),
			"write a shorter one or raise max_for")
	}
}

func (c Config) checkLines(k *checker) {
	f := c.Lines.File
	switch {
	case !pathText(f):
		k.fail("lines.file", "", quote(f)+" is not a path", pathForm)
	case !filepath.IsAbs(f):
		k.fail("lines.file", "", quote(f)+" is not an absolute path", "write "+filepath.Join(c.Dir, f))
	case filepath.Clean(f) != f || f == "/":
		k.fail("lines.file", "", quote(f)+" is not the path of a file", "write "+filepath.Join(filepath.Clean(f), LineFileName)+" or the like")
	}
	if c.Lines.For == c.Bans.For {
		return // the check of bans.for reports it
	}
	if c.Lines.For > c.Bans.MaxFor {
		k.fail("lines.for", "bans.max_for", fmt.Sprintf("%s is longer than bans.max_for, %s", FormatDuration(c.Lines.For), FormatDuration(c.Bans.MaxFor)),
			"write a shorter one or raise bans.max_for")
	}
}

// pathForm is the remedy for a text that is not a path.
var pathForm = fmt.Sprintf("write at most %d printable characters", MaxPath)

// pathText reports whether s has only what a path may have.
func pathText(s string) bool {
	return len(s) <= MaxPath && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// parsePath parses the absolute path of a file.
func parsePath(s string) (string, error) {
	switch {
	case !pathText(s):
		return "", bad(quote(s)+" is not a path", pathForm)
	case !filepath.IsAbs(s) || filepath.Clean(s) != s || s == "/":
		return "", bad(quote(s)+" is not the absolute path of a file", "write one such as /etc/ssl/private/meshban.pem")
	}
	return s, nil
}
