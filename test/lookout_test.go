//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// commandLimit bounds every command of an honest node under attack: five times the limit in SECURITY.md, because the
	// machine may be busy.
	commandLimit = 5 * time.Second
	// kernelLate is what a ban says that the kernel has not taken within the time that a command waits.
	kernelLate = "the kernel has not taken it within"
	// commandEvery is the time between two commands.
	commandEvery = 100 * time.Millisecond
	// grownRSS bounds by how much an honest agent's memory may grow under attack, in KiB.
	grownRSS = 64 << 10
	// sessionPort is the local port that a lookout's ssh session forwards.
	sessionPort = 9022
)

// lookout watches what must keep working under every attack: members, the gateway and the machine itself reach each honest
// node, an ssh session answers, and commands end soon.
type lookout struct {
	s       *siege
	admin   netip.Addr // from which an administrator is logged in on the first honest node
	session *rig.Conn
	pings   []*rig.Pinger
	probes  rig.Pairs // from the gateway and from admin
}

// sights is what a lookout has seen.
type sights struct {
	command    time.Duration // the longest one
	which      string
	echo       time.Duration // the longest in the ssh session
	sent, lost int           // pings
	probed     int           // probes that were not answered
	grown, rss int           // KiB: the greatest growth of an agent, and the greatest peak
	errs       []error
}

func (v sights) String() string {
	return fmt.Sprintf("commands at most %.0f ms (%s), ssh %.0f ms, %d of %d pings and %d probes lost, %d MiB more, %d MiB at most",
		ms(v.command), v.which, ms(v.echo), v.lost, v.sent, v.probed, v.grown>>10, v.rss>>10)
}

// lookOut sets up a lookout.
func (s *siege) lookOut(t *testing.T) *lookout {
	t.Helper()
	l := &lookout{s: s, admin: netip.MustParseAddr("203.0.113.77")} // far from the addresses that are measured
	first := s.honest[0]
	must(first.SSHD())(t)
	check(t, s.Authorize(first.Host, "alice"))
	first.Echo(t, netip.MustParseAddrPort("127.0.0.1:7"))
	local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), sessionPort)
	ssh := must(s.Login(l.admin, "root", first.Probe, "-L", local.String()+":127.0.0.1:7", "-N", "HOST"))(t)
	eventually(t, startLimit, func() error {
		conn, err := s.Attacker.Dial(local.Addr(), local)
		if err != nil {
			return fmt.Errorf("%w: %s", err, ssh.Stderr())
		}
		return conn.Close()
	})
	l.session = s.Connect(t, local.Addr(), local)
	eventually(t, noticeLimit, func() error {
		if first.covered(t, l.admin) == "" {
			return fmt.Errorf("the ssh session from %v is not covered", l.admin)
		}
		return nil
	})
	gateway := netip.MustParseAddr("10.78.0.254")
	for _, n := range s.honest {
		n.Answer(t, n.Mesh)
		for _, from := range s.honest {
			l.pings = append(l.pings, from.Ping(t, from.Mesh, n.Mesh))
		}
		l.probes = append(l.probes, s.prober.Watch(gateway, n.Node, rig.ClosedPort))
	}
	l.probes = append(l.probes, s.prober.Watch(l.admin, first.Node, rig.ClosedPort))
	check(t, l.probes.Control())
	return l
}

// needed returns the prefixes that a lock-out attack bans: those of members, of the gateway and of the administrator.
func (l *lookout) needed(members string) string {
	return members + ",10.78.0.0/24," + netip.PrefixFrom(l.admin, 24).Masked().String()
}

