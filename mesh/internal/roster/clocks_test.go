package roster

import (
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// One member's clock shows only that two clocks differ; the clocks of most members show whose is off.
func TestClockFault(t *testing.T) {
	a, b, c, d, e := frame.ID{1}, frame.ID{2}, frame.ID{3}, frame.ID{4}, frame.ID{5}
	for _, tt := range []struct {
		name  string
		off   []Clock
		known int
		want  string
	}{
		{"ok: none is off", nil, 3, ""},
		{"bad: one, ahead", []Clock{{a, 7 * time.Minute}}, 1,
			"the clock of " + a.String() + " is 7m ahead of this machine's: this node takes no ban from it; set the wrong one right"},
		{"bad: one, behind", []Clock{{a, -7*time.Minute - 1400*time.Millisecond}}, 1,
			"the clock of " + a.String() + " is 7m1s behind this machine's: it takes no ban from this node; set the wrong one right"},
		{"bad: a little", []Clock{{a, 3 * time.Second}}, 3,
			"the clock of " + a.String() + " is 3s ahead of this machine's: the bans that it makes last longer here; set the wrong one right"},
		{"bad: both others are behind", []Clock{{a, -400 * 24 * time.Hour}, {b, -400 * 24 * time.Hour}}, 2,
			"this machine's clock is 400d ahead of that of 2 of 2 members: they take no ban from it; set it right"},
		{"bad: most are ahead", []Clock{{a, time.Hour}, {b, time.Hour}, {c, time.Hour}}, 4,
			"this machine's clock is 1h behind that of 3 of 4 members: it takes no ban from them; set it right"},
		{"bad: half of all, this one included, are ahead", []Clock{{a, time.Hour}, {b, time.Hour}}, 3,
			"the clock of " + a.String() + " is 1h ahead of this machine's: this node takes no ban from it; the clock of " +
				b.String() + " is 1h ahead of this machine's: this node takes no ban from it; set the wrong one right"},
	} {
		if got := ClockFault(tt.off, tt.known); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
	var many []Clock
	for _, id := range []frame.ID{a, b, c, d, e} {
		many = append(many, Clock{id, time.Minute})
	}
	if got := ClockFault(many, 100); !strings.Contains(got, "; and those of 2 more differ; ") {
		t.Errorf("five of a hundred: %s", got)
	}
}
