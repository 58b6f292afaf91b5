package apikey

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func TestRing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.keys")
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := r.Add(Key{Name: "fw", May: []string{Read}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if len(secret) < 32 || strings.Contains(secret, "=") {
		t.Errorf("secret %q", secret)
	}
	if _, err := r.Add(Key{Name: "fw", May: []string{Ban}}, noon); !errors.Is(err, ErrExists) {
		t.Errorf("added twice: %v", err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(file), secret) {
		t.Error("the file has the secret")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	addr := netip.MustParseAddr("192.0.2.1")
	if _, ok := r.Find(secret+"x", noon, addr, ""); ok {
		t.Error("a wrong key is taken")
	}
	if _, ok := r.Find(secret, noon, addr, "crowdsec-firewall-bouncer/v0.0.25\x1b[2J"); !ok {
		t.Error("the key is not taken")
	}
	if err := r.Save(); err != nil {
		t.Fatal(err)
	}
	if r, err = Open(path); err != nil {
		t.Fatal(err)
	}
	want := Use{noon, addr, "crowdsec-firewall-bouncer", "v0.0.25?[2J"}
	if all := r.List(); len(all) != 1 || all[0].Use != want || all[0].Rate != DefaultRate {
		t.Errorf("read again: %+v", all)
	}
	if err := r.Delete("other"); !errors.Is(err, ErrUnknown) {
		t.Errorf("deleted what is not there: %v", err)
	}
	if err := r.Delete("fw"); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Find(secret, noon, addr, ""); ok {
		t.Error("a deleted key is taken")
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		key  Key
		ok   bool
	}{
		{"ok: all rights", Key{Name: "a.B-1_", May: Rights(), Rate: 1}, true},
		{"ok: sources and family", Key{Name: "a", May: []string{Read, Ban, Unban, Allow}, Sources: []string{"line:*", "cli", "*"}, Family: 6}, true},
		{"bad: looks at some sources", Key{Name: "a", May: []string{Read, Look}, Sources: []string{"cli"}}, false},
		{"bad: looks at one family", Key{Name: "a", May: []string{Look, Operate}, Family: 4}, false},
		{"bad: no name", Key{May: []string{Read}}, false},
		{"bad: slash", Key{Name: "a/b", May: []string{Read}}, false},
		{"bad: flag", Key{Name: "-a", May: []string{Read}}, false},
		{"bad: long name", Key{Name: strings.Repeat("a", MaxName+1), May: []string{Read}}, false},
		{"bad: no right", Key{Name: "a"}, false},
		{"bad: right", Key{Name: "a", May: []string{"rule"}}, false},
		{"bad: rate", Key{Name: "a", May: []string{Read}, Rate: -1}, false},
		{"bad: family", Key{Name: "a", May: []string{Read}, Family: 5}, false},
		{"bad: star inside", Key{Name: "a", May: []string{Read}, Sources: []string{"a*b"}}, false},
	} {
		if err := c.key.Check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestReads(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64")
	k := Key{Sources: []string{"line:*", "cli"}, Family: 4}
	for _, c := range []struct {
		prefix netip.Prefix
		source string
		want   bool
	}{{v4, "line:sshd", true}, {v4, "cli", true}, {v4, "line", false}, {v4, "client", false}, {v6, "cli", false}} {
		if got := k.Reads(c.prefix, c.source); got != c.want {
			t.Errorf("%v %s: %v", c.prefix, c.source, got)
		}
	}
}

func TestFaultyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.keys")
	if err := os.WriteFile(path, []byte(`[{"sha256":"00"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "meshban key add") {
		t.Errorf("no remedy: %v", err)
	}
}
