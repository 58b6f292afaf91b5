package ban

import (
	"fmt"
	"net/netip"
	"time"
)

// Event says what happened to an entry.
type Event uint8

// The events.
const (
	EventBan     Event = 1 // became enforced
	EventRefresh Event = 2 // stays enforced, with another end
	EventUnban   Event = 3 // lifted by an unban or a revoke
	EventExpire  Event = 4 // lifted because it expired
	EventPending Event = 5 // seen, but not by enough origins yet
	EventHeld    Event = 6 // held by a cap of its origin or by the breaker
	EventAllow   Event = 7 // lifted by an allow; or, with neither Enforce nor Lift, the allow itself
	EventUnallow Event = 8 // an allow ended
)

var eventNames = [...]string{
	EventBan: "ban", EventRefresh: "refresh", EventUnban: "unban", EventExpire: "expire",
	EventPending: "pending", EventHeld: "held", EventAllow: "allow", EventUnallow: "unallow",
}

// String returns the word that scripts rely on.
func (e Event) String() string { return nameOf(eventNames[:], "event", uint8(e)) }

// nameOf returns the i-th name, or what and i if there is none.
func nameOf(names []string, what string, i uint8) string {
	if int(i) < len(names) && names[i] != "" {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", what, i)
}

// State is how the table treats an entry.
type State uint8

// The states. The zero value means that no live ban asks for the entry.
const (
	stateNone     State = 0
	StateEnforced State = 1 // the firewall drops it
	StatePending  State = 2 // waits for more origins
	StateHeld     State = 3 // waits for the operator
	StateAllowed  State = 4 // suppressed by the never-ban list or an allow
)

var stateNames = [...]string{
	stateNone: "none", StateEnforced: "enforced", StatePending: "pending", StateHeld: "held", StateAllowed: "allowed",
}

// String returns the word that scripts rely on.
func (s State) String() string { return nameOf(stateNames[:], "state", uint8(s)) }

// Change is one thing that a call changed: what to tell watchers, and in Enforce and Lift what the firewall must do.
// Applying the changes in order to what was enforced before the call gives what [Table.EnforcedAfter] yields after it.
// For each prefix and ports a call returns at most one change from its merge, and one more from what expired when it
// began.
//
// An EventAllow or EventUnallow among the changes means that [Table.Exceptions] may have changed.
type Change struct {
	Event  Event
	Prefix netip.Prefix
	Ports  Ports
	Until  time.Time // the end that is enforced or waits; for a lifted entry, the end it had

	Was time.Time // the end that was enforced before; zero = it was not

	// The record that caused the change: its origin, when it was issued and what it says. If the ban surfaced because
	// something else ended, these describe the ban that lasts longest. If the never-ban list is the cause, Origin is
	// this node, Issued is zero and Source is RuleNever.
	Origin Origin
	Issued time.Time
	Reason string
	Source string
	Local  bool // Origin is this node

	Enforce bool // add the entry, or set its end to Until
	Lift    bool // remove the entry
}

// Rule is one entry of what the firewall should hold.
type Rule struct {
	Prefix netip.Prefix
	Ports  Ports
	Until  time.Time
	Own    bool // set only with ports: this node bans it itself
}
