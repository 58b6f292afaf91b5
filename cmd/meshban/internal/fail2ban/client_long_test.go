//go:build long

package fail2ban

import (
	"fmt"
	"testing"
)

// The server runs iptables for each address that it lifts: hundreds take longer than other answers.
func TestUnbanOfManyTakesItsTime(t *testing.T) {
	var bans []string
	for n := range MaxAtOnce {
		bans = append(bans, fmt.Sprintf("sshd 10.0.%d.%d", n>>8, n&255))
	}
	dir := fake(t, bans...)
	put(t, dir, "slow", "")
	still, more, err := Client{}.Unban(t.Context(), prefixes("10.0.0.0/8"))
	if len(still) > 0 || more || err != nil {
		t.Errorf("got %d, %v, %v", len(still), more, err)
	}
}
