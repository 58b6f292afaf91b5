package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The Parse functions in this file parse one value from the file or the command line. Their errors are *Error without
// File, Line and Key: the problem and what to write instead.

func bad(problem, remedy string) *Error { return &Error{Problem: problem, Remedy: remedy} }

// maxQuoted is the most bytes of a wrong value that an error repeats.
const maxQuoted = 80

func quote(s string) string {
	if len(s) > maxQuoted {
		s = s[:maxQuoted] + "..."
	}
	return strconv.Quote(s)
}

// ParsePrefix parses an address or a CIDR. A single address becomes a prefix of full length; 4-in-6 is unmapped. Host
// names, zones, and CIDRs with host bits set are errors.
func ParsePrefix(s string) (netip.Prefix, error) {
	const form = "write an address or a CIDR such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/64"
	text, bits, cidr := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Prefix{}, bad(quote(s)+" is not an address", form)
	case addr.Zone() != "":
		return netip.Prefix{}, bad(quote(s)+" has a zone", "write "+addr.WithZone("").String())
	}
	if !cidr {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if addr.Is4() && net.ParseIP(bits).To4() != nil {
		return netip.Prefix{}, maskError(s, addr, bits)
	}
	n, err := strconv.Atoi(bits)
	if err != nil || n < 0 || n > addr.BitLen() || bits != strconv.Itoa(n) {
		return netip.Prefix{}, bad(fmt.Sprintf("%s has a bad prefix length", quote(s)),
			fmt.Sprintf("write a length of 0 to %d after the slash", addr.BitLen()))
	}
	if addr.Is4In6() {
		if n < 96 {
			return netip.Prefix{}, bad(quote(s)+" mixes IPv4 and IPv6", "write the IPv4 CIDR by itself")
		}
		addr, n = addr.Unmap(), n-96
	}
	p := netip.PrefixFrom(addr, n)
	if m := p.Masked(); m != p {
		return netip.Prefix{}, bad(quote(s)+" has host bits set",
			fmt.Sprintf("write %s for the network or %s for the one address", m, addr))
	}
	return p, nil
}

// maskError suggests the CIDR for an address with a netmask, such as 192.0.2.0/255.255.255.0.
func maskError(s string, addr netip.Addr, mask string) error {
	ones, size := net.IPMask(net.ParseIP(mask).To4()).Size()
	if size == 0 {
		return bad(quote(s)+" has a mask with holes", "write a prefix length of 0 to 32 after the slash")
	}
	return bad(quote(s)+" has a netmask", "write "+netip.PrefixFrom(addr, ones).Masked().String())
}

// ParseAddrPort parses an address and port such as 192.0.2.7:7946 or [2001:db8::7]:7946. If s has no port, port is
// used; if port is 0, s must have one. 4-in-6 is unmapped. Host names and zones are errors.
func ParseAddrPort(s string, port uint16) (netip.AddrPort, error) {
	form := "write ADDRESS:PORT such as 192.0.2.7:7946 or [2001:db8::7]:7946"
	if port == 0 { // not a port of the mesh
		form = "write ADDRESS:PORT such as 127.0.0.1:9100 or [::1]:9100"
	}
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		switch {
		case addr.Zone() != "":
			return netip.AddrPort{}, bad(quote(s)+" has a zone", form)
		case port == 0:
			return netip.AddrPort{}, bad(quote(s)+" has no port", form)
		}
		return netip.AddrPortFrom(addr.Unmap(), port), nil
	}
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, bad(quote(s)+" is not an address and port", form)
	}
	if host == "" {
		return netip.AddrPort{}, bad(quote(s)+" has no address",
			fmt.Sprintf("write 0.0.0.0:%s, or [::]:%[1]s for IPv6 and IPv4", portText))
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return netip.AddrPort{}, bad(quote(host)+" is not an address", form)
	case addr.Zone() != "":
		return netip.AddrPort{}, bad(quote(s)+" has a zone", form)
	}
	n, err := parsePort(portText)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addr.Unmap(), n), nil
}

// parsePort parses 0..65535 in decimal.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || s != strconv.FormatUint(n, 10) {
		return 0, bad(quote(s)+" is not a port", "write a number of 1 to 65535")
	}
	return uint16(n), nil
}

