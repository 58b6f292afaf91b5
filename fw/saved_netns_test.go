//go:build linux && netns

package fw

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Rules that are saved while the agent runs name its sets. At the next boot they are loaded before the agent makes the
// sets again, so the load used to fail and none of the administrator's rules were in force.
func TestSavedRulesLoadBeforeTheAgentStarts(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		if v.backend != NameIPSet {
			return // the others name no sets in iptables rules
		}
		banned := state(entry("198.51.100.2"), entry("203.0.113.0/24"), entry("2001:db8::1"))
		b := r.open(v, OutboundDrop)
		if err := b.Replace(ctx, time.Now(), banned); err != nil {
			t.Fatal(err)
		}
		sh(t, strings.NewReplacer("IPT", v.iptables, "IP6T", strings.Replace(v.iptables, "ip", "ip6", 1)).Replace(`
			for i in IPT IP6T; do $i -w -P INPUT DROP; $i -w -A INPUT -i lo -j ACCEPT; done
			IPT -w -A INPUT -s 198.51.100.0/24,`+attack4+` -j ACCEPT; IP6T -w -A INPUT -p ipv6-icmp -j ACCEPT
			IPT-save >/run/saved4; IP6T-save >/run/saved6`))
		// A boot: nothing is in the kernel.
		if _, err := Teardown(ctx, Options{}); err != nil {
			t.Fatal(err)
		}
		load := v.iptables + "-restore </run/saved4 && " + strings.Replace(v.iptables, "ip", "ip6", 1) + "-restore </run/saved6"
		sh(t, strings.NewReplacer("IPT", v.iptables).Replace("IPT -w -F INPUT; IPT -w -P INPUT ACCEPT"))
		if out, err := exec.Command("sh", "-c", load).CombinedOutput(); err == nil {
			t.Fatalf("the rules load without the sets, so this test shows nothing: %s", out)
		}
		for _, command := range EmptySets() {
			sh(t, "ipset -exist "+command)
			sh(t, "ipset -exist "+command) // they may already be there
		}
		sh(t, load)
		r.want(false, "192.0.2.1") // because of the administrator's policy
		r.want(true, "198.51.100.1")
		b = r.open(v, OutboundDrop)
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("after the start: %q, %v", problems, err)
		}
		if err := b.Replace(ctx, time.Now(), banned); err != nil {
			t.Fatal(err)
		}
		r.want(true, "198.51.100.1")
		r.want(false, "198.51.100.2")
	})
}
