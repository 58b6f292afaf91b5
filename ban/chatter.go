package ban

import "time"

// Nothing else charges ops that bring little new, yet each costs every node that hears it some microseconds. A node
// that sends more of them than this is slowed down for a while: see [Admission.Chatters].
const (
	ChatterRate  = 1000 // ops a second, sustained
	ChatterBurst = 5000 // ops at once
	// A ban repeated within chatterAgain brings little new. A list is imported again after a longer time.
	chatterAgain = 10 * time.Second
)

// Chatters charges r if it brings little new: a ban that its origin said a moment ago, any unban, allow or unallow, or
// a revoke for which its origin has no ban. It reports whether the origin sent more of these than an honest agent does.
// Call it before Merge.
func (g *Admission) Chatters(now time.Time, t *Table, r *Record) bool {
	if g.Trusts(r.Origin) || !t.idle(r) {
		return false
	}
	ms := millis(now)
	return !g.bucketOf(ms, r.Origin).take(ms, Allowance{}, partChatter, 1)
}

// idle reports whether r brings little new.
func (t *Table) idle(r *Record) bool {
	switch r.Kind {
	case KindUnban, KindUnallow, KindAllow:
		return true
	}
	last := t.lastOf(r)
	if last == nil {
		return r.Kind == KindRevoke
	}
	if r.Kind == KindRevoke {
		return last.kind != KindBan
	}
	return millis(r.Issued)-last.issued < chatterAgain.Milliseconds()
}

// lastOf returns what r's origin said last about r's prefix and ports among the bans and revokes, or nil.
func (t *Table) lastOf(r *Record) *claim {
	entry := t.entryAbout(&t.bans, r)
	if entry == 0 {
		return nil
	}
	last, _ := t.said(&t.bans, entry, r.Origin)
	if last == 0 {
		return nil
	}
	return t.bans.claims.at(last)
}
