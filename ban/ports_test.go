package ban

import (
	"reflect"
	"strings"
	"testing"
)

func TestParsePorts(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"ok: nothing means all", "", ""},
		{"ok: 0 means all", "0", ""},
		{"ok: 0:65535 means all", "0:65535", ""},
		{"ok: all swallows the rest", "22,0", ""},
		{"ok: a number is both protocols", "80", "80"},
		{"ok: one protocol", "22/tcp", "22/tcp"},
		{"ok: protocol in capitals", "53/UDP", "53/udp"},
		{"ok: range with a dash", "8000-8010/udp", "8000-8010/udp"},
		{"ok: range with a colon", "8000:8010", "8000-8010"},
		{"ok: range of one", "22:22", "22"},
		{"ok: sorted", "443,80,22/tcp", "22/tcp,80,443"},
		{"ok: blanks around items", " 22 , 80/tcp ", "22,80/tcp"},
		{"ok: tcp and udp make both", "53/udp,53/tcp", "53"},
		{"ok: twice is once", "22,22,22/tcp", "22"},
		{"ok: overlap joins", "20-30,25-40", "20-40"},
		{"ok: neighbours join", "22,23,24", "22-24"},
		{"ok: both cuts through one", "20-30/tcp,25", "20-24/tcp,25,26-30/tcp"},
		{"ok: udp and tcp overlap", "1-10/tcp,5-15/udp", "1-4/tcp,5-10,11-15/udp"},
		{"ok: leading zeros", "0022", "22"},
		{"ok: every port is all traffic", "1-65535", ""},
		{"ok: every port with a colon", "1:65535", ""},
		{"ok: every port in pieces", "1-1000/tcp,1-1000/udp,1001-65535", ""},
		{"ok: every port of both protocols, one by one", "0/tcp,0:65535/udp", ""},
		{"ok: all", "all", ""},
		{"ok: any among others", "22,Any", ""},
		{"ok: all of one protocol", "all/tcp", "1-65535/tcp"},
		{"ok: all but one port", "1-65534", "1-65534"},
		{"ok: 0 with a protocol is its every port", "0/tcp", "1-65535/tcp"},
		{"ok: 0:65535 with a protocol", "0:65535/udp", "1-65535/udp"},
		{"ok: the last port", "65535", "65535"},
		{"ok: 15 items", "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29", "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParsePorts(tt.in)
			if err != nil || p.String() != tt.want {
				t.Fatalf("ParsePorts(%q) = %q, %v; want %q", tt.in, p, err, tt.want)
			}
			if p.IsAll() != (tt.want == "") || p != ports(tt.want) {
				t.Errorf("%q is not the same as its own text", p)
			}
		})
	}
	for name, in := range map[string]string{
		"bad: name":                   "ssh",
		"bad: empty item":             "22,",
		"bad: only a comma":           ",",
		"bad: too large":              "65536",
		"bad: negative":               "-1",
		"bad: sign":                   "+22",
		"bad: backwards":              "30-20",
		"bad: range from 0":           "0-100",
		"bad: range of three":         "1-2-3",
		"bad: no end":                 "22-",
		"bad: protocol unknown":       "22/sctp",
		"bad: protocol empty":         "22/",
		"bad: two protocols":          "22/tcp/udp",
		"bad: 16 items":               "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31",
		"bad: more text than one has": strings.Repeat("22,", 200) + "22",
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := ParsePorts(in); err == nil || !p.IsAll() {
				t.Errorf("ParsePorts(%q) = %q, %v", in, p, err)
			}
		})
	}
}

func TestPortsOf(t *testing.T) {
	rs := []PortRange{{UDP, 53, 53}, {TCP, 22, 22}, {ProtoAny, 8000, 8010}}
	p, err := PortsOf(rs)
	if err != nil || p.String() != "22/tcp,53/udp,8000-8010" {
		t.Fatal(p, err)
	}
	if got := p.Ranges(); !reflect.DeepEqual(got, []PortRange{rs[1], rs[0], rs[2]}) {
		t.Errorf("ranges %v", got)
	}
	if p, err := PortsOf(nil); err != nil || !p.IsAll() || p.Ranges() != nil {
		t.Error(p, err)
	}
	for name, r := range map[string]PortRange{
		"bad: port 0":           {TCP, 0, 5},
		"bad: backwards":        {TCP, 5, 4},
		"bad: protocol unknown": {1, 5, 5},
	} {
		if p, err := PortsOf([]PortRange{r}); err == nil {
			t.Errorf("%s: %v", name, p)
		}
	}
}

// Canonical text parses to itself and means exactly the ports that were asked for.
func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"", "0", "80", "22/tcp,80", "8000:8010/udp", "1-4/tcp,5-10,11-15/udp", "0/tcp", "20-30/tcp,25", " 1 ,2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePorts(s)
		if err != nil {
			return
		}
		if again, err := ParsePorts(p.String()); err != nil || again != p {
			t.Fatalf("%q gives %q, which gives %q, %v", s, p, again, err)
		}
		if p.IsAll() {
			return
		}
		if again, err := PortsOf(p.Ranges()); err != nil || again != p {
			t.Fatalf("%q has the ranges of %q, %v", p, again, err)
		}
		asked, _, err := parsePortItems(s)
		if err != nil {
			t.Fatal(err)
		}
		if x, y := bitmap(asked), bitmap(p.Ranges()); x != y {
			t.Fatalf("%q and %q are not the same ports", s, p)
		}
	})
}

func bitmap(rs []PortRange) (set [2][maxPort + 1]bool) {
	for _, r := range rs {
		for port := int(r.First); port <= int(r.Last); port++ {
			set[0][port] = set[0][port] || r.Proto != UDP
			set[1][port] = set[1][port] || r.Proto != TCP
		}
	}
	return set
}
