package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSavedRuleset(t *testing.T) {
	const ours = "table ip raw {\n chain MESHBAN {\n  # match-set meshban4 src jump MESHBAN-HIT\n }\n}\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"ok: nothing is there", nil, ""},
		{"ok: a file that nothing loads", map[string]string{nftConf: "flush ruleset\n"}, ""},
		{"bad: a service that loads it", map[string]string{
			nftConf: "flush ruleset\n", "/etc/systemd/system/sysinit.target.wants/nftables.service": "",
		}, "before you save it there, write `firewall: {backends: [nftables]}` into meshban.yaml"},
		{"bad: our rules in the file", map[string]string{nftConf: ours}, "write `firewall: {backends: [nftables]}` into meshban.yaml, restart the agent, and save once more"},
		{"bad: both", map[string]string{nftConf: ours, "/etc/systemd/system/multi-user.target.wants/nftables.service": ""}, "and save once more"},
	} {
		root := t.TempDir()
		for path, text := range c.files {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := savedRuleset(root); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}
