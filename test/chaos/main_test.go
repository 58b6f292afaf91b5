//go:build linux && netns

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/meshban/meshban/test/rig"
)

// program is the binary under test, built once for a run.
var program string

func TestMain(m *testing.M) {
	os.Exit(rig.Main(m, func(scratch string) error {
		if err := rig.Require("iptables", "ip6tables", "ipset", "nft", "ip", "mount"); err != nil {
			return err
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
