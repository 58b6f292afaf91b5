package roster

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

const (
	// clockNoticed is the least difference between two clocks that is a problem. Time that the measuring session may have
	// spent in transit is not counted.
	clockNoticed = 2 * time.Second
	// maxNamedClocks bounds the members that a clock fault names.
	maxNamedClocks = 3
)

// Clock is how far a member's clock is ahead of this machine's; negative: behind.
type Clock struct {
	ID    frame.ID
	Ahead time.Duration
}

// ClocksOff returns the clocks that differ from this machine's.
func ClocksOff(all []Clock) (off []Clock) {
	for _, c := range all {
		if c.Ahead.Abs() >= clockNoticed {
			off = append(off, c)
		}
	}
	return off
}

// SameClocks reports whether there is nothing new to say of the clocks a that was not said of b.
func SameClocks(a, b []Clock) bool {
	return slices.EqualFunc(a, b, func(a, b Clock) bool {
		return a.ID == b.ID && (a.Ahead-b.Ahead).Abs() < clockNoticed && (a.Ahead.Abs() > frame.FutureSkew) == (b.Ahead.Abs() > frame.FutureSkew)
	})
}

// Mute returns the members that take nothing from this node because its clock is more than frame.FutureSkew ahead of
// theirs, if they are most of all; else nil.
func Mute(all []Clock) (behind []frame.ID) {
	for _, c := range all {
		if c.Ahead < -frame.FutureSkew {
			behind = append(behind, c.ID)
		}
	}
	if 2*len(behind) <= len(all) {
		return nil
	}
	return behind
}

// ClockFault says whose clock is off, this machine's or a member's, or returns "" if none is. known is the number of
// members whose clock is known. A single member shows only that two clocks differ.
func ClockFault(off []Clock, known int) string {
	if len(off) == 0 {
		return ""
	}
	for _, sign := range []time.Duration{1, -1} {
		var by []time.Duration // differences of the members whose clock is off in this direction
		for _, c := range off {
			if sign*c.Ahead > 0 {
				by = append(by, c.Ahead.Abs())
			}
		}
		if 2*len(by) <= known+1 {
			continue
		}
		slices.Sort(by)
		way, effect := "ahead of", "the bans that it makes last longer there"
		most := by[len(by)/2]
		switch {
		case sign > 0 && most > frame.FutureSkew:
			way, effect = "behind", "it takes no ban from them"
		case sign > 0:
			way, effect = "behind", "the bans that it makes end earlier there"
		case most > frame.FutureSkew:
			effect = "they take no ban from it"
		}
		return fmt.Sprintf("this machine's clock is %s %s that of %d of %d members: %s; set it right", clockText(most), way, len(by), known, effect)
	}
	var said []string
	for _, c := range off[:min(len(off), maxNamedClocks)] {
		way, effect := "ahead of", "the bans that it makes last longer here"
		switch muted := c.Ahead.Abs() > frame.FutureSkew; {
		case c.Ahead > 0 && muted:
			effect = "this node takes no ban from it"
		case c.Ahead < 0 && muted:
			way, effect = "behind", "it takes no ban from this node"
		case c.Ahead < 0:
			way, effect = "behind", "the bans that it makes end earlier here"
		}
		said = append(said, fmt.Sprintf("the clock of %s is %s %s this machine's: %s", c.ID, clockText(c.Ahead.Abs()), way, effect))
	}
	if more := len(off) - len(said); more > 0 {
		said = append(said, fmt.Sprintf("and those of %d more differ", more))
	}
	return strings.Join(said, "; ") + "; set the wrong one right"
}

// clockText formats a clock difference: in days from 48 hours on, else to the second.
func clockText(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	text := d.Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
