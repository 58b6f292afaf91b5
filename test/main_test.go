//go:build linux && netns

package test

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
		if err := rig.Require("iptables", "ip6tables", "iptables-legacy", "ipset", "nft", "ip", "ss", "ssh", "sshpass",
			"sshd", "ssh-keygen", "rsyslogd", "busybox", "logger", "fail2ban-server", "fail2ban-client", "setpriv", "flock", "perl",
			"nginx", "haproxy", "tcpdmatch", "exabgp", "bird", "curl", "crowdsec-firewall-bouncer", "crowdsec-custom-bouncer",
			"ansible-playbook", "lintian", "rpm", "crun"); err != nil {
			return err
		}
		program = filepath.Join(scratch, "meshban")
		cmd := exec.Command("go", "build", "-buildvcs=auto", "-trimpath", "-tags", "urfave_cli_no_docs", "-o", program, "../cmd/meshban")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the program: %w\n%s", err, out)
		}
		return nil
	}))
}

// must ends the test on an error; otherwise it passes the value through.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// check ends the test on an error.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
