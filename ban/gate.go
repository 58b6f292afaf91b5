package ban

import "time"

// Bounds of a gate.
const (
	MaxHeld    = 1 << 17 // bans that wait for the operator; what would be one more is refused
	MaxOrigins = 1 << 13 // origins with an account of their own; the others share one
	MaxOthers  = 100_000 // ops of one origin an hour, and at once, that are no bans; one more is refused
)

// SourceImport is the Op.Source that marks a ban as one of a list: it is charged to the bulk.
const SourceImport = "import"

// lateAfter is from what age on a ban that arrives counts as bulk: it comes from a peer that was
// away, or this node was. A peer that dates its bans back gains no more than by the mark of imports,
// though it may not import: what it may have in force bounds that.
const lateAfter = 5 * time.Minute

// Allowance bounds how fast new bans come. What a refresh repeats is not new.
type Allowance struct {
	Rate  int // new bans a minute, sustained
	Burst int // new bans at once
	Bulk  int // new bans an hour, and at once, of lists and of what comes late
}

// Caps bound what one origin may say. Zero widths and a zero MaxFor are those of the table.
type Caps struct {
	Allowance
	Active   int           // live records
	MinBits4 int           // shortest IPv4 prefix
	MinBits6 int           // shortest IPv6 prefix
	MaxFor   time.Duration // longest time from its issue that a ban may last
	UnbanAny bool          // may lift what others banned: unban, and allow
	Import   bool          // lists count against Bulk; else like other bans
}

// GateConfig is what a gate needs; all of it is required.
type GateConfig struct {
	Self    Origin            // whose records pass
	Caps    func(Origin) Caps // what an origin may say
	Breaker Allowance         // of all other origins together
}

// Gate stands before [Table.Merge] and holds each origin to its caps and all of them to the breaker.
// It is not safe for concurrent use.
type Gate struct {
	cfg     GateConfig
	breaker account
	origins map[Origin]*account
	others  account // of origins beyond MaxOrigins
	purged  int64
}

// NewGate returns a gate at which nobody has said anything yet.
func NewGate(cfg GateConfig) *Gate {
	return &Gate{cfg: cfg, origins: make(map[Origin]*account)}
}

// SetBreaker replaces the allowance of all origins together, for what comes from now on.
func (g *Gate) SetBreaker(a Allowance) { g.cfg.Breaker = a }

// Check reports whether a record may be merged at all, whatever its origin has said before: what
// CheckRemote asks, in the bounds of the origin's caps. A refusal is a *PolicyError. Of an unban by an
// origin that may not lift the bans of others, only the marks of its own stay.
func (g *Gate) Check(now time.Time, t *Table, r *Record) error {
	if r.Origin == g.cfg.Self {
		return t.CheckRemote(now, *r)
	}
	caps := g.cfg.Caps(r.Origin)
	return caps.checkRemote(now, t, r)
}

func (c *Caps) checkRemote(now time.Time, t *Table, r *Record) error {
	if err := t.checkRemote(now, *r, c.MinBits4, c.MinBits6); err != nil {
		return err
	}
	return c.check(r, t.limits.FutureSkew)
}

func (c *Caps) check(r *Record, skew time.Duration) error {
	if r.Kind == KindBan && c.MaxFor != 0 && r.Until.After(r.Issued.Add(c.MaxFor+skew)) {
		return refuse(RuleLong, "ban of %s lasts too long: until %s, its origin may ban for at most %v",
			shortPrefix(r.Prefix), r.Until.UTC().Format(time.RFC3339), c.MaxFor)
	}
	if c.UnbanAny {
		return nil
	}
	switch r.Kind {
	case KindAllow:
		return refuse(RuleOthers, "allow of %s: its origin may not lift the bans of others", shortPrefix(r.Prefix))
	case KindUnban, KindUnallow:
		for _, m := range r.Marks {
			if m.Origin == r.Origin {
				r.Marks = []Mark{m}
				return nil
			}
		}
		return refuse(RuleOthers, "%s of %s: its origin may not lift the bans of others", r.Kind, shortPrefix(r.Prefix))
	}
	return nil
}

// Admit is Check, and then sets r.Hold: HoldNone if r may count, or why it waits for the operator. It
// refuses what would wait when MaxHeld bans do.
func (g *Gate) Admit(now time.Time, t *Table, r *Record) error {
	r.Hold = HoldNone
	if r.Origin == g.cfg.Self {
		return t.CheckRemote(now, *r)
	}
	caps := g.cfg.Caps(r.Origin)
	if err := caps.checkRemote(now, t, r); err != nil {
		return err
	}
	if r.Kind != KindBan {
		return g.admitOther(millis(now), t, r)
	}
	if t.stands(r) {
		return nil
	}
	bulk, ms := caps.bulky(now, r), millis(now)
	switch {
	case t.RecordsOf(r.Origin) >= caps.Active:
		r.Hold = HoldActive
	case !g.account(ms, r.Origin).take(ms, caps.Allowance, bulk):
		r.Hold = HoldRate
	case !g.breaker.take(ms, g.cfg.Breaker, bulk):
		r.Hold = HoldBreaker
	default:
		return nil
	}
	if len(t.held.ids) >= MaxHeld {
		return refuse(RuleHeldFull, "ban of %s would be held (%s), and %d bans wait for the operator already", shortPrefix(r.Prefix), r.Hold, MaxHeld)
	}
	return nil
}

