package mesh

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/roster"
)

// clockEvery is the least time between two checks of the members' clocks.
const clockEvery = 2 * time.Second

// clockCheck is what was last reported about the members' clocks.
type clockCheck struct {
	at   time.Time
	said []roster.Clock
}

// clocksLocked returns the clocks of live members, as far as they are known, sorted by id. The core is locked.
func (m *Mesh) clocksLocked() (all []roster.Clock) {
	for _, t := range m.peers.alive() {
		if ahead, ok := m.core.PeerClock(t.ID); ok && m.core.Revocation(t.ID) == nil {
			all = append(all, roster.Clock{ID: t.ID, Ahead: ahead})
		}
	}
	return all
}

// checkClocks compares this machine's clock with those of live members.
func (m *Mesh) checkClocks() {
	now := m.now()
	if passed := now.Sub(m.clocks.at); passed >= 0 && passed < clockEvery {
		return
	}
	m.clocks.at = now
	m.mu.Lock()
	all := m.clocksLocked()
	m.mu.Unlock()
	if off := roster.ClocksOff(all); len(off) == 0 || !roster.SameClocks(off, m.clocks.said) {
		m.clocks.said = off
		m.setFault(ProblemClock, roster.ClockFault(off, len(all)))
	}
}

// Mute returns the members that take nothing from this node because its clock is more than frame.FutureSkew ahead of
// theirs, if they are most of the members whose clock is known; else nil.
func (m *Mesh) Mute() []frame.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return roster.Mute(m.clocksLocked())
}

// ClockAhead returns by how much a member's clock is ahead of this machine's, at least; negative: behind. 0 also means that
// it is not known.
func (m *Mesh) ClockAhead(id frame.ID) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	ahead, _ := m.core.PeerClock(id)
	return ahead
}

// ClockSkew returns how far this machine's clock is ahead of the median of the live members whose clock is known; negative:
// behind. ok is false if none is.
func (m *Mesh) ClockSkew() (ahead time.Duration, ok bool) {
	m.mu.Lock()
	all := m.clocksLocked()
	m.mu.Unlock()
	if len(all) == 0 {
		return 0, false
	}
	slices.SortFunc(all, func(a, b roster.Clock) int { return cmp.Compare(b.Ahead, a.Ahead) })
	return -all[len(all)/2].Ahead, true
}
