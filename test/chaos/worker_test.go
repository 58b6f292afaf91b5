//go:build linux && netns

package chaos

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Workers ban for leastBrief to mostBrief, or for longBan. A run of 40 minutes judges the agents' memory after
	// its first third; by then, what a node keeps of a ban until its end must no longer grow.
	leastBrief, mostBrief = 5 * time.Second, 30 * time.Second
	longBan               = 10 * time.Minute
	// liftable is how long a ban must still last for a node to lift it: the command may take that long.
	liftable = 90 * time.Second
	// importSize is the number of addresses in an imported list.
	importSize = 25
)

// worker does one node's part of a round.
type worker struct {
	*world
	node  *node
	share []netip.Prefix
	next  int // in share
}

// take returns the next n prefixes of the worker's share, and begins again after the last.
func (k *worker) take(n int) (ps []netip.Prefix) {
	for range n {
		ps = append(ps, k.share[k.next%len(k.share)])
		k.next++
	}
	return ps
}

func (k *worker) do(s step) {
	n := k.node
	switch s.do {
	case doBan:
		k.ban(k.take(s.count), k.length(s), false)
	case doUnban:
		live := k.oracle.live(k.share, time.Now().Add(liftable))
		k.unban(live[:min(len(live), s.count)], false)
	case doRace:
		ps := []netip.Prefix{k.raced[s.pick%uint64(len(k.raced))]}
		if s.long {
			k.ban(ps, k.length(s), true)
		} else {
			k.unban(ps, true)
		}
	case doImport:
		k.imports(k.take(importSize), longBan)
	case doKill:
		k.ban(k.take(s.count), longBan, false)
		k.crash(s.pause)
	case doCrash:
		k.crash(s.pause)
	case doRestart:
		k.restart(s.pause)
	case doFreeze:
		k.fault(n.agent.Signal(unix.SIGSTOP), "frozen for %v", s.pause)
		<-time.After(s.pause)
		k.fault(n.agent.Signal(unix.SIGCONT), "thawed")
	case doFlush:
		k.flush(s.pick)
	case doFull:
		k.fill(s)
	case doLocked:
		k.locked(s.pause)
	case doMove:
		k.move(s.pick)
	case doRotate:
		r, err := n.meshban("rotate", "mesh-key")
		k.fault(err, "rotates the mesh key: exit code %d %s", r.Code, strings.TrimSpace(r.Stderr))
	case doRevoke:
		k.revoke()
	default:
		k.violate(n, "", "no such step: %q", s.do)
	}
}

func (k *worker) length(s step) time.Duration {
	if s.long {
		return longBan
	}
	return leastBrief + time.Duration(s.pick%uint64(mostBrief-leastBrief)).Truncate(time.Second)
}

// fault logs what was done to the node; an error means that the rig failed.
func (k *worker) fault(err error, format string, args ...any) {
	k.say(k.node, format, args...)
	if err != nil {
		k.violate(k.node, "", "the rig failed: %v", err)
	}
}

// words returns prefixes as command-line arguments.
func words(ps []netip.Prefix) (all []string) {
	for _, p := range ps {
		if p.IsSingleIP() {
			all = append(all, p.Addr().String())
		} else {
			all = append(all, p.String())
		}
	}
	return all
}

// kernelLate is what a ban answers on a machine that stands still for a second.
const kernelLate = "the kernel has not taken it within"

// notOnDisk is what an answer says of a change that a kill may lose: the agent may not have noticed yet that its disk has
// room again.
const notOnDisk = "not on disk yet"

// run runs a command about prefixes. It must succeed unless other nodes race with it, the disk is full, the node is
// revoked meanwhile, or its kernel is late.
func (k *worker) run(ps []netip.Prefix, raced bool, args ...string) command {
	n := k.node
	k.oracle.begin(ps...)
	c := command{by: n.id, start: time.Now(), weak: n.full, raced: raced}
	r, err := n.meshban(args...)
	c.end, c.acked = time.Now(), err == nil && r.Code == exitDone
	k.say(n, "%s: exit code %d after %v", strings.Join(args, " "), r.Code, c.end.Sub(c.start).Round(time.Millisecond))
	c.weak = c.weak || strings.Contains(r.Stdout+r.Stderr, notOnDisk)
	late := strings.Contains(r.Stderr, kernelLate)
	if late {
		k.mu.Lock()
		k.late++
		k.mu.Unlock()
	}
	if refused := n.index == victim && r.Code == exitPolicy; !c.acked && !raced && !c.weak && !refused && !late {
		k.violate(n, ps[0], "%s: exit code %d, signal %d: %v %s", args[0], r.Code, r.Signal, err, r.Stderr)
	}
	return c
}

func (k *worker) ban(ps []netip.Prefix, length time.Duration, raced bool) {
	// A second, brief ban by this node would shorten the first or not count, so prefixes in force are left out.
	if !raced {
		live := k.oracle.live(ps, time.Now())
		ps = slices.DeleteFunc(ps, func(p netip.Prefix) bool { return length < longBan && slices.Contains(live, p) })
	}
	if len(ps) == 0 {
		return
	}
	c := k.run(ps, raced, append(append([]string{"ban"}, words(ps)...), "--for", length.String())...)
	k.oracle.banned(c, length, ps...)
	if c.acked && !raced {
		k.inForce(ps, true)
	}
}

func (k *worker) unban(ps []netip.Prefix, raced bool) {
	if len(ps) == 0 {
		return
	}
	c := k.run(ps, raced, append([]string{"unban"}, words(ps)...)...)
	k.oracle.lifted(c, ps...)
	if c.acked && !raced {
		k.inForce(ps, false)
	}
}

