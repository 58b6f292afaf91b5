//go:build linux && netns

package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// inNetns runs a shell script in its own network namespace, which ends with it. $1 is a file that holds text.
func inNetns(t *testing.T, text, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "export")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unshare", "--net", "sh", "-euc", script, "sh", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func wantAll(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("no %q in\n%s", p, text)
		}
	}
}

// The real ipset accepts what export prints, even twice, and then has the addresses.
func TestIpsetTakesExport(t *testing.T) {
	text := exportText(t, "ipset", exported())
	got := inNetns(t, text, `ipset -exist restore < "$1"
		ipset -exist restore < "$1"
		ipset save
		ipset test meshban-export-4 203.0.113.200
		ipset test meshban-export-4p 203.0.113.9,tcp:8015
		! ipset test meshban-export-4p 203.0.113.9,udp:22
		ipset test meshban-export-6 2001:db8:0:1::1`)
	wantAll(t, got, "add meshban-export-4 203.0.113.7 timeout", "add meshban-export-6 2001:db8::/32 timeout",
		"add meshban-export-6p 2001:db8::9,udp:53 timeout")
}

// The real nft accepts it too.
func TestNftTakesExport(t *testing.T) {
	got := inNetns(t, exportText(t, "nft", exported()), `nft -f "$1"
		nft -f "$1"
		nft get element inet meshban-export v4-24 '{ 203.0.113.200 }'
		nft get element inet meshban-export v4-ports '{ 203.0.113.9 . tcp . 8015 }'
		nft list table inet meshban-export`)
	wantAll(t, got, "203.0.113.7 timeout", "2001:db8::/32 timeout", "203.0.113.0/28 timeout")
}