// ParseJoin parses a node to join, host[:port], and returns host:port. The host is an address, or a name that the
// mesh resolves later. The default port is DefaultPort.
func ParseJoin(s string) (string, error) {
	const form = "write HOST or HOST:PORT such as web1.example.net, 192.0.2.7:7946 or [2001:db8::7]:7946"
	if ap, err := ParseAddrPort(s, DefaultPort); err == nil {
		switch {
		case ap.Port() == 0:
			return "", bad(quote(s)+" has port 0", "write a number of 1 to 65535")
		case ap.Addr().IsUnspecified(), ap.Addr().IsMulticast():
			return "", bad(quote(s)+" cannot be the address of a node", form)
		}
		return ap.String(), nil
	}
	host, port := s, uint16(DefaultPort)
	if h, p, err := net.SplitHostPort(s); err == nil {
		n, err := parsePort(p)
		if err != nil {
			return "", err
		}
		if n == 0 {
			return "", bad(quote(s)+" has port 0", "write a number of 1 to 65535")
		}
		host, port = h, n
	}
	if !hostOK(host) {
		return "", bad(quote(s)+" is not a host", form)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), nil
}

// hostOK reports whether host is a host name: labels of letters, digits, - and _, not only digits and dots, which
// would be a wrong address.
func hostOK(host string) bool {
	if host == "" || len(host) > MaxHost || strings.Trim(host, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if r == '.' || !nameRune(r) {
				return false
			}
		}
	}
	return true
}

// ParseBackends parses a comma-separated list of firewall backends, in the order of trial. "auto" alone stands for
// all of Backends.
func ParseBackends(s string) ([]string, error) {
	return checkBackends(strings.Split(strings.ReplaceAll(s, " ", ""), ","))
}

func checkBackends(list []string) ([]string, error) {
	const form = "write auto, or a list out of ipset, nftables, iptables, none"
	if slices.Equal(list, []string{"auto"}) {
		return Backends(), nil
	}
	if len(list) == 0 {
		return nil, bad("names no backend", form)
	}
	for i, name := range list {
		switch {
		case name == "auto":
			return nil, bad(`"auto" stands for the whole list`, "write it alone or omit it")
		case !slices.Contains(Backends(), name):
			return nil, bad(quote(name)+" is not a backend", form)
		case slices.Contains(list[:i], name):
			return nil, bad(quote(name)+" is repeated", "write each backend once")
		case name == "none" && i < len(list)-1:
			return nil, bad(`what follows "none" is never tried`, `write "none" last`)
		}
	}
	return slices.Clone(list), nil
}

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// lengthForm matches every string: weeks, days and the rest.
var lengthForm = regexp.MustCompile(`(?s)^(?:([0-9.]+)w)?(?:([0-9.]+)d)?(.*)$`)

// ParseDuration parses a positive duration: Go's format (90s, 1h30m), optionally after weeks and days: 7d, 7d12h, 2w,
// 1.5d.
func ParseDuration(s string) (time.Duration, error) {
	const form = "write a length such as 90s, 30m, 12h or 7d12h"
	if n, err := strconv.ParseFloat(s, 64); err == nil && n > 0 && n < float64(MaxDuration/time.Minute) && strings.Trim(s, "0123456789.") == "" {
		return 0, bad(quote(s)+" has no unit", fmt.Sprintf("write %ss for seconds or %[1]sm for minutes", s))
	}
	wrong, tooLong := bad(quote(s)+" is not a length of time", form), bad(quote(s)+" is too long", form)
	m := lengthForm.FindStringSubmatch(s)
	var total time.Duration
	for i, unit := range []time.Duration{week, day} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.ParseFloat(m[i+1], 64)
		if err != nil {
			return 0, wrong
		}
		if n > float64(MaxDuration/unit) {
			return 0, tooLong
		}
		total += time.Duration(n * float64(unit))
	}
	if rest := m[3]; rest != "" || s == "" {
		d, err := time.ParseDuration(rest)
		switch {
		case err != nil, strings.HasPrefix(rest, "+"):
			return 0, wrong
		case d < 0:
			return 0, bad(quote(s)+" is negative", form)
		case d > MaxDuration:
			return 0, tooLong
		}
		total += d
	}
	if total <= 0 {
		return 0, bad(quote(s)+" is zero", form)
	}
	return total, nil
}

// MaxDuration bounds each part that ParseDuration accepts; each use has a narrower bound.
const MaxDuration = 3650 * day

// FormatDuration formats d for ParseDuration, days first and without zero parts: 30m, 7d12h.
func FormatDuration(d time.Duration) string {
	if d < 0 {
		return "-" + FormatDuration(-d)
	}
	var b strings.Builder
	if days := d / day; days > 0 {
		fmt.Fprintf(&b, "%dd", days)
		d -= days * day
	}
	for _, unit := range []struct {
		name   string
		length time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}} {
		if n := d / unit.length; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, unit.name)
			d -= n * unit.length
		}
	}
	if d > 0 || b.Len() == 0 {
		b.WriteString(d.String()) // seconds with a fraction, or ms, us, ns
	}
	return b.String()
}
