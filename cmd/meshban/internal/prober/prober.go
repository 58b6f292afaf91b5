// Package prober sends real packets to this machine as if from outside, and finds out whether the firewall drops them.
//
// A packet leaves one end of a veth pair, which lasts for the probe, and enters the machine at the other end, before every
// rule. Those from an address that should be dropped alternate with those of an address that should not: the control. The
// proof is that only the control arrives, and that the rules' own counter grew.
package prober

import (
	"errors"
	"fmt"
)

// Packets is how many packets a probe sends from each of the two addresses.
const Packets = 3

// ErrUnsupported means that this system has no veth pairs.
var ErrUnsupported = errors.New("packets can be sent on Linux only")

// Result is what a probe has found.
type Result struct {
	Arrived int    // packets that should have been dropped and were not
	Control int    // packets of the control that arrived
	Counted uint64 // packets that the rules counted as dropped meanwhile, from whatever address
	Filter  int    // rp_filter, as it applies to the packets: 0 = off
}

// Verdict reports whether the packets were dropped by the rules that were asked. why says what speaks against it, or what
// weakens the proof; "" = nothing.
func (r Result) Verdict() (dropped bool, why string) {
	hidden := "the control packet did not arrive either: a rule of this machine drops pings"
	if r.Filter > 0 {
		hidden = fmt.Sprintf("rp_filter (%d) hides the control packet, or a rule of this machine does", r.Filter)
	}
	switch {
	case r.Arrived > 0:
		return false, fmt.Sprintf("%d of %d packets got through", r.Arrived, Packets)
	case r.Counted < Packets && r.Control > 0:
		return false, "the packets did not arrive, but no rule of ours counted them: something else drops them"
	case r.Counted < Packets:
		return false, "no rule of ours counted a drop; " + hidden
	case r.Control == 0:
		return true, "by the drop counter alone: " + hidden
	}
	return true, ""
}
