//go:build linux && netns

package browser

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/meshban/meshban/test/rig"
)

// modules is where test/run puts what package-lock.json names.
const modules = "/var/cache/meshban-test/browser/node_modules"

// program is the binary under test, built once for a run.
var program string

func TestMain(m *testing.M) {
	os.Exit(rig.Main(m, func(scratch string) error {
		if err := rig.Require("chromium", "node", "iptables", "ipset", "ip", "setpriv"); err != nil {
			return err
		}
		if _, err := os.Stat(modules); err != nil {
			return fmt.Errorf("%w: `bash test/run browser` fetches it", err)
		}
		program = filepath.Join(scratch, "meshban")
		cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-tags", "urfave_cli_no_docs", "-o", program, "../../cmd/meshban")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the program: %w\n%s", err, out)
		}
		return nil
	}))
}
