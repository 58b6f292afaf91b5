package ban

import (
	"testing"
	"time"
)

// A peer that kept repeating what it had just said paid nothing, and cost each node some microseconds an op.
func TestChatter(t *testing.T) {
	tb, now := newTable(t, Config{}), time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	g := newAdmission(wideCaps, wideCaps.Allowance)
	seq := uint64(0)
	say := func(o Origin, kind Kind, at time.Time) bool {
		seq++
		r := Record{
			Op:     Op{Kind: kind, Prefix: pfx("192.0.2.1/32"), Until: at.Add(time.Hour)},
			Origin: o, Version: Version{1, seq, 0}, Issued: at,
		}
		if kind == KindUnban {
			r.Marks = []Mark{{peerC, 1, 1}}
		}
		too := g.Chatters(at, tb, &r)
		tb.Merge(at, single(r))
		return too
	}
	many := func(o Origin, kind Kind, every time.Duration) (heard int) {
		for range 2 * ChatterBurst {
			if now = now.Add(every); say(o, kind, now) {
				return heard
			}
			heard++
		}
		return heard
	}
	for _, c := range []struct {
		name  string
		by    Origin
		kind  Kind
		every time.Duration
		bad   bool
	}{
		{"bad: a ban again", peerA, KindBan, 0, true},
		{"bad: unbans", peerB, KindUnban, 0, true},
		{"bad: revokes of nothing", peerC, KindRevoke, 0, true},
		{"ok: own bans", self, KindBan, 0, false},
		{"ok: a list that is said again after a minute", peerB, KindBan, time.Minute, false},
		{"ok: no faster than agents are heard", peerA, KindBan, time.Second / ChatterRate, false},
	} {
		now = now.Add(time.Hour)
		if heard := many(c.by, c.kind, c.every); c.bad != (heard < 2*ChatterBurst) || c.bad && heard < ChatterBurst {
			t.Errorf("%s: too much after %d", c.name, heard)
		}
	}
}