// inForce checks that the node's own kernel does what a command just acknowledged, unless another program has changed it.
func (k *worker) inForce(ps []netip.Prefix, want bool) {
	n := k.node
	if n.flushed || n.revoked || n.index == victim {
		return
	}
	elements, err := n.kernel()
	if err != nil {
		k.violate(n, "", "read the kernel: %v", err)
		return
	}
	for _, p := range ps {
		if elements[p] != want && (!want || k.oracle.mustHold(p, time.Now())) {
			k.violate(n, p, "acknowledged, but in the kernel: %v, want %v", elements[p], want)
		}
	}
}

func (k *worker) imports(ps []netip.Prefix, length time.Duration) {
	list := stateDir + "-list"
	if err := k.node.WriteFile(list, strings.Join(words(ps), "\n")+"\n"); err != nil {
		k.violate(k.node, "", "the rig failed: %v", err)
		return
	}
	c := k.run(ps, false, "import", list, "--for", length.String())
	k.oracle.banned(c, length, ps...)
}

// crash kills the agent with SIGKILL and starts it again later.
func (k *worker) crash(pause time.Duration) {
	k.fault(k.node.agent.Kill(false), "killed for %v", pause)
	k.oracle.killed(k.node.id)
	<-time.After(pause)
	k.start()
}

func (k *worker) start() {
	if err := k.node.started(); err != nil {
		k.violate(k.node, "", "%v", err)
	}
	k.say(k.node, "started")
}

func (k *worker) restart(pause time.Duration) {
	exit, err := k.node.agent.Stop()
	k.fault(err, "stopped: %+v", exit)
	if exit.Code != exitDone {
		k.violate(k.node, "", "the agent ended with %+v\n%s", exit, k.node.agent.Tail(20))
	}
	<-time.After(pause)
	k.start()
}

// flushes are what other programs do to the firewall.
var flushes = [][]string{
	{
		"iptables -w -t raw -F; ip6tables -w -t raw -F",
		"ipset flush",
		"ipset flush meshban4; ipset flush meshban6n",
		"nft flush ruleset",
		"iptables -w -t raw -F; ip6tables -w -t raw -F; ipset destroy",
		"for e in $(ipset save | awk '$1 == \"add\" && $2 == \"meshban4\" && NR % 3 == 0 { print $3 }'); do ipset del meshban4 $e; done",
	},
	{
		"nft flush ruleset",
		"nft delete table inet meshban",
		"for s in $(nft list table inet meshban | awk '$1 == \"set\" { print $2 }'); do nft flush set inet meshban $s; done",
	},
}

func (k *worker) flush(pick uint64) {
	scripts := flushes[0]
	if k.node.index == nft {
		scripts = flushes[1]
	}
	script := scripts[pick%uint64(len(scripts))]
	k.node.flushed = true
	_, err := k.node.Run("sh", "-c", script) // a command may fail if the agent repairs the firewall before it
	k.fault(err, "%s", script)
}

// fill fills the disk for a while, during which the node bans.
func (k *worker) fill(s step) {
	n := k.node
	_, err := n.Run("dd", "if=/dev/zero", "of="+stateDir+"/full", "bs=4k")
	n.full = true
	k.fault(err, "the disk is full for %v", s.pause)
	k.ban(k.take(s.count), longBan, false)
	<-time.After(s.pause)
	if s.long && killable(n.index) { // without free space it may not start
		k.fault(n.agent.Kill(false), "killed with a full disk")
		k.oracle.killed(n.id)
		k.fault(n.start(), "started with a full disk")
	}
	_, err = n.Do("rm", stateDir+"/full")
	k.fault(err, "the disk has room")
	n.full = false
	if !n.agent.Running() {
		k.say(n, "it did not start: %s", n.agent.Tail(3))
		k.start()
	}
}

// locked starts the agent on a read-only disk. It may refuse.
func (k *worker) locked(pause time.Duration) {
	n := k.node
	k.fault(n.agent.Kill(false), "killed")
	k.oracle.killed(n.id)
	_, err := n.Do("mount", "-o", "remount,ro", stateDir)
	k.fault(err, "the disk is read-only")
	k.fault(n.start(), "started on a read-only disk")
	<-time.After(pause)
	if n.agent.Running() {
		k.fault(n.agent.Kill(false), "killed")
	} else {
		k.say(n, "it did not start: %s", n.agent.Tail(3))
	}
	_, err = n.Do("mount", "-o", "remount,rw", stateDir)
	k.fault(err, "the disk is writable")
	k.start()
}

// move gives the node another address.
func (k *worker) move(pick uint64) {
	n := k.node
	old := n.addr.As4()
	next := old
	next[3] = byte(n.index+1) + 10*byte(pick%20)
	if next == old {
		next[3] += 10
	}
	n.addr = netip.AddrFrom4(next)
	_, err := n.Shell(fmt.Sprintf("ip addr add %v/24 dev %s; ip addr del %v/24 dev %[2]s", n.addr, meshLink, netip.AddrFrom4(old)))
	k.fault(err, "moved to %v", n.addr)
}

// revoke revokes the victim. Its worker goes on, but its commands no longer count.
func (k *worker) revoke() {
	bad := k.nodes[victim]
	id := bad.id
	r, err := k.node.meshban("revoke", id, "--yes")
	if err != nil || r.Code != exitDone {
		k.violate(k.node, "", "revoke: exit code %d: %v %s", r.Code, err, r.Stderr)
		return
	}
	k.oracle.revoke(id)
	k.say(k.node, "revoked %s, %s", bad.Name, id)
	k.shutOut = bad
}
