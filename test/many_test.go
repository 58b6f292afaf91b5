//go:build linux && netns

package test

import (
	"os/exec"
	"strings"
	"testing"
)

const (
	packaging = "../cmd/meshban/packaging"
	// cloudInitTree is where `bash test/run system` keeps Debian's cloud-init, which is not installed.
	cloudInitTree = "/var/cache/meshban-test/cloud-init/usr/lib/python3/dist-packages"
)

// Ansible and cloud-init of Debian take what packaging has for them.
func TestManyMachines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		argv []string
		says string
	}{
		{[]string{"env", "LC_ALL=C.UTF-8", "ansible-playbook", "--syntax-check", "-i", packaging + "/ansible/inventory.yml", packaging + "/ansible/site.yml"}, "playbook: " + packaging + "/ansible/site.yml"},
		{[]string{"env", "PYTHONPATH=" + cloudInitTree, "/usr/bin/python3", "-m", "cloudinit.cmd.main", "schema", "--config-file", packaging + "/cloud-init.yaml"}, "Valid cloud-config"},
	} {
		out, err := exec.Command(c.argv[0], c.argv[1:]...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: %v\n%s", strings.Join(c.argv, " "), err, out)
		}
	}
}
