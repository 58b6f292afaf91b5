#!/bin/sh
# Runs before the files go. dpkg says why, rpm how many versions stay, apk and pacman the version.
set -e
case ${1:-} in upgrade | failed-upgrade | deconfigure | [1-9]) exit 0 ;; esac

if [ -d /run/systemd/system ]; then
	systemctl stop meshban.service || :
elif command -v rc-service >/dev/null; then
	rc-service --ifstarted meshban stop || :
fi
if [ "${1:-}" = remove ]; then
	# A purge may follow, when the program is gone, and needs it.
	if [ -d /var/lib/meshban ]; then
		cp /usr/sbin/meshban /var/lib/meshban/uninstall
		chmod 700 /var/lib/meshban/uninstall
		echo "meshban: bans stay in the kernel until they end; a purge takes them and all else of meshban away"
	fi
	exit 0
fi
# rpm, apk and pacman have no purge: what is not removed now stays for ever. The folder with the keys stays.
if command -v systemctl >/dev/null; then
	systemctl --no-reload disable meshban.service meshban-sets.service || :
fi
/usr/sbin/meshban teardown || :
/usr/sbin/meshban setup --remove --yes || :
