#!/bin/bash
# Prints lines.txt: what real programs put in front of a line, each behind the command that printed it.
# Run as root, on Debian with util-linux, busybox, rsyslog and systemd:  ./print.sh > lines.txt
# Everything happens in mount, PID and UTS namespaces of its own, with its own /dev and /run.
set -u
if [ "${1-}" != inside ]; then
	exec unshare --mount --uts --pid --fork --kill-child --mount-proc "$0" inside
fi
hostname vm
export TZ=UTC LC_ALL=C
mount -t tmpfs tmpfs /mnt && cp -a /dev/null /dev/zero /dev/urandom /dev/kmsg /mnt/ && mount --move /mnt /dev
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /tmp && cd /tmp
M='HOST 192.0.2.7 PORT 22'

show() { # show COMMAND: the command, then what it printed
	printf '$ %s\n' "$1"
	bash -c "$1" 2>&1
}
version() { printf '# %s\n' "$("$@" 2>&1 | head -n 1)"; }
await() { # await COMMAND: until it succeeds, 5 s at most
	for _ in $(seq 100); do eval "$1" && return; sleep 0.05; done
	echo "# gave up on: $1"
}

# --- util-linux ------------------------------------------------------------------------------------------
version logger --version
busybox syslogd -n -O /tmp/messages & syslogd=$!
await '[ -S /dev/log ]'
for o in '' '-i' '--id' '--id=7' '-t newbans' '-i -t newbans' '-t "my app" -i' '-t a/b-c_d.e' '-p auth.warning' \
	'-e' '-S 400' '-S 16' '--no-act' '--prio-prefix' '--socket-errors=off' \
	'--rfc3164' '--rfc3164 -i' '--rfc3164 -t newbans' '--rfc3164 -i -t newbans' \
	'--rfc5424' '--rfc5424 -i' '--rfc5424=notime' '--rfc5424=notq' '--rfc5424=nohost' '--rfc5424=notime,notq' \
	'--rfc5424=notime,nohost' '--rfc5424=notq,nohost' '--rfc5424=notime,notq,nohost' '--rfc5424 -i -t newbans' \
	'--rfc5424 --msgid ban' '--rfc5424 --sd-id ban@32473 --sd-param port=\"22\"' \
	'--rfc5424=notq --sd-id ban@32473 --sd-param text=\"HOST\ 198.51.100.9\ PORT\ 80\" --msgid ban -i' \
	'--octet-count' '--octet-count -i' '--octet-count --rfc5424 -i' '--octet-count --rfc3164 -t newbans'; do
	show "logger -s $o '$M'"
done
show "logger -s -i $M"
show "echo '$M' | logger -s -i"
show "echo '<34>$M' | logger -s -i --prio-prefix"
show "echo '$M' > in; logger -s -i -f in"
show "printf '\n%s\n\n' '$M' > in; logger -s -e -f in"
show "printf '\n%s\n' '$M' > in; logger -s -f in"
for o in '' '-i' '--rfc3164 -i' '--rfc5424 -i -t newbans' '--octet-count'; do
	show "logger -s -d -n 127.0.0.1 -P 514 --no-act $o '$M'"
	show "logger -s -u /dev/log $o '$M'"
done

# --- busybox ---------------------------------------------------------------------------------------------
version busybox
for o in '' '-t newbans' '-p auth.warn' '-t "newbans[7]"'; do
	show "busybox logger -s $o '$M'"
done
printf '# written by busybox syslogd\n'
for o in '' '-i -t newbans' '--rfc5424 -i'; do
	: > messages
	printf '$ %s\n' "logger $o '$M'; grep HOST /tmp/messages"
	bash -c "logger $o '$M'"
	await 'grep -q HOST messages'; grep HOST messages
done
kill $syslogd; wait $syslogd 2>/dev/null; rm -f /dev/log messages
busybox syslogd -n -S -O /tmp/messages & syslogd=$!
await '[ -S /dev/log ]'; : > messages
printf '# written by busybox syslogd -S\n$ %s\n' "busybox logger -t newbans '$M'; grep HOST /tmp/messages"
busybox logger -t newbans "$M"; await 'grep -q HOST messages'; grep HOST messages
kill $syslogd; wait $syslogd 2>/dev/null; rm -f /dev/log

# --- rsyslog ---------------------------------------------------------------------------------------------
version rsyslogd -v
cat > rsyslog.conf <<-'CONF'
	module(load="imuxsock")
	module(load="imudp") input(type="imudp" address="127.0.0.1" port="10514")
	template(name="bare" type="string" string="%msg%\n")
	template(name="raw" type="string" string="%rawmsg%\n")
	*.* action(type="omfile" file="/tmp/traditional" template="RSYSLOG_TraditionalFileFormat")
	*.* action(type="omfile" file="/tmp/iso" template="RSYSLOG_FileFormat")
	*.* action(type="omfile" file="/tmp/syslog23" template="RSYSLOG_SyslogProtocol23Format")
	*.* action(type="omfile" file="/tmp/forward" template="RSYSLOG_TraditionalForwardFormat")
	*.* action(type="omfile" file="/tmp/isoforward" template="RSYSLOG_ForwardFormat")
	*.* action(type="omfile" file="/tmp/bare" template="bare")
	*.* action(type="omfile" file="/tmp/raw" template="raw")
CONF
ip link set lo up 2>/dev/null
rsyslogd -n -f /tmp/rsyslog.conf -i /tmp/rsyslog.pid & rsyslogd=$!
await '[ -S /dev/log ]'
for o in '' '-i' '-t newbans' '-i -t newbans' '--rfc5424 -i --msgid ban' '-d -n 127.0.0.1 -P 10514 --rfc3164 -i' \
	'-d -n 127.0.0.1 -P 10514 --rfc5424 -i'; do
	for f in traditional iso syslog23 forward isoforward bare raw; do : > $f; done # rsyslogd appends
	bash -c "logger $o '$M'"
	for f in traditional iso syslog23 forward isoforward bare raw; do
		await "grep -q HOST $f"
		printf '$ %s\n' "logger $o '$M'; grep HOST /tmp/$f"; grep -a HOST $f
	done
done
kill $rsyslogd; wait $rsyslogd 2>/dev/null; rm -f /dev/log

# --- journald --------------------------------------------------------------------------------------------
version journalctl --version
mkdir -p /run/systemd/journal /run/log/journal
/lib/systemd/systemd-journald & journald=$!
await '[ -S /run/systemd/journal/dev-log ]'
ln -s /run/systemd/journal/dev-log /dev/log
logger -i -t newbans "$M"
echo "$M" | systemd-cat -t newbans
printf 'MESSAGE=%s\nSYSLOG_IDENTIFIER=newbans\n' "$M" | logger --journald
for o in short short-iso short-iso-precise short-precise short-full short-unix short-monotonic with-unit cat \
	'short --no-hostname'; do
	await "[ \$(journalctl --sync; journalctl -q --directory=/run/log/journal -t newbans | grep -c HOST) = 3 ]"
	printf '$ %s\n' "journalctl -t newbans -o $o"
	journalctl -q --directory=/run/log/journal -t newbans -o $o
done
kill $journald; wait $journald 2>/dev/null
