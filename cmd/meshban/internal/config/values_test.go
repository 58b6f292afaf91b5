package config

import (
	"strings"
	"testing"
	"time"
)

// check fails unless err contains want; "" = no error.
func check(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatalf("unexpected error: %v", err)
	case want != "" && err == nil:
		t.Fatalf("no error, want one with %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Fatalf("error %q lacks %q", err, want)
	}
}

func TestParsePrefix(t *testing.T) {
	for _, c := range []struct{ name, in, want, err string }{
		{"ok: IPv4", "192.0.2.7", "192.0.2.7/32", ""},
		{"ok: IPv6", "2001:db8::7", "2001:db8::7/128", ""},
		{"ok: CIDR", "192.0.2.0/24", "192.0.2.0/24", ""},
		{"ok: IPv6 CIDR", "2001:db8::/32", "2001:db8::/32", ""},
		{"ok: IPv4 in IPv6", "::ffff:192.0.2.7", "192.0.2.7/32", ""},
		{"ok: IPv4 CIDR in IPv6", "::ffff:192.0.2.0/120", "192.0.2.0/24", ""},
		{"ok: everything", "0.0.0.0/0", "0.0.0.0/0", ""},
		{"bad: host bits", "192.0.2.7/24", "", `"192.0.2.7/24" has host bits set, write 192.0.2.0/24 for the network or 192.0.2.7 for the one address`},
		{"bad: host bits in IPv6", "2001:db8::7/64", "", "write 2001:db8::/64 for the network"},
		{"bad: host bits of IPv4 in IPv6", "::ffff:192.0.2.7/120", "", "write 192.0.2.0/24 for the network or 192.0.2.7"},
		{"bad: IPv4 and IPv6 mixed", "::ffff:192.0.2.0/64", "", "mixes IPv4 and IPv6"},
		{"bad: netmask", "192.0.2.0/255.255.255.0", "", "has a netmask, write 192.0.2.0/24"},
		{"bad: netmask with holes", "192.0.2.0/255.0.255.0", "", "holes"},
		{"bad: prefix too long", "192.0.2.0/33", "", "write a length of 0 to 32"},
		{"bad: prefix too long for IPv6", "2001:db8::/129", "", "write a length of 0 to 128"},
		{"bad: zero in front of the length", "192.0.2.0/024", "", "bad prefix length"},
		{"bad: no length", "192.0.2.0/", "", "bad prefix length"},
		{"bad: negative length", "192.0.2.0/-1", "", "bad prefix length"},
		{"bad: zone", "fe80::1%eth0", "", "has a zone, write fe80::1"},
		{"bad: zone with a length", "fe80::%eth0/64", "", "has a zone"},
		{"bad: host name", "web1.example.net", "", "is not an address"},
		{"bad: octet", "192.0.2.256", "", "is not an address"},
		{"bad: leading zero", "192.0.02.1", "", "is not an address"},
		{"bad: nothing", "", "", "is not an address"},
		{"bad: blank", " 192.0.2.1", "", "is not an address"},
		{"bad: long", strings.Repeat("9", 5000), "", `9..." is not an address`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := ParsePrefix(c.in)
			check(t, err, c.err)
			if err == nil && p.String() != c.want {
				t.Fatalf("got %s, want %s", p, c.want)
			}
		})
	}
}

func TestParseAddrPort(t *testing.T) {
	for _, c := range []struct {
		name, in string
		port     uint16
		want     string
		err      string
	}{
		{"ok: IPv4", "192.0.2.7:80", 0, "192.0.2.7:80", ""},
		{"ok: IPv6", "[2001:db8::7]:80", 0, "[2001:db8::7]:80", ""},
		{"ok: any port", "127.0.0.1:0", 0, "127.0.0.1:0", ""},
		{"ok: without port", "192.0.2.7", 7946, "192.0.2.7:7946", ""},
		{"ok: IPv6 without port", "2001:db8::7", 7946, "[2001:db8::7]:7946", ""},
		{"ok: IPv6 in brackets without port", "[2001:db8::7]", 7946, "[2001:db8::7]:7946", ""},
		{"ok: IPv4 in IPv6", "[::ffff:192.0.2.7]:80", 0, "192.0.2.7:80", ""},
		{"bad: no port", "192.0.2.7", 0, "", "has no port, write ADDRESS:PORT"},
		{"bad: no address", ":7946", 7946, "", "has no address, write 0.0.0.0:7946, or [::]:7946"},
		{"bad: port alone", "7946", 7946, "", "is not an address and port"},
		{"bad: name", "localhost:7946", 0, "", `"localhost" is not an address`},
		{"bad: port too high", "192.0.2.7:65536", 0, "", "is not a port, write a number of 1 to 65535"},
		{"bad: port by name", "192.0.2.7:ssh", 0, "", "is not a port"},
		{"bad: port with a plus", "192.0.2.7:+80", 0, "", "is not a port"},
		{"bad: zone", "[fe80::1%eth0]:80", 0, "", "has a zone"},
		{"bad: zone without port", "fe80::1%eth0", 80, "", "has a zone"},
		{"bad: nothing", "", 80, "", "is not an address and port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ap, err := ParseAddrPort(c.in, c.port)
			check(t, err, c.err)
			if err == nil && ap.String() != c.want {
				t.Fatalf("got %s, want %s", ap, c.want)
			}
		})
	}
}

