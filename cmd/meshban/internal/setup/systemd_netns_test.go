//go:build linux && netns

package setup

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// worstExposure is the highest exposure that `systemd-analyze security` may report: 0 is sealed off, 10 is open. Of
// our 2.2, the network and being root are 1.7.
const worstExposure = 2.5

var exposure = regexp.MustCompile(`Overall exposure level for meshban\.service: ([0-9.]+)`)

// unit writes the unit to a file and returns its path and content.
func unit(t *testing.T, o Options) (path, text string) {
	t.Helper()
	o.Binary = "/bin/true" // systemd checks that it exists
	text = content(t, files(t, Systemd, o), "meshban.service")
	path = filepath.Join(t.TempDir(), "meshban.service")
	put(t, path, text)
	return path, text
}

func TestSystemdTakesTheUnit(t *testing.T) {
	for _, c := range []struct {
		name string
		opts Options
	}{
		{"ok: the usual place", Options{}},
		{"ok: other folders", Options{Dir: "/srv/meshban", LineFile: "/var/log/newbans.log"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, _ := unit(t, c.opts)
			sets := filepath.Join(filepath.Dir(path), "meshban-sets.service")
			put(t, sets, content(t, files(t, Systemd, c.opts), "meshban-sets.service"))
			args := []string{"verify", "--man=no", path, sets}
			c.opts.Lists = []List{{"a.conf", "nginx"}, {"b.conf", "nginx"}}
			for _, end := range []string{"meshban-nginx.path", "meshban-nginx.service"} {
				args = append(args, filepath.Join(filepath.Dir(path), end))
				put(t, args[len(args)-1], content(t, files(t, Systemd, c.opts), end))
			}
			if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || strings.Contains(string(out), "meshban") {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
			out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", path).CombinedOutput()
			m := exposure.FindStringSubmatch(string(out))
			if err != nil || m == nil {
				t.Fatalf("systemd-analyze security: %v\n%s", err, out)
			}
			if got, err := strconv.ParseFloat(m[1], 64); err != nil || got > worstExposure {
				t.Errorf("the exposure is %s, more than %v:\n%s", m[1], worstExposure, out)
			}
		})
	}
}

// The unit's capabilities are enough for the firewall backends, and each is needed.
func TestCapabilitiesAreEnoughAndNoneTooMany(t *testing.T) {
	_, text := unit(t, Options{})
	m := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("no bounding set")
	}
	caps := strings.Fields(strings.ToLower(m[1]))
	all := make([]string, len(caps))
	for i, c := range caps {
		all[i] = "+" + strings.TrimPrefix(c, "cap_")
	}
	const work = `set -e
ipset create m hash:ip timeout 60
ipset add m 192.0.2.1
for i in iptables-nft iptables-legacy ip6tables-nft; do
	$i -w 5 -t raw -N MESHBAN
	$i -w 5 -t raw -I PREROUTING ! -i lo -j MESHBAN
done
iptables-nft -w 5 -t raw -A MESHBAN -m set --match-set m src -j DROP
iptables-legacy -w 5 -t raw -A MESHBAN -m set --match-set m src -j DROP
nft add table inet meshban`
	try := func(set []string) (string, error) {
		out, err := exec.Command("unshare", "--net", "setpriv", "--no-new-privs", "--bounding-set=-all,"+strings.Join(set, ","), "sh", "-c", work).CombinedOutput()
		return string(out), err
	}
	if out, err := try(all); err != nil {
		t.Errorf("with %q: %v\n%s", all, err, out)
	}
	for i := range all {
		fewer := append(append([]string(nil), all[:i]...), all[i+1:]...)
		if out, err := try(fewer); err == nil {
			t.Errorf("%s is not needed:\n%s", all[i], out)
		}
	}
}
