//go:build linux && netns

package fw

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// insideEnv is set in a test process that runs in its own namespaces.
const insideEnv = "FW_TEST_INSIDE"

// inside reruns the calling test in a process with its own network and mount namespaces, and returns true there. The
// kernel removes all that the test made when that process ends, however it ends; its own /run keeps the xtables lock apart
// from the machine's.
func inside(tb testing.TB) bool {
	tb.Helper()
	if os.Getenv(insideEnv) == tb.Name() {
		return true
	}
	if b, ok := tb.(*testing.B); ok && b.N > 1 {
		return false // it reported its figures the first time
	}
	var pattern []string
	for part := range strings.SplitSeq(tb.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	args := []string{"-test.v=true", "-test.timeout=5m"}
	if _, ok := tb.(*testing.B); ok {
		args = append(args, "-test.run=^$", "-test.bench="+strings.Join(pattern, "/"), "-test.benchtime=1x")
	} else {
		args = append(args, "-test.run="+strings.Join(pattern, "/"))
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), insideEnv+"="+tb.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNET,
		Unshareflags: syscall.CLONE_NEWNS, // makes the mounts private too
		Pdeathsig:    syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		tb.Fatalf("in its own namespace: %v\n%s", err, text)
	}
	if !strings.Contains(text, "--- PASS: "+tb.Name()) && !strings.Contains(text, "\nPASS") {
		tb.Fatalf("ran nothing in its own namespace:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if _, isBench := tb.(*testing.B); isBench && strings.Contains(line, "ns/op") || strings.Contains(line, "_test.go:") {
			tb.Log(strings.TrimSpace(line))
		}
	}
	return false
}

// variant is a backend with the command it uses.
type variant struct {
	name     string
	backend  string
	iptables string
}

var variants = []variant{
	{"ipset+iptables-nft", NameIPSet, "iptables-nft"},
	{"ipset+iptables-legacy", NameIPSet, "iptables-legacy"},
	{"nftables", NameNFTables, "iptables-nft"},
	{"iptables-nft", NameIPTables, "iptables-nft"},
	{"iptables-legacy", NameIPTables, "iptables-legacy"},
}

// eachVariant runs f for every backend, each time in fresh namespaces with an attacker beside the node.
func eachVariant(t *testing.T, f func(t *testing.T, r *rig, v variant)) { inVariants(t, true, f) }

// oneVariantAtATime is eachVariant for tests that send as fast as they can.
func oneVariantAtATime(t *testing.T, f func(t *testing.T, r *rig, v variant)) {
	inVariants(t, false, f)
}

func inVariants(t *testing.T, together bool, f func(t *testing.T, r *rig, v variant)) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			if together { // each has its own process, and most of them wait for packets that get no answer
				t.Parallel()
			}
			if inside(t) {
				f(t, newRig(t), v)
			}
		})
	}
}

// rig is the node, in this process's namespace, and an attacker's namespace behind a veth pair.
type rig struct {
	tb       testing.TB
	attacker netns.NsHandle
	ports    map[uint16]*listener
	sent     uint64
}

// Addresses of the two ends; the attacker also owns attackNets.
const (
	node4, attack4 = "10.9.0.1", "10.9.0.2"
	node6, attack6 = "fd09::1", "fd09::2"
)

var attackNets = []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15", "2001:db8::/32"}

func newRig(tb testing.TB) *rig {
	r := &rig{tb: tb, ports: map[uint16]*listener{}}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		tb.Fatal("mount /run: ", err)
	}
	sh(tb, "ip netns add attacker")
	ns, err := netns.GetFromName("attacker")
	if err != nil {
		tb.Fatal(err)
	}
	r.attacker = ns
	tb.Cleanup(func() { _ = ns.Close() })
	shared := func() {
		sysctl(tb, "/proc/sys/net/ipv4/conf/all/rp_filter", "0")
		sysctl(tb, "/proc/sys/net/ipv6/conf/default/accept_dad", "0") // otherwise link-local addresses are unusable for a second
	}
	shared()
	r.onAttacker(func() {
		shared()
		sysctl(tb, "/proc/sys/net/ipv4/ip_nonlocal_bind", "1")
		sysctl(tb, "/proc/sys/net/ipv6/ip_nonlocal_bind", "1")
	})
	sh(tb, "ip link set lo up; ip -n attacker link set lo up")
	sh(tb, "ip link add veth0 type veth peer name veth1 netns attacker")
	sh(tb, "ip addr add "+node4+"/24 dev veth0; ip addr add "+node6+"/64 dev veth0 nodad; ip link set veth0 up")
	sh(tb, "ip -n attacker addr add "+attack4+"/24 dev veth1; ip -n attacker addr add "+attack6+
		"/64 dev veth1 nodad; ip -n attacker link set veth1 up")
	for _, p := range attackNets {
		via := attack4
		if strings.Contains(p, ":") {
			via = attack6
		}
		sh(tb, "ip route add "+p+" via "+via+"; ip -n attacker route add local "+p+" dev lo")
	}
	// The kernel assigns these in its own time, which is long on a busy machine with many namespaces.
	eventually(tb, patience, "both ends have a link-local address to solicit neighbours from", func() bool {
		both := sh(tb, "ip -6 addr show dev veth0 scope link; ip -n attacker -6 addr show dev veth1 scope link")
		return strings.Count(both, "inet6 fe80::") == 2 && !strings.Contains(both, "tentative")
	})
	return r
}

// onAttacker calls f on a thread that is in the attacker's namespace and pinned to one processor, so that its packets keep
// their order.
func (r *rig) onAttacker(f func()) {
	r.tb.Helper()
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var one unix.CPUSet
		one.Set(0)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			done <- err
			return
		}
		if err := netns.Set(r.attacker); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		r.tb.Fatal("enter the attacker's namespace: ", err)
	}
}

// open opens the variant's backend or fails the test.
func (r *rig) open(v variant, outbound Outbound) Backend {
	r.tb.Helper()
	b, attempts, err := Open(context.Background(), []string{v.backend}, Options{IPTables: v.iptables, Outbound: outbound})
	if err != nil {
		r.tb.Fatal(err)
	}
	if len(attempts) != 1 || (attempts[0].Note != "") != (v.backend == NameIPTables) {
		r.tb.Fatalf("attempts: %+v", attempts)
	}
	r.tb.Cleanup(func() { _ = b.Close() })
	return b
}

// sh runs a shell script and returns its output.
func sh(tb testing.TB, script string) string {
	tb.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

func sysctl(tb testing.TB, path, value string) {
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		tb.Error(err)
	}
}

// patience bounds the wait for what must happen, however busy the machine is.
const patience = 30 * time.Second

// eventually re-checks a condition until it holds, for at most limit.
func eventually(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
}