func TestParseJoin(t *testing.T) {
	for _, c := range []struct{ name, in, want, err string }{
		{"ok: name", "web1.example.net", "web1.example.net:7946", ""},
		{"ok: name and port", "web1:7000", "web1:7000", ""},
		{"ok: full name with its dot", "web1.example.net.", "web1.example.net.:7946", ""},
		{"ok: underscore", "web_1", "web_1:7946", ""},
		{"ok: IPv4", "192.0.2.7", "192.0.2.7:7946", ""},
		{"ok: IPv6", "2001:db8::7", "[2001:db8::7]:7946", ""},
		{"ok: IPv6 and port", "[2001:db8::7]:7000", "[2001:db8::7]:7000", ""},
		{"bad: octet", "192.0.2.256", "", "is not a host"},
		{"bad: number", "7946", "", "is not a host"},
		{"bad: port 0", "web1:0", "", "has port 0"},
		{"bad: port 0 of an address", "192.0.2.7:0", "", "has port 0"},
		{"bad: port by name", "web1:http", "", "is not a port"},
		{"bad: any address", "0.0.0.0", "", "cannot be the address of a node"},
		{"bad: multicast", "224.0.0.1:7946", "", "cannot be the address of a node"},
		{"bad: URL", "http://web1", "", "is not a"},
		{"bad: blank", "web1 web2", "", "is not a host"},
		{"bad: dots", "web1..net", "", "is not a host"},
		{"bad: dash first", "-web1", "", "is not a host"},
		{"bad: empty", "", "", "is not a host"},
		{"bad: label too long", strings.Repeat("a", 64), "", "is not a host"},
		{"bad: name too long", strings.Repeat("a.", 127) + "b", "", "is not a host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseJoin(c.in)
			check(t, err, c.err)
			if err == nil && got != c.want {
				t.Fatalf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestParseBackends(t *testing.T) {
	for _, c := range []struct{ name, in, want, err string }{
		{"ok: auto", "auto", "ipset nftables iptables none", ""},
		{"ok: one", "nftables", "nftables", ""},
		{"ok: order kept", "nftables, ipset,none", "nftables ipset none", ""},
		{"bad: unknown", "pf", "", `"pf" is not a backend, write auto, or a list out of ipset, nftables, iptables, none`},
		{"bad: twice", "ipset,ipset", "", "is repeated"},
		{"bad: auto among others", "ipset,auto", "", "write it alone"},
		{"bad: behind none", "none,ipset", "", `write "none" last`},
		{"bad: empty", "", "", "is not a backend"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseBackends(c.in)
			check(t, err, c.err)
			if err == nil && strings.Join(got, " ") != c.want {
				t.Fatalf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestParseDuration(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     time.Duration
		err      string
	}{
		{"ok: minutes", "30m", 30 * time.Minute, ""},
		{"ok: Go's form", "1h30m15s", 90*time.Minute + 15*time.Second, ""},
		{"ok: milliseconds", "1500ms", 1500 * time.Millisecond, ""},
		{"ok: days", "7d", 7 * day, ""},
		{"ok: days and hours", "7d12h", 7*day + 12*time.Hour, ""},
		{"ok: weeks", "2w1d", 15 * day, ""},
		{"ok: part of a day", "1.5d", 36 * time.Hour, ""},
		{"ok: many hours", "720h", 30 * day, ""},
		{"bad: no unit", "30", 0, `"30" has no unit, write 30s for seconds or 30m for minutes`},
		{"bad: blank", "30 m", 0, "is not a length of time"},
		{"bad: word", "30min", 0, "write a length such as 90s"},
		{"bad: order", "12h7d", 0, "is not a length"},
		{"bad: order of days and weeks", "1d2w", 0, "is not a length"},
		{"bad: months", "1M", 0, "is not a length"},
		{"bad: negative", "-30m", 0, "is negative"},
		{"bad: negative days", "-1d", 0, "is not a length"},
		{"bad: negative within", "1d-30m", 0, "is negative"},
		{"bad: plus", "+30m", 0, "is not a length"},
		{"bad: none", "0s", 0, "is zero"},
		{"bad: too long", "99999d", 0, "is too long"},
		{"bad: too many hours", "999999h", 0, "is too long"},
		{"bad: overflow", "9999999999999999h", 0, "is not a length"},
		{"bad: empty", "", 0, "is not a length"},
		{"bad: unit alone", "d", 0, "is not a length"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseDuration(c.in)
			check(t, err, c.err)
			if got != c.want {
				t.Fatalf("got %s, want %s", got, c.want)
			}
			if err != nil {
				return
			}
			if again, err := ParseDuration(FormatDuration(got)); err != nil || again != got {
				t.Fatalf("%s is written as %s and read as %s, %v", got, FormatDuration(got), again, err)
			}
		})
	}
}

func TestFormatDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"30m":     30 * time.Minute,
		"30d":     720 * time.Hour,
		"7d12h":   180 * time.Hour,
		"1m30s":   90 * time.Second,
		"1h500ms": time.Hour + time.Second/2,
		"0s":      0,
		"-1d":     -day,
	} {
		got := FormatDuration(d)
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