// admitOther holds what is no ban to a rate. To take a ban of its own back is always free.
func (g *Gate) admitOther(now int64, t *Table, r *Record) error {
	if r.Kind == KindRevoke && t.holds(&t.bans, r) || g.account(now, r.Origin).takeOther(now) {
		return nil
	}
	return refuse(RuleRate, "%s of %s: its origin says more than %d of its kind an hour", r.Kind, shortPrefix(r.Prefix), MaxOthers)
}

// Foresee says what peers with the same caps will do with an op of this node: nil, or a *PolicyError
// by the rule for which they hold or refuse it.
func (g *Gate) Foresee(now time.Time, t *Table, op Op) error {
	self, caps := g.cfg.Self, g.cfg.Caps(g.cfg.Self)
	r := Record{Op: op, Origin: self, Issued: now}
	if err := caps.check(&r, t.limits.FutureSkew); err != nil {
		return err
	}
	if op.Kind != KindBan {
		return g.admitOther(millis(now), t, &r)
	}
	ms, bulk := millis(now), caps.bulky(now, &r)
	switch {
	case op.Prefix.Bits() < t.shortest(op, caps.MinBits4, caps.MinBits6):
		return refuse(RuleWide, "%s: peers take nothing wider than /%d", op.Prefix, t.shortest(op, caps.MinBits4, caps.MinBits6))
	case t.stands(&r):
	case t.RecordsOf(self) >= caps.Active:
		return refuse(RuleActive, "peers hold what goes beyond %d active bans of one node", caps.Active)
	case !g.account(ms, self).take(ms, caps.Allowance, bulk):
		if bulk {
			return refuse(RuleRate, "peers hold what goes beyond %d imported bans an hour of one node", caps.Bulk)
		}
		return refuse(RuleRate, "peers hold what goes beyond %d bans at once or %d a minute of one node", caps.Burst, caps.Rate)
	}
	return nil
}

func (c *Caps) bulky(now time.Time, r *Record) bool {
	return c.Import && r.Source == SourceImport || now.Sub(r.Issued) > lateAfter
}

// account returns the account of o. Nobody waits for room: who finds none shares one.
func (g *Gate) account(now int64, o Origin) *account {
	if a, ok := g.origins[o]; ok {
		return a
	}
	if len(g.origins) >= MaxOrigins && now-g.purged > time.Minute.Milliseconds() {
		g.purged = now
		for other, a := range g.origins {
			if now-max(a.at, a.otherAt) > time.Hour.Milliseconds() { // full again in all that a refill can reach
				delete(g.origins, other)
			}
		}
	}
	if len(g.origins) >= MaxOrigins {
		return &g.others
	}
	a := new(account)
	g.origins[o] = a
	return a
}

// maxSetBack is by how many milliseconds a clock may be set back until an account begins anew from there.
const maxSetBack = 60_000

// An account is what is left of an allowance. It counts what was used, so that the zero value is full
// and a changed allowance counts at once.
type account struct {
	fresh, bulk, other float64 // used, and not refilled yet
	at                 int64   // when that was so, in Unix milliseconds
	otherAt            int64   // the same, of other
}

// take uses one; false if there is none left.
func (a *account) take(now int64, of Allowance, bulk bool) bool {
	if passed := float64(now - a.at); passed > 0 { // a clock that is set back refills nothing
		a.fresh = max(0, a.fresh-passed*float64(of.Rate)/60_000)
		a.bulk = max(0, a.bulk-passed*float64(of.Bulk)/3_600_000)
		a.at = now
	} else if passed < -maxSetBack {
		a.at = now
	}
	used, most := &a.fresh, of.Burst
	if bulk {
		used, most = &a.bulk, of.Bulk
	}
	if *used+1 > float64(most) {
		return false
	}
	*used++
	return true
}

// takeOther uses one of MaxOthers; false if there is none left.
func (a *account) takeOther(now int64) bool {
	if passed := float64(now - a.otherAt); passed > 0 {
		a.other = max(0, a.other-passed*MaxOthers/3_600_000)
		a.otherAt = now
	} else if passed < -maxSetBack {
		a.otherAt = now
	}
	if a.other+1 > MaxOthers {
		return false
	}
	a.other++
	return true
}
