#!/bin/sh
# Runs when the files are gone.
set -e
state=/var/lib/meshban
if [ "${1:-}" = purge ]; then
	if [ -x $state/uninstall ]; then
		$state/uninstall teardown || :
		$state/uninstall setup --remove --yes || :
		rm -f $state/uninstall
	fi
	rm -f /etc/systemd/system/multi-user.target.wants/meshban.service /etc/systemd/system/sysinit.target.wants/meshban-sets.service
	if [ -e $state/ca.key ]; then
		# Nobody can make it again, and without it the mesh takes no new node.
		find $state -mindepth 1 ! -path $state/ca.key -delete
		echo "meshban: kept $state/ca.key, the authority of the mesh: delete it yourself if the mesh is gone or another copy exists"
	else
		rm -rf $state
	fi
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
fi