// during watches while f runs.
func (l *lookout) during(t *testing.T, f func()) sights {
	t.Helper()
	var v sights
	before := make([]int, len(l.s.honest))
	for i, n := range l.s.honest {
		before[i] = n.forgetPeak(t)
	}
	stop, begin := make(chan struct{}), time.Now()
	var both sync.WaitGroup
	both.Go(func() { v.command, v.which, v.errs = l.commands(stop) })
	var echoErr error
	both.Go(func() { v.echo, echoErr = l.echoes(stop) })
	f()
	close(stop)
	both.Wait()
	end := time.Now()
	if echoErr != nil {
		v.errs = append(v.errs, fmt.Errorf("the ssh session: %w", echoErr))
	}
	for _, p := range l.pings {
		sent, lost := p.Lost(begin, end)
		if v.sent, v.lost = v.sent+sent, v.lost+lost; lost > 0 {
			v.errs = append(v.errs, fmt.Errorf("%v: %d of %d were not answered", p, lost, sent))
		}
	}
	for _, p := range l.probes {
		sent, lost := p.Lost(begin, end)
		if v.probed += lost; lost > 0 {
			v.errs = append(v.errs, fmt.Errorf("%v: %d of %d probes were not answered", p, lost, sent))
		}
	}
	for i, n := range l.s.honest {
		peak := n.peakRSS(t)
		v.rss, v.grown = max(v.rss, peak), max(v.grown, peak-before[i])
	}
	if v.command > commandLimit {
		v.errs = append(v.errs, fmt.Errorf("%s took %v", v.which, v.command))
	}
	if v.grown > grownRSS {
		v.errs = append(v.errs, fmt.Errorf("an agent has grown by %d MiB", v.grown>>10))
	}
	return v
}

// commands runs common commands on the honest nodes in turn until stop is closed.
func (l *lookout) commands(stop <-chan struct{}) (longest time.Duration, which string, errs []error) {
	tick := time.NewTicker(commandEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		n, addr := l.s.honest[i/8%len(l.s.honest)], fmt.Sprintf("198.51.100.%d", 1+i/8%250)
		args := [][]string{
			{"status", "--json"}, {"ban", addr, "--for", "1m"}, {"why", addr}, {"members", "--json"}, {"unban", addr},
			{"allow", addr, "--for", "1m"}, {"allow", "--remove", addr}, {"held", "list"},
		}[i%8]
		begin := time.Now()
		r, err := n.Run(append([]string{"meshban"}, args...)...)
		if took := time.Since(begin); took > longest {
			longest, which = took, n.Name+": "+strings.Join(args, " ")
		}
		switch {
		case err != nil:
			errs = append(errs, err)
		case strings.Contains(r.Stderr, kernelLate) && slices.Contains(n.args, "iptables"):
			// Thousands of rules of allows take iptables-restore longer than a command waits. The answer is true; the ban
			// must follow.
			if err := rig.Within(noticeLimit, func() error {
				if r, err := n.Run("meshban", "why", addr); err != nil || !strings.Contains(r.Stdout, addr+": dropped") {
					return fmt.Errorf("%s: %s is not dropped: %v %s", n.Name, addr, err, r.Stdout)
				}
				return nil
			}); err != nil {
				errs = append(errs, err)
			}
		case r.Code != exitDone && r.Code != exitPolicy && r.Code != exitNotFound:
			errs = append(errs, fmt.Errorf("%s: %v: exit code %d: %s", n.Name, args, r.Code, r.Stderr))
		}
		select {
		case <-stop:
			return longest, which, errs
		case <-tick.C:
		}
	}
}

// echoes sends pings over the ssh session until stop is closed, and returns the longest time that an answer took.
func (l *lookout) echoes(stop <-chan struct{}) (longest time.Duration, err error) {
	tick := time.NewTicker(rig.PingEvery)
	defer tick.Stop()
	for {
		begin := time.Now()
		if err := l.session.Ping(commandLimit); err != nil {
			return commandLimit, err
		}
		longest = max(longest, time.Since(begin))
		select {
		case <-stop:
			return longest, nil
		case <-tick.C:
		}
	}
}

// forgetPeak resets the kernel's record of the agent's peak memory and returns what is resident now, in KiB:
// proc_pid_clear_refs(5).
func (n *node) forgetPeak(t testing.TB) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", n.agent.PID)
	check(t, os.WriteFile(n.Path(dir+"clear_refs"), []byte("5"), 0))
	_, rest, _ := strings.Cut(must(n.ReadFile(dir+"status"))(t), "VmRSS:")
	return must(strconv.Atoi(strings.Fields(rest + " none")[0]))(t)
}
