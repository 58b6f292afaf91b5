package logsrc

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	v4 := netip.MustParseAddr("192.0.2.7")
	v6 := netip.MustParseAddr("2001:db8::7")
	const front = "<13>Nov 22 11:02:11 root[7]: "
	tests := []struct {
		name, line string
		want       Line
		err        Reason
	}{
		{"ok: bare", "HOST 192.0.2.7 PORT 22", Line{Addr: v4, Ports: "22"}, 0},
		{"ok: line end", "HOST 192.0.2.7 PORT 22\n", Line{Addr: v4, Ports: "22"}, 0},
		{"ok: CRLF and blanks", "\t HOST  192.0.2.7\tPORT 22 \t\r\n", Line{Addr: v4, Ports: "22"}, 0},
		{"ok: a hole before it", "\x00\x00\x00HOST 192.0.2.7 PORT 22\n", Line{Addr: v4, Ports: "22"}, 0},
		{"ok: a hole longer than a line", strings.Repeat("\x00", 9000) + "HOST 192.0.2.7 PORT 22", Line{Addr: v4, Ports: "22"}, 0},
		{"ok: a NUL after it", "HOST 192.0.2.7 PORT 22\x00\n", Line{Addr: v4, Ports: "22"}, 0},
		{"ok: byte order mark", "<13>1 - - su - - - \ufeffHOST 192.0.2.7 PORT 22", Line{Addr: v4, Ports: "22", Tag: "su"}, 0},
		{"ok: tag and pid", front + "HOST 192.0.2.7 PORT 22", Line{Addr: v4, Ports: "22", Tag: "root", Pid: 7}, 0},
		{"ok: host, tag, no pid", "Nov  2 01:02:03 web2.example.net f2b: HOST 192.0.2.7 PORT 22",
			Line{Addr: v4, Ports: "22", Tag: "f2b", Origin: "web2.example.net"}, 0},
		{"ok: the last HOST wins", front + "HOST 198.51.100.1 PORT 80 HOST 192.0.2.7 PORT 22",
			Line{Addr: v4, Ports: "22", Tag: "", Pid: 0}, 0},
		{"ok: HOST inside a word is none", "HOST 192.0.2.7 PORT 22 jail=GHOST x=HOST failures=3",
			Line{Addr: v4, Ports: "22", Jail: "GHOST", Failures: 3}, 0},
		{"ok: v6", "HOST 2001:db8::7 PORT 22", Line{Addr: v6, Ports: "22"}, 0},
		{"ok: v6 in brackets", "HOST [2001:db8::7] PORT 22", Line{Addr: v6, Ports: "22"}, 0},
		{"ok: v6 in full", "HOST 2001:0DB8:0:0:0:0:0:7 PORT 22", Line{Addr: v6, Ports: "22"}, 0},
		{"ok: 4-in-6", "HOST ::ffff:192.0.2.7 PORT 22", Line{Addr: v4, Ports: "22"}, 0},
		{"ok: all ports by 0", "HOST 192.0.2.7 PORT 0", Line{Addr: v4}, 0},
		{"ok: all ports by range", "HOST 192.0.2.7 PORT 0:65535", Line{Addr: v4}, 0},
		{"ok: all ports by nothing", "HOST 192.0.2.7 PORT", Line{Addr: v4}, 0},
		{"ok: all ports by nothing, options", "HOST 192.0.2.7 PORT  bantime=60", Line{Addr: v4, BanTime: time.Minute}, 0},
		{"ok: list with blanks", "HOST 192.0.2.7 PORT 443, 80 ,22 jail=a", Line{Addr: v4, Ports: "22,80,443", Jail: "a"}, 0},
		{"ok: our action's line", "HOST 192.0.2.7 PORT ssh bantime=600 jail=sshd failures=5",
			Line{Addr: v4, Ports: "22", BanTime: 10 * time.Minute, Jail: "sshd", Failures: 5}, 0},
		{"ok: permanent", "HOST 192.0.2.7 PORT 22 bantime=-1", Line{Addr: v4, Ports: "22", BanTime: -time.Second}, 0},
		{"ok: fractional bantime", "HOST 192.0.2.7 PORT 22 bantime=600.25", Line{Addr: v4, Ports: "22", BanTime: 10 * time.Minute}, 0},
		{"ok: huge bantime", "HOST 192.0.2.7 PORT 22 bantime=99999999999999999999999",
			Line{Addr: v4, Ports: "22", BanTime: MaxBanTime}, 0},
		{"ok: huge failures", "HOST 192.0.2.7 PORT 22 failures=99999999999999999999999",
			Line{Addr: v4, Ports: "22", Failures: MaxFailures}, 0},
		{"ok: unknown options", "HOST 192.0.2.7 PORT 22 since=3 x= a=b=c", Line{Addr: v4, Ports: "22"}, 0},
		{"ok: odd jail", "HOST 192.0.2.7 PORT 22 jail=a/b\"\xff" + strings.Repeat("x", 99),
			Line{Addr: v4, Ports: "22", Jail: "a_b__" + strings.Repeat("x", MaxJail-5)}, 0},
		{"ok: longest line", strings.Repeat("x", MaxLine-23) + " HOST 192.0.2.7 PORT 22", Line{Addr: v4, Ports: "22"}, 0},

		{"bad: too long by one", strings.Repeat("x", MaxLine-22) + " HOST 192.0.2.7 PORT 22", Line{}, TooLong},
		{"bad: empty", "", Line{}, Empty},
		{"bad: blank", " \t\r\n", Line{}, Empty},
		{"bad: only NUL", "\x00\x00\n", Line{}, Empty},
		{"bad: noise", "Nov 22 11:02:11 vm CRON[7]: session opened", Line{}, NoHost},
		{"bad: HOST alone", front + "HOST", Line{}, NoHost},
		{"bad: HOST inside a word", front + "LOCALHOST 192.0.2.7 PORT 22", Line{}, NoHost},
		{"bad: lower case", "host 192.0.2.7 port 22", Line{}, NoHost},
		{"bad: no PORT", "HOST 192.0.2.7", Line{}, NoPort},
		{"bad: cut off", "HOST 192.0.2.7 POR", Line{}, NoPort},
		{"bad: HOST in prose", "sshd: no HOST key found", Line{}, NoPort},
		{"bad: PORT without address", "HOST PORT 22", Line{}, NoPort},
		{"bad: name", "HOST evil.example.net PORT 22", Line{}, BadAddress},
		{"bad: CIDR", "HOST 192.0.2.0/24 PORT 22", Line{}, BadAddress},
		{"bad: CIDR of all addresses", "HOST 0.0.0.0/0 PORT 22 jail=a", Line{}, BadAddress},
		{"bad: CIDR too long", "HOST 192.0.2.0/33 PORT 22 jail=a", Line{}, BadAddress},
		{"bad: CIDR without length", "HOST 192.0.2.0/ PORT 22 jail=a", Line{}, BadAddress},
		{"ok: CIDR of a jail", "HOST 192.0.2.7/29 PORT 22 jail=a", Line{Addr: netip.MustParseAddr("192.0.2.0"), Net: 29, Ports: "22", Jail: "a"}, 0},
		{"ok: IPv6 CIDR of a jail", "HOST 2001:db8::1/64 PORT 0 jail=a", Line{Addr: netip.MustParseAddr("2001:db8::"), Net: 64, Jail: "a"}, 0},
		{"ok: a single address as CIDR", "HOST 192.0.2.7/32 PORT 22 jail=a", Line{Addr: v4, Ports: "22", Jail: "a"}, 0},
		{"ok: misread twice", "HOST 192.0.2.7 PORT nosuch bantime=x failures=5", Line{Addr: v4, Failures: 5, Misread: UnknownService}, 0},
		{"bad: leading zero", "HOST 192.0.2.07 PORT 22", Line{}, BadAddress},
		{"bad: three octets", "HOST 192.0.2 PORT 22", Line{}, BadAddress},
		{"bad: octet too great", "HOST 192.0.2.256 PORT 22", Line{}, BadAddress},
		{"bad: v4 in brackets", "HOST [192.0.2.7] PORT 22", Line{}, BadAddress},
		{"bad: v6 of any length", "HOST " + strings.Repeat("1:", 500) + " PORT 22", Line{}, BadAddress},
		{"bad: zone", "HOST fe80::1%eth0 PORT 22", Line{}, Zone},
		{"bad: zone on 4-in-6", "HOST ::ffff:192.0.2.7%eth0 PORT 22", Line{}, Zone},
		{"ok: misread port too great", "HOST 192.0.2.7 PORT 65536", Line{Addr: v4, Misread: BadPort}, 0},
		{"ok: misread port not resolved", "HOST 192.0.2.7 PORT <port>", Line{Addr: v4, Misread: BadPort}, 0},
		{"ok: misread service", "HOST 192.0.2.7 PORT no-such-service", Line{Addr: v4, Misread: UnknownService}, 0},
		{"ok: misread bantime", "HOST 192.0.2.7 PORT 22 bantime=10m", Line{Addr: v4, Ports: "22", Misread: BadOption}, 0},
		{"ok: misread bantime empty", "HOST 192.0.2.7 PORT 22 bantime=", Line{Addr: v4, Ports: "22", Misread: BadOption}, 0},
		{"ok: misread bantime sign alone", "HOST 192.0.2.7 PORT 22 bantime=-", Line{Addr: v4, Ports: "22", Misread: BadOption}, 0},
		{"ok: misread bantime fraction", "HOST 192.0.2.7 PORT 22 bantime=1.x", Line{Addr: v4, Ports: "22", Misread: BadOption}, 0},
		{"ok: misread failures", "HOST 192.0.2.7 PORT 22 failures=-3", Line{Addr: v4, Ports: "22", Misread: BadOption}, 0},
		{"bad: text after the ports", "HOST 192.0.2.7 PORT 22 and more", Line{}, TrailingText},
		{"bad: text after options", "HOST 192.0.2.7 PORT 22 jail=a b", Line{}, TrailingText},
		{"bad: nothing follows the last HOST", "HOST 192.0.2.7 PORT 22 jail=a HOST", Line{}, TrailingText},
		{"bad: an attacker's words stand last", "HOST 192.0.2.7 PORT 22 HOST of mine", Line{}, NoPort},
		{"bad: key without name", "HOST 192.0.2.7 PORT 22 jail=a =b", Line{}, TrailingText},
		{"ok: rsyslog's repeated message", "vm rsyslogd: message repeated 2 times: [ HOST 192.0.2.7 PORT 22]", Line{Addr: v4, Misread: BadPort}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse([]byte(tt.line))
			if tt.err != 0 {
				if err != tt.err {
					t.Fatalf("got %+v, %v, want %v", got, err, tt.err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Fatalf("got %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func TestEmittedForm(t *testing.T) {
	const line = "Nov 22 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 22"
	tests := []struct {
		name, line string
		want       bool
	}{
		{"ok: as emitted", line, true},
		{"ok: with its end", line + "\n", true},
		{"ok: padded day", "Dec  1 00:00:00 a newbans[1]: HOST 2001:db8::7 PORT 0", true},
		{"bad: a priority in front (logger -s)", "<13>" + line, false},
		{"bad: no host (logger -s)", "Nov 22 11:02:11 newbans[731]: HOST 192.0.2.7 PORT 22", false},
		{"bad: no pid", "Nov 22 11:02:11 web2 newbans: HOST 192.0.2.7 PORT 22", false},
		{"bad: another tag", "Nov 22 11:02:11 web2 root[731]: HOST 192.0.2.7 PORT 22", false},
		{"bad: an option", line + " jail=sshd", false},
		{"bad: an unknown option", line + " x=y", false},
		{"bad: a blank after it", line + " ", false},
		{"bad: CRLF", line + "\r\n", false},
		{"bad: a blank before it", " " + line, false},
		{"bad: ISO time", "2026-11-22T11:02:11.687738+00:00 web2 newbans[731]: HOST 192.0.2.7 PORT 22", false},
		{"bad: port by name", "Nov 22 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT ssh", false},
		{"bad: list of ports", "Nov 22 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 22,80", false},
		{"bad: another form of the address", "Nov 22 11:02:11 web2 newbans[731]: HOST 2001:DB8::7 PORT 22", false},
		{"bad: another form of all ports", "Nov 22 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 0:65535", false},
		{"bad: no month", "Nox 22 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 22", false},
		{"bad: month across two", "anF 22 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 22", false},
		{"bad: day", "Nov 42 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 22", false},
		{"bad: hour", "Nov 22 1x:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 22", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Parse([]byte(tt.line))
			if err != nil || l.Emitted != tt.want {
				t.Fatalf("got emitted %v, %v, want %v", l.Emitted, err, tt.want)
			}
		})
	}
}

func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Reasons() {
		if r.String() == "" || r.String() == Reason(0).String() || seen[r.String()] {
			t.Errorf("reason %d has the text %q", r, r)
		}
		seen[r.String()] = true
	}
	if Reason(250).String() != "none" {
		t.Errorf("unknown reason: %q", Reason(250))
	}
}

func TestParseAllocatesNothingForNoise(t *testing.T) {
	noise := [][]byte{
		[]byte("Nov 22 11:02:11 vm CRON[7]: pam_unix(cron:session): session opened for user root(uid=0)"),
		[]byte("Nov 22 11:02:11 vm sshd[7]: no HOST key found"),
		[]byte("HOST 192.0.2.999 PORT 22"),
		[]byte("HOST 192.0.2.9 PORT no-such-service"),
		bytes.Repeat([]byte("HOST "), 500),
	}
	var l Line
	if n := testing.AllocsPerRun(100, func() {
		for _, line := range noise {
			parse(line, &l)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// Parse parses one line. The error is nil or a Reason.
func Parse(line []byte) (Line, error) {
	var l Line
	if reason := parse(line, &l); reason != 0 {
		return Line{}, reason
	}
	return l, nil
}

func (r Reason) Error() string { return r.String() }
