//go:build linux && netns

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A quiet agent asks the kernel about its sets and rules twice a second, and 32 times more every 30 s. Whoever adds a
// question a second fails here, and costs every idle machine CPU time.
func TestQuietAgentAsksLittle(t *testing.T) {
	t.Parallel()
	const (
		window    = time.Minute
		questions = 2*int(window/time.Second) + 3*32 // netfilter netlink messages and questions to iptables' tables
		commands  = 0
		routes    = 2 * int(window/time.Second) // questions about interfaces and addresses
		// cpu bounds the agents that nobody traces: five times the target of 0.3 % of a processor.
		cpu = 15 * window / 1000
	)
	m := newMesh(t, setup{nodes: 3, config: "firewall: {backends: [ipset]}\n"})
	n := m.nodes[0]
	n.run(t, "ban", fresh().String(), "--for", "1h")
	m.inSync(t, syncLimit)
	during(5 * time.Second)
	before := make([]time.Duration, len(m.nodes))
	for i, n := range m.nodes {
		before[i] = must(n.agent.Usage())(t).CPU
	}
	must(n.Shell(fmt.Sprintf("timeout --signal=INT %d strace -f -e trace=sendmsg,sendto,getsockopt,execve -o /tmp/calls -p %d || true",
		int(window/time.Second), n.agent.PID)))(t)
	calls := must(n.ReadFile("/tmp/calls"))(t)
	got := map[string]int{}
	for call := range strings.Lines(calls) {
		switch {
		case strings.Contains(call, "NFNL_SUBSYS"), strings.Contains(call, "SO_GET_INFO"):
			got["questions"]++
		case strings.Contains(call, "AF_NETLINK") && !strings.Contains(call, "resumed>"):
			got["routes"]++
		case strings.Contains(call, "execve("):
			got["commands"]++
		}
	}
	t.Logf("in %v: %v", window, got)
	for what, most := range map[string]int{"questions": questions, "commands": commands, "routes": routes} {
		if got[what] > most {
			t.Errorf("%d %s in %v, want at most %d", got[what], what, window, most)
		}
	}
	if least := int(window/time.Second) / 2; got["questions"] < least {
		t.Errorf("%d questions seen, want at least %d: what did strace see?\n%.2000s", got["questions"], least, calls)
	}
	for i, n := range m.nodes[1:] {
		used := must(n.agent.Usage())(t).CPU - before[i+1]
		t.Logf("%s used %v in %v", n.Name, used, window)
		if used > cpu {
			t.Errorf("%s used %v of CPU time in %v of quiet, want at most %v", n.Name, used, window, cpu)
		}
	}
}
