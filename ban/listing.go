package ban

import (
	"fmt"
	"slices"
	"time"
)

// Never returns the never-ban list, built-in entries included, in ascending order.
func (t *Table) Never() []NeverEntry {
	out := make([]NeverEntry, 0, len(t.never.why))
	for k, why := range t.never.why {
		out = append(out, NeverEntry{k.prefix(), why})
	}
	slices.SortFunc(out, func(a, b NeverEntry) int { return a.Prefix.Compare(b.Prefix) })
	return out
}

// Allows returns the allows in force in ascending order: for each prefix the one that lasts longest.
func (t *Table) Allows() []Record {
	var out []Record
	for i := uint32(1); i < t.allows.entries.end; i++ {
		if e := t.allows.entries.at(i); e.state == StateEnforced {
			out = append(out, t.recordOf(&t.allows, t.leading(&t.allows, e)))
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return a.Prefix.Compare(b.Prefix) })
	return out
}

// SetPolicy replaces the limits, which apply to new records, and the quorums, by which it judges every entry again. It
// returns what changed.
func (t *Table) SetPolicy(now time.Time, l Limits, q Quorum, by ...SourceQuorum) ([]Change, error) {
	limits, err := l.normal()
	if err != nil {
		return nil, fmt.Errorf("ban limits: %w", err)
	}
	quorum, err := q.normal()
	if err != nil {
		return nil, err
	}
	sources, err := normalSources(by)
	if err != nil {
		return nil, err
	}
	changes := t.expire(millis(now))
	same := t.limits.FutureSkew == limits.FutureSkew && t.quorum == quorum && slices.Equal(t.sources, sources)
	t.limits = limits
	if same {
		return changes, nil
	}
	t.quorum, t.sources = quorum, sources
	for i := uint32(1); i < t.allows.entries.end; i++ {
		if t.allows.entries.at(i).claims != 0 {
			t.touch(&t.allows, i, cause{origin: t.self})
		}
	}
	for i := uint32(1); i < t.bans.entries.end; i++ {
		switch e := t.bans.entries.at(i); {
		case e.claims == 0:
		case e.state == stateNone: // cancels may reach less far now
			t.touch(&t.bans, i, cause{origin: t.self})
		default:
			t.touch(&t.bans, i, t.causeOfClaim(t.bans.claims.at(t.leading(&t.bans, e))))
		}
	}
	t.work(MaxTouch) // allows that now count, or no longer do, have made chores of the bans inside them
	return t.finish(changes), nil
}
