//go:build linux && netns

package prober

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// insideEnv is set in the test process that runs in its own namespaces.
const insideEnv = "PROBER_TEST_INSIDE"

var banned, control = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")

// TestProbe sends real packets to a machine with one address, with rules that a probe must tell apart.
func TestProbe(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestProbe$", "-test.v")
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestProbe") {
			t.Fatalf("in its own namespace: %v\n%s", err, out)
		}
		return
	}
	sh(t, "mount -t tmpfs tmpfs /run; ip link set lo up")
	if _, err := Probe(t.Context(), banned, control, count); err == nil || !strings.Contains(err.Error(), "no IPv4 address") {
		t.Errorf("a machine without an address: %v", err)
	}
	sh(t, "ip link add eth0 type veth peer name eth1; ip link set eth1 up; ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 up; ip route add default via 10.9.0.2")
	const drop = "iptables -t raw -A PREROUTING -s 192.0.2.7 -j DROP"
	for _, c := range []struct {
		name, before, after string
		dropped             bool
		why                 string
	}{
		{"dropped", drop, "", true, ""},
		{"rp_filter hides nothing, because of the route", drop + "; sysctl -w net.ipv4.conf.all.rp_filter=1", "sysctl -w net.ipv4.conf.all.rp_filter=0", true, ""},
		{"no rule", "true", "", false, "3 of 3 packets got through"},
		{"a pair is left of an agent that was killed", drop + "; ip link add mbdrill0 type veth peer name mbdrill1", "", true, ""},
		{
			"another route back, and rp_filter", drop + "; sysctl -w net.ipv4.conf.all.rp_filter=1; ip route add default via 10.9.0.2 table 77; ip rule add prio 9 lookup 77",
			"ip rule del prio 9; sysctl -w net.ipv4.conf.all.rp_filter=0", true, "by the drop counter alone: rp_filter (1) hides",
		},
		{"pings are dropped", drop + "; iptables -A INPUT -p icmp -j DROP", "iptables -F INPUT", true, "by the drop counter alone: the control packet"},
		{"another rule drops", "iptables -A INPUT -s 192.0.2.7 -j DROP", "iptables -F INPUT", false, "something else drops them"},
		{"all pings are dropped, and no rule of ours", "iptables -A INPUT -p icmp -j DROP", "iptables -F INPUT", false, "no rule of ours counted a drop; the control packet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sh(t, "iptables -t raw -F; "+c.before)
			r, err := Probe(t.Context(), banned, control, count)
			if dropped, why := r.Verdict(); err != nil || dropped != c.dropped || !strings.Contains(why, c.why) || c.why == "" && why != "" {
				t.Errorf("%+v, %v: dropped %t, %q; want %t, %q", r, err, dropped, why, c.dropped, c.why)
			}
			if c.after != "" {
				sh(t, c.after)
			}
			sh(t, "! ip -o link | grep mbdrill; ! ip route show table all | grep 192.0.2.")
		})
	}
	if _, err := Probe(t.Context(), banned, control, func(context.Context) (uint64, error) { return 0, os.ErrPermission }); err == nil {
		t.Error("a counter that cannot be read is no error")
	}
	sh(t, "! ip -o link | grep mbdrill")
}

func sh(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// count reads the counters of the rules that drop in PREROUTING.
func count(ctx context.Context) (n uint64, err error) {
	out, err := exec.CommandContext(ctx, "iptables", "-t", "raw", "-nvxL", "PREROUTING").Output()
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) > 2 && words[2] == "DROP" && err == nil {
			n, err = strconv.ParseUint(words[0], 10, 64)
		}
	}
	return n, err
}
