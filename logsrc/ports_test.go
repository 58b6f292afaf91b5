package logsrc

import (
	"strings"
	"testing"
)

func TestPortSpec(t *testing.T) {
	tests := []struct {
		name, spec, want string
		err              Reason
	}{
		{"ok: number", "22", "22", 0},
		{"ok: leading zero", "0022", "22", 0},
		{"ok: name", "ssh", "22", 0},
		{"ok: name with a dash", "ftp-data", "20", 0},
		{"ok: protocol", "22/tcp,53/udp", "22/tcp,53/udp", 0},
		{"ok: protocol in capitals", "22/TCP", "22/tcp", 0},
		{"ok: name and protocol", "domain/udp", "53/udp", 0},
		{"ok: sorted, once", "443,80,443,ssh,http", "22,80,443", 0},
		{"ok: one port, three protocols", "80/udp,80,80/tcp", "80,80/tcp,80/udp", 0},
		{"ok: range by colon", "8000:8010", "8000-8010", 0},
		{"ok: range by dash", "8000-8010/udp", "8000-8010/udp", 0},
		{"ok: range of one", "80:80", "80", 0},
		{"ok: range of names", "ftp:ssh", "21-22", 0},
		{"ok: range from 0", "0:1023", "1-1023", 0},
		{"ok: range up to 1", "0:1", "1", 0},
		{"ok: all but 0", "1:65535", "1-65535", 0},
		{"ok: fail2ban's mail", "smtp,465,submission,imap,imaps,pop3,pop3s", "25,110,143,465,587,993,995", 0},
		{"ok: empty", "", "", 0},
		{"ok: blank", "  ", "", 0},
		{"ok: 0", "0", "", 0},
		{"ok: all", "all", "", 0},
		{"ok: any", "any", "", 0},
		{"ok: whole range", "0:65535", "", 0},
		{"ok: whole range by dash", "0-65535", "", 0},
		{"ok: all in a list", "22,0,80", "", 0},
		{"ok: all of one protocol", "0:65535/tcp", "1-65535/tcp", 0},
		{"ok: port 0 sorted as 1", "0/udp,1", "1,1-65535/udp", 0},
		{"ok: most items", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,15", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", 0},
		{"bad: one item too many", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", "", BadPort},
		{"bad: too great", "65536", "", BadPort},
		{"bad: much too great", strings.Repeat("9", 100), "", BadPort},
		{"bad: backwards", "90:80", "", BadPort},
		{"bad: range of nothing", "0:0", "", BadPort},
		{"bad: open range", "80:", "", BadPort},
		{"bad: comma alone", ",", "", BadPort},
		{"bad: comma at the end", "80,", "", BadPort},
		{"bad: protocol alone", "/tcp", "", BadPort},
		{"bad: protocol", "22/sctp", "", BadPort},
		{"bad: negative", "-1", "", BadPort},
		{"bad: name too long", strings.Repeat("a", 33), "", BadPort},
		{"bad: sign in a name", "ss%h", "", BadPort},
		{"bad: name", "no-such-service", "", UnknownService},
		{"bad: all ports and a bad one", "0,nonsuch", "", UnknownService},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := portSpec([]byte(tt.spec))
			if got != tt.want || err != tt.err {
				t.Fatalf("got %q, %v, want %q, %v", got, err, tt.want, tt.err)
			}
			if err == 0 {
				if again, err := portSpec([]byte(got)); again != got || err != 0 {
					t.Fatalf("%q again: %q, %v", got, again, err)
				}
			}
		})
	}
}

func TestReadServices(t *testing.T) {
	const text = `# comment
ssh		22/tcp				# SSH Remote Login Protocol
both		500/tcp		one two
both		501/udp
bad		70000/tcp
worse
zero		0/tcp
other		80/sctp
last		7/udp`
	got := readServices(strings.NewReader(text))
	want := map[string]uint16{"ssh": 22, "both": 500, "one": 500, "two": 500, "last": 7}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for name, port := range want {
		if got[name] != port {
			t.Errorf("%s: got %d, want %d", name, got[name], port)
		}
	}
}
