package logsrc

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzParse checks that Parse never panics, that what it accepts is within the documented bounds, and that an
// accepted line, written again as a plain or as an emitted line, parses to the same result.
func FuzzParse(f *testing.F) {
	for _, p := range printedLines(f) {
		f.Add([]byte(p.line))
	}
	for _, seed := range []string{
		"HOST 192.0.2.7 PORT ssh, 8000:8010/udp bantime=600 jail=sshd failures=5\r\n",
		"HOST [2001:db8::7] PORT 0:65535 bantime=-1",
		"HOST ::ffff:192.0.2.7 PORT all x=y",
		"HOST fe80::1%eth0 PORT 22",
		"HOST 192.0.2.7 PORT nosuch bantime=soon",
		"HOST 192.0.2.7 PORT 70000 failures=-1",
		"HOST 192.0.2.7 PORT  bantime=600",
		"\x00\x00Nov  2 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 0\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		before := bytes.Clone(line)
		l, err := Parse(line)
		if !bytes.Equal(line, before) {
			t.Fatal("the line was changed")
		}
		if err != nil {
			if _, ok := err.(Reason); !ok || l != (Line{}) {
				t.Fatalf("got %+v with error %v", l, err)
			}
			return
		}
		if !l.Addr.IsValid() || l.Addr.Zone() != "" || l.Addr.Is4In6() {
			t.Fatalf("address %v", l.Addr)
		}
		if len(l.Jail) > MaxJail || len(l.Tag) > MaxTag || len(l.Origin) > MaxOrigin || l.BanTime > MaxBanTime ||
			l.Failures < 0 || l.Failures > MaxFailures || l.Pid < 0 || strings.Count(l.Ports, ",") >= MaxPortItems {
			t.Fatalf("out of bounds: %+v", l)
		}
		if l.Misread != 0 && l.Misread != BadPort && l.Misread != UnknownService && l.Misread != BadOption {
			t.Fatalf("misread: %v", l.Misread)
		}

		plain := l
		plain.Tag, plain.Pid, plain.Origin, plain.Emitted = "", 0, "", false
		plain.Misread = 0 // writePlain leaves out what was misread
		if got, err := Parse([]byte(writePlain(plain))); err != nil || got != plain {
			t.Fatalf("%q:\n got %+v, %v\nwant %+v", writePlain(plain), got, err, plain)
		}

		stamp := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC).AppendFormat(nil, stampFormat)
		emitted := appendEmission(nil, stamp, cleanOrigin(l.Origin), l.Pid, l.Addr, 22)
		want := Line{Addr: l.Addr, Ports: "22", Tag: emitTag, Pid: l.Pid, Origin: cleanOrigin(l.Origin), Emitted: true}
		if got, err := Parse(emitted); err != nil || got != want {
			t.Fatalf("%q:\n got %+v, %v\nwant %+v", emitted, got, err, want)
		}
	})
}

// writePlain writes l as our own fail2ban action would.
func writePlain(l Line) string {
	text := "HOST " + l.Addr.String() + " PORT " + l.Ports
	if l.BanTime != 0 {
		text += " bantime=" + strconv.Itoa(int(l.BanTime/time.Second))
	}
	if l.Jail != "" {
		text += " jail=" + l.Jail
	}
	return text + " failures=" + strconv.Itoa(l.Failures)
}

// FuzzPortSpec checks that canonical text is canonical.
func FuzzPortSpec(f *testing.F) {
	for _, seed := range []string{"", "22", "ssh,http/tcp", "0:65535", "8000-8010/udp,1:9", "0", "ftp-data"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		ports, err := portSpec([]byte(spec))
		if err != 0 {
			return
		}
		if again, err := portSpec([]byte(ports)); err != 0 || again != ports {
			t.Fatalf("%q gave %q, which gave %q, %v", spec, ports, again, err)
		}
	})
}
