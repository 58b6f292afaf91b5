//go:build linux && netns

package rig

import (
	"fmt"
	"regexp"
	"strings"
)

// unitLine is one setting of a systemd unit.
var unitLine = regexp.MustCompile(`(?m)^([A-Za-z]+)=(.*)$`)

// Sandbox returns a command that runs argv under part of a systemd unit's sandbox: a system that is read-only except for
// the unit's state folder and ReadWritePaths, only the unit's capabilities, and no new privileges. A unit that lacks one of
// these three restrictions is an error.
func Sandbox(unit string, argv ...string) ([]string, error) {
	settings := map[string]string{}
	for _, m := range unitLine.FindAllStringSubmatch(unit, -1) {
		settings[m[1]] = m[2]
	}
	if settings["ProtectSystem"] != "strict" || settings["NoNewPrivileges"] != "yes" || settings["CapabilityBoundingSet"] == "" {
		return nil, fmt.Errorf("the unit lacks ProtectSystem=strict, NoNewPrivileges=yes or a CapabilityBoundingSet:\n%s", unit)
	}
	writable := strings.Fields(settings["ReadWritePaths"])
	if dir := settings["StateDirectory"]; dir != "" {
		writable = append(writable, "/var/lib/"+dir)
	}
	caps := "-all"
	for _, c := range strings.Fields(settings["CapabilityBoundingSet"]) {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	// A bind mount of its own keeps a path writable when all else is made read-only. /dev, /proc and /sys stay as they
	// are, as with ProtectSystem=strict.
	const enter = `set -e
caps=$1; shift
mount --make-rprivate /
while [ "$1" != -- ]; do
	p=${1#-}; rw="$rw $p"; shift
	if [ -e "$p" ]; then mount --bind "$p" "$p"; fi
done
shift
cut -d' ' -f5 /proc/self/mountinfo | sort -u | while read -r m; do
	case $m in /dev|/dev/*|/proc|/proc/*|/sys|/sys/*) continue;; esac
	case " $rw " in *" $m "*) continue;; esac
	mount -o remount,bind,ro "$m"
done
mount -t tmpfs tmpfs /tmp
exec setpriv --no-new-privs --bounding-set="$caps" --inh-caps="$caps" "$@"`
	out := append([]string{"unshare", "--mount", "sh", "-c", enter, "sandbox", caps}, writable...)
	return append(append(out, "--"), argv...), nil
}
