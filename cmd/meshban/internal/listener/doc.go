// Package listener is HTTP for programs that are not ours: CrowdSec's bouncers, routers, proxies and scripts. It serves
// what this node's table says should be in force, as CrowdSec's local API does and as text feeds, and takes bans.
//
// It promises that nobody without a key learns or changes anything, and nobody beyond the rights of a key; that requests
// are bounded in size, time and number as on the control socket; that it never holds up the daemon: what changed is
// noted in a bounded log, from which each client's answer is made; and that no answer names a value as both new and
// deleted.
//
// A bouncer's request that finds nothing is held until something changes. The log (changes) has what was touched, not
// what became of it: an answer looks up what is in force at that moment, so a client ends up with what the table has,
// in whatever order things were noted.
package listener
