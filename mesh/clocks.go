package mesh

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
	// clockEvery is the least time between two checks of the members' clocks.
	clockEvery = 2 * time.Second
	// maxNamedClocks bounds the members that a clock fault names.
	maxNamedClocks = 3
)

// clockCheck is what was last reported about the members' clocks.
type clockCheck struct {
	at   time.Time
	said []memberClock
}

// memberClock is how far a member's clock is ahead of this machine's; negative: behind.
type memberClock struct {
	id    frame.ID
	ahead time.Duration
}

// checkClocks compares this machine's clock with those of live members.
func (m *Mesh) checkClocks() {
	now := m.now()
	if passed := now.Sub(m.clocks.at); passed >= 0 && passed < clockEvery {
		return
	}
	m.clocks.at = now
	known := 0
	var off []memberClock
	m.mu.Lock()
	for _, t := range m.peers.alive() { // sorted by id
		ahead, ok := m.core.PeerClock(t.ID)
		if !ok || m.core.Revocation(t.ID) != nil {
			continue
		}
		known++
		if ahead.Abs() >= clockNoticed {
			off = append(off, memberClock{t.ID, ahead})
		}
	}
	m.mu.Unlock()
	same := slices.EqualFunc(off, m.clocks.said, func(a, b memberClock) bool {
		return a.id == b.id && (a.ahead-b.ahead).Abs() < clockNoticed && (a.ahead.Abs() > frame.FutureSkew) == (b.ahead.Abs() > frame.FutureSkew)
	})
	if !same || len(off) == 0 {
		m.clocks.said = off
		m.setFault(ProblemClock, clockFault(off, known))
	}
}

// Mute returns the members that take nothing from this node because its clock is more than frame.FutureSkew ahead of
// theirs, if they are most of the members whose clock is known; else nil.
func (m *Mesh) Mute() []frame.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := 0
	var behind []frame.ID
	for _, t := range m.peers.alive() {
		ahead, ok := m.core.PeerClock(t.ID)
		if !ok || m.core.Revocation(t.ID) != nil {
			continue
		}
		if known++; ahead < -frame.FutureSkew {
			behind = append(behind, t.ID)
		}
	}
	if 2*len(behind) <= known {
		return nil
	}
	return behind
}

// ClockSkew returns how far this machine's clock is ahead of the median of the live members whose clock is known; negative:
// behind. ok is false if none is.
func (m *Mesh) ClockSkew() (ahead time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var by []time.Duration
	for _, t := range m.peers.alive() {
		if theirs, ok := m.core.PeerClock(t.ID); ok && m.core.Revocation(t.ID) == nil {
			by = append(by, -theirs)
		}
	}
	if len(by) == 0 {
		return 0, false
	}
	slices.Sort(by)
	return by[len(by)/2], true
}

// clockFault says whose clock is off, this machine's or a member's, or returns "" if none is. known is the number of
// members whose clock is known. A single member shows only that two clocks differ.
func clockFault(off []memberClock, known int) string {
	if len(off) == 0 {
		return ""
	}
	for _, sign := range []time.Duration{1, -1} {
		var by []time.Duration // differences of the members whose clock is off in this direction
		for _, c := range off {
			if sign*c.ahead > 0 {
				by = append(by, c.ahead.Abs())
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
		switch muted := c.ahead.Abs() > frame.FutureSkew; {
		case c.ahead > 0 && muted:
			effect = "this node takes no ban from it"
		case c.ahead < 0 && muted:
			way, effect = "behind", "it takes no ban from this node"
		case c.ahead < 0:
			way, effect = "behind", "the bans that it makes end earlier here"
		}
		said = append(said, fmt.Sprintf("the clock of %s is %s %s this machine's: %s", c.id, clockText(c.ahead.Abs()), way, effect))
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
