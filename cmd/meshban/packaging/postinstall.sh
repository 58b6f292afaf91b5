#!/bin/sh
# Runs when the files are in place. dpkg says "configure" and the version before, rpm how many versions are installed, apk
# and pacman the version and, for an upgrade, the one before.
set -e
case ${1:-} in abort-* | triggered) exit 0 ;; esac
first=
if [ -z "${2:-}" ]; then
	case ${1:-} in [2-9]) ;; *) first=1 ;; esac
fi

if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers meshban.conf
elif ! getent group meshban >/dev/null; then
	addgroup -S meshban || :
fi

# Removed, not purged, and installed again: the agent runs as before.
again=
if [ -e /var/lib/meshban/uninstall ]; then
	rm -f /var/lib/meshban/uninstall
	again=1
fi

# An agent that starts without a key would fail: its unit asserts that it is there, and init or join makes it.
if command -v systemctl >/dev/null; then
	# Enabled where the distribution enables what is installed, as Debian does.
	[ -z "$first" ] || systemctl preset meshban.service meshban-sets.service || :
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload || :
		# deb-systemd-invoke asks policy-rc.d.
		invoke=$(command -v deb-systemd-invoke || echo systemctl)
		if [ -n "$first$again" ] && [ -e /var/lib/meshban/mesh.key ] && systemctl is-enabled --quiet meshban.service; then
			$invoke start meshban.service || :
		fi
		# The kernel keeps the bans meanwhile.
		[ -n "$first" ] || $invoke try-restart meshban.service || :
	fi
elif command -v rc-service >/dev/null && [ -z "$first" ]; then
	rc-service --ifstarted meshban restart || :
fi

for unit in meshban.service meshban-sets.service; do
	if [ -f /etc/systemd/system/$unit ]; then
		echo "meshban: /etc/systemd/system/$unit hides the unit of the package: /usr/sbin/meshban setup systemd removes it"
	fi
done
if [ -x /usr/local/sbin/meshban ]; then
	echo "meshban: /usr/local/sbin/meshban hides /usr/sbin/meshban: remove it"
fi
if [ -n "$first" ] && [ ! -e /var/lib/meshban/mesh.key ]; then
	start="systemctl enable --now meshban"
	command -v systemctl >/dev/null || start="rc-update add meshban && rc-service meshban start"
	echo "meshban: next: meshban init, or meshban join TOKEN; then $start"
fi
