package logsrc

import (
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// printed is one line of testdata/lines.txt: what a real program printed, and the command that made it.
type printed struct {
	program, command, line string
}

func printedLines(t testing.TB) []printed {
	t.Helper()
	text, err := os.ReadFile("testdata/lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []printed
	var now printed
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "# "):
			now.program = line[2:]
		case strings.HasPrefix(line, "$ "):
			now.command = line[2:]
		default:
			now.line = line
			all = append(all, now)
		}
	}
	return all
}

func TestParsePrinted(t *testing.T) {
	ignored := map[string]Reason{
		`logger -s -S 16 'HOST 192.0.2.7 PORT 22'`:                             NoPort, // cut by -S
		`printf '\n%s\n' 'HOST 192.0.2.7 PORT 22' > in; logger -s -f in|empty`: NoHost,
	}
	pid := regexp.MustCompile(`\[(\d+)\]:? HOST|^(?:\d+ )?<\d+>1 \S+ \S+ \S+ (\d+) `)
	// rsyslogd and busybox parse RFC 5424 on the local socket as RFC 3164, which leaves no tag.
	mangled := regexp.MustCompile(`^logger --rfc5424 .*/tmp/(messages|traditional|iso|syslog23|forward|isoforward)$`)
	bare := regexp.MustCompile(`/tmp/bare$|-o cat$`)
	host := regexp.MustCompile(`:\d\d\S* vm \S+ HOST|^(\d+ )?<\d+>1 \S+ vm `)
	lines := printedLines(t)
	if len(lines) < 120 {
		t.Fatalf("only %d lines in testdata", len(lines))
	}
	for _, p := range lines {
		key := p.command
		if !strings.Contains(p.line, "HOST") {
			key += "|empty"
		}
		l, err := Parse([]byte(p.line))
		if want, ok := ignored[key]; ok {
			if err != want {
				t.Errorf("bad: %s\n%q: got %v, want %v", p.command, p.line, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("ok: %s\n%q: %v", p.command, p.line, err)
			continue
		}
		want := Line{Addr: netip.MustParseAddr("192.0.2.7"), Ports: "22", Origin: l.Origin}
		if m := pid.FindStringSubmatch(p.line); m != nil {
			want.Pid, _ = strconv.Atoi(m[1] + m[2])
		}
		switch {
		case bare.MatchString(p.command):
		case mangled.MatchString(p.command):
			want.Tag, want.Pid = l.Tag, l.Pid
		case strings.Contains(p.command, "-t newbans"), strings.Contains(p.command, "newbans[7]"):
			want.Tag = "newbans"
		case strings.Contains(p.command, "my app"):
			want.Tag = "app"
		case strings.Contains(p.command, "a/b-c_d.e"):
			want.Tag = "a/b-c_d.e"
		default:
			want.Tag = "root"
		}
		// A line that a syslog daemon wrote in the traditional format looks like an emitted line.
		want.Emitted = regexp.MustCompile(`^\w{3} [ \d]\d [\d:]{8} vm newbans\[\d+\]: `).MatchString(p.line)
		if l != want {
			t.Errorf("ok: %s\n%q:\n got %+v\nwant %+v", p.command, p.line, l, want)
		}
		origin := ""
		if host.MatchString(p.line) {
			origin = "vm"
		}
		if strings.Contains(p.command, "my app") {
			origin = "my" // a tag of two words looks like a host name and a tag
		}
		if l.Origin != origin && !mangled.MatchString(p.command) {
			t.Errorf("ok: %s\n%q: origin %q, want %q", p.command, p.line, l.Origin, origin)
		}
	}
}
