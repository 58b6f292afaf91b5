// Package rig builds small fleets of servers out of Linux namespaces, so that
// tests can run the real program with real daemons and judge it by packets.
//
// A Fleet has one attacker and n nodes. Each of them is a Host: a process of
// this same test binary that runs as process 1 in its own network, mount,
// process-id, host-name and IPC namespaces, on an overlay of the machine's
// root whose upper layer is a tmpfs. What a test writes there (in /etc too)
// stays there. /run, /tmp, /dev and /var/log are empty tmpfs mounts, so the
// xtables lock, /dev/log and control sockets are the host's own;
// /var/lib/meshban is a folder on the real disk, so that fsync has its real
// cost.
//
// Every node has two interfaces: mesh0 (10.77.0.i, fd77::i) carries the
// product's traffic and has byte counters; probe0 (10.78.0.i, fd78::i) carries
// probes. The attacker answers for 192.0.2.0/24, 198.51.100.0/24,
// 203.0.113.0/24, 198.18.0.0/15 and 2001:db8::/32, and may send from any of
// them.
//
// No namespace has a name on the machine: each exists exactly as long as the
// process that holds it, and a holder ends with the test process, however
// that ends. Only a folder /var/tmp/meshban-test-<pid>-* can be left behind;
// Main removes those of dead owners.
//
// A test package calls Main from its TestMain. Everything except this file
// needs Linux, root and the build tag netns.
package rig
