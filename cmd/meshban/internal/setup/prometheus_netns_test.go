//go:build linux && netns

package setup

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Debian's promtool takes the alert rules, none fires while all is well, and each does when what it watches is wrong.
func TestPromtoolTakesTheRules(t *testing.T) {
	dir := t.TempDir()
	tests, err := os.ReadFile("testdata/meshban.rules.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "meshban.rules.test.yml"), string(tests))
	put(t, filepath.Join(dir, "meshban.rules.yml"), content(t, files(t, Prometheus, node), "meshban.rules.yml"))
	for _, args := range [][]string{{"check", "rules", "meshban.rules.yml"}, {"test", "rules", "meshban.rules.test.yml"}} {
		cmd := exec.Command("promtool", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", args, err, out)
		}
	}
}
