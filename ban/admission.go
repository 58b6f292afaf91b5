package ban

import (
	"slices"
	"strings"
	"time"
)

// Bounds of an admission.
const (
	MaxHeld        = 1 << 17 // room for ops that wait for the operator, counted in bans; see Table.HeldFull
	MaxHeldOf      = 1 << 15 // the share of one origin
	MaxOrigins     = 1 << 13 // origins with a bucket of their own; the others share one
	MaxOthers      = 100_000 // ops of one origin other than bans, at once and per hour; more are refused
	MaxCounted     = 1 << 14 // entries of its origin, and as many of others, examined to judge one lift; a larger one is held
	MaxCancelMarks = 1 << 16 // marks of live unbans and unallows of one origin; more are refused

	// MaxSaidElements bounds the port elements of the bans, refreshes included, that one origin says at once: 0.15 s of
	// kernel time. An hour allows four times as many.
	MaxSaidElements = 1 << 17
	// MaxHeldElements bounds the port elements of one origin's live bans. The kernel has room for three and a half
	// times as many.
	MaxHeldElements = 1 << 18
)

// SourceImport is the Op.Source of a ban that comes from a list and is charged to Bulk. List names may follow it after
// a colon.
const SourceImport = "import"

// Imported reports whether a ban with this source comes from a list.
func Imported(source string) bool {
	rest, ok := strings.CutPrefix(source, SourceImport)
	return ok && (rest == "" || rest[0] == ':')
}

// lateAfter is the age beyond which an arriving ban counts as bulk: its peer was away, or this node was. A peer that
// backdates its bans gains what marking them as imported would give it, even if it may not import. Caps.Active bounds
// the gain.
const lateAfter = 5 * time.Minute

// catchUp is how long after its first record an admission charges late ops that lift bans to Bulk, because a node that
// has just started hears the whole past of the mesh at once. After that an old date is no excuse: the origin chose it.
const catchUp = 10 * time.Minute

// Allowance bounds how fast new bans come and, separately, how fast bans of others are lifted, counted as the entries
// inside unbans, allows and unallows. A refresh is not new.
type Allowance struct {
	Rate  int // new bans a minute, sustained; also entries lifted a minute
	Burst int // at once
	Bulk  int // new bans from lists or arriving late, at once and per hour; also own entries that an origin lifts
}

// Caps bound what one origin may say. Zero widths and a zero MaxFor mean the table's limits.
type Caps struct {
	Allowance
	Active   int           // live records
	MinBits4 int           // shortest IPv4 prefix of all ops but revokes
	MinBits6 int           // shortest IPv6 prefix
	MaxFor   time.Duration // longest time a ban may last from its issue
	UnbanAny bool          // may lift what others banned: unban, and allow
	Import   bool          // lists count against Bulk instead of like other bans
}

// AdmissionConfig is what an admission needs; only Authority and Last are optional.
type AdmissionConfig struct {
	Self      Origin                     // this node; its records are never held
	Authority Origin                     // its records are held to this node's own bounds and never wait; zero: nobody
	Caps      func(Origin) Caps          // what an origin may say
	Last      func() (epoch, seq uint64) // this node's last frame; nil: unknown
	Breaker   Allowance                  // for all other origins together
}

// Admission judges records before [Table.Merge]: it holds each origin to its caps and all of them together to the
// breaker. It is not safe for concurrent use.
type Admission struct {
	cfg     AdmissionConfig
	breaker bucket
	origins map[Origin]*bucket
	others  bucket // of origins beyond MaxOrigins
	purged  int64
	began   time.Time // when Admit was first called
}

// NewAdmission returns an admission that has seen no records yet.
func NewAdmission(cfg AdmissionConfig) *Admission {
	return &Admission{cfg: cfg, origins: make(map[Origin]*bucket)}
}

// SetBreaker replaces the allowance of all origins together, from now on.
func (g *Admission) SetBreaker(a Allowance) { g.cfg.Breaker = a }

// Check reports whether a record may be merged, leaving rates aside. It checks what CheckRemote does, with the caps of
// the record's origin, and bounds how many records of its kind the origin has. A refusal is a *PolicyError. If the
// origin may not lift the bans of others, Check removes all marks but the origin's own from r.
func (g *Admission) Check(now time.Time, t *Table, r *Record) error {
	if g.Trusts(r.Origin) {
		return g.checkTrusted(now, t, r)
	}
	caps := g.cfg.Caps(r.Origin)
	if err := g.checkPeer(now, t, &caps, r); err != nil {
		return err
	}
	return caps.fits(t, r)
}

func (g *Admission) checkTrusted(now time.Time, t *Table, r *Record) error {
	if err := t.checkRemote(now, *r, anyWidth, anyWidth); err != nil {
		return err
	}
	return g.checkOwnMark(r)
}

func (g *Admission) checkPeer(now time.Time, t *Table, caps *Caps, r *Record) error {
	if err := caps.checkRemote(now, t, r); err != nil {
		return err
	}
	return g.checkOwnMark(r)
}

func (g *Admission) checkOwnMark(r *Record) error {
	if g.Foretells(r) {
		return refuse(RuleFuture, "%s of %s is from the future: its mark on this node is above this node's last frame", r.Kind, shortPrefix(r.Prefix))
	}
	return nil
}

// Foretells reports whether a record of another node has a mark on this node above this node's last frame. Such a
// record would cancel what this node has yet to say. It cannot be honest, because whoever sets a mark has seen the
// frame that it names. Once refused, it must stay refused after a restart, when this node no longer knows how far it
// had come.
func (g *Admission) Foretells(r *Record) bool {
	if g.cfg.Last == nil || r.Origin == g.cfg.Self {
		return false
	}
	for _, m := range r.Marks {
		if m.Origin == g.cfg.Self {
			epoch, seq := g.cfg.Last()
			return m.Epoch > epoch || m.Epoch == epoch && m.Seq > seq
		}
	}
	return false
}

// anyWidth, as a shortest prefix, excludes nothing: only the bound on this node's own ops is left.
const anyWidth = 1

// Trusts reports whether o is held to the bounds of this node's own ops.
func (g *Admission) Trusts(o Origin) bool {
	return o == g.cfg.Self || o == g.cfg.Authority && o != Origin{}
}

func (c *Caps) checkRemote(now time.Time, t *Table, r *Record) error {
	if err := t.checkRemote(now, *r, c.MinBits4, c.MinBits6); err != nil {
		return err
	}
	if err := checkVersion(now, r); err != nil {
		return err
	}
	return c.check(r, t.limits.FutureSkew)
}

func (c *Caps) check(r *Record, skew time.Duration) error {
	if r.Kind == KindBan && c.MaxFor != 0 && r.Until.After(r.Issued.Add(c.MaxFor+skew)) {
		return refuse(RuleLong, "ban of %s lasts too long: until %s, its origin may ban for at most %s",
			shortPrefix(r.Prefix), r.Until.UTC().Format(time.RFC3339), length(c.MaxFor))
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

// Admit checks r as Check does, charges it and sets r.Hold: HoldNone if r may count, otherwise why it waits for the
// operator. It refuses r if r would have to wait and there is no room.
func (g *Admission) Admit(now time.Time, t *Table, r *Record) error {
	r.Hold = HoldNone
	if g.began.IsZero() {
		g.began = now
	}
	if g.Trusts(r.Origin) {
		return g.checkTrusted(now, t, r)
	}
	caps := g.cfg.Caps(r.Origin)
	if err := g.checkPeer(now, t, &caps, r); err != nil {
		return err
	}
	if r.Kind != KindBan {
		if err := g.admitOther(millis(now), t, &caps, r); err != nil {
			return err
		}
		r.Hold = g.lift(now, t, &caps, r)
	} else if !t.stands(r) {
		r.Hold = g.ban(now, t, &caps, r)
	} else if err := g.refresh(now, &caps, r); err != nil {
		return err
	}
	if r.Hold != HoldNone && t.HeldFull(r) {
		return refuse(RuleHeldFull, "%s of %s would be held (%s), and its origin has its share of the room for %d that wait: %d at most", r.Kind, shortPrefix(r.Prefix), r.Hold, MaxHeld, MaxHeldOf)
	}
	return nil
}

// ban charges a new ban and returns why it must wait, or HoldNone. The breaker applies only to bans of peers.
func (g *Admission) ban(now time.Time, t *Table, caps *Caps, r *Record) Hold {
	ms, from, n := millis(now), partFresh, r.Ports.Elements()
	if caps.bulky(now, r) {
		from = partBulk
	}
	a := g.bucketOf(ms, r.Origin)
	switch {
	case t.RecordsOf(r.Origin) >= caps.Active, n > 0 && t.ElementsOf(r.Origin)+n > MaxHeldElements:
		return HoldActive
	case !a.take(ms, caps.Allowance, from, 1), !a.take(ms, caps.Allowance, partElements, n):
		return HoldRate
	case r.Origin != g.cfg.Self && !g.breaker.take(ms, g.cfg.Breaker, from, 1):
		return HoldBreaker
	}
	return HoldNone
}

// refresh charges a refresh of a standing ban for what it costs the kernel. It refuses a refresh beyond the bound
// instead of holding it, because a held ban no longer stands.
func (g *Admission) refresh(now time.Time, caps *Caps, r *Record) error {
	n := r.Ports.Elements()
	if n == 0 || g.bucketOf(millis(now), r.Origin).take(millis(now), caps.Allowance, partElements, n) {
		return nil
	}
	return refuse(RuleRate, "ban of %s: its origin says more than %d ports at once or %d an hour", shortPrefix(r.Prefix), MaxSaidElements, 4*MaxSaidElements)
}

// lift charges an op that lifts bans or ends allows for the entries that the table must examine, and returns why it
// must wait, or HoldNone. Counting the entries costs time too, so an op that needs more than is left uses up what is
// left.
func (g *Admission) lift(now time.Time, t *Table, caps *Caps, r *Record) Hold {
	if r.Kind == KindRevoke || r.Kind == KindAllow && t.stands(r) {
		return HoldNone
	}
	ms, a, from := millis(now), g.bucketOf(millis(now), r.Origin), partLift
	if now.Sub(g.began) < catchUp && now.Sub(r.Issued) > lateAfter {
		from = partBulk
	}
	mine, others := t.lifting(r, min(MaxCounted, a.left(ms, caps.Allowance, partBulk)), min(MaxCounted, a.left(ms, caps.Allowance, from)))
	own, all := a.take(ms, caps.Allowance, partBulk, mine), a.take(ms, caps.Allowance, from, others)
	switch {
	case !own || !all || max(mine, others) > MaxCounted:
		return HoldLift
	case r.Origin != g.cfg.Self && !g.breaker.take(ms, g.cfg.Breaker, from, others):
		return HoldBreaker
	}
	return HoldNone
}

// admitOther bounds the rate and the number of ops other than bans. Revoking a ban of one's own is always free.
func (g *Admission) admitOther(now int64, t *Table, caps *Caps, r *Record) error {
	if r.Kind == KindRevoke && t.holds(&t.bans, r) {
		return nil
	}
	if !g.bucketOf(now, r.Origin).take(now, caps.Allowance, partOther, 1) {
		return refuse(RuleRate, "%s of %s: its origin says more than %d of its kind an hour", r.Kind, shortPrefix(r.Prefix), MaxOthers)
	}
	return caps.fits(t, r)
}

// fits refuses an op other than a ban if its origin already has as many of that kind as it may.
func (c *Caps) fits(t *Table, r *Record) error {
	switch r.Kind {
	case KindBan:
		return nil
	case KindAllow:
		if t.AllowsOf(r.Origin) >= MaxAllows && !t.stands(r) {
			return refuse(RuleAllows, "allow of %s: its origin has %d in force already", shortPrefix(r.Prefix), MaxAllows)
		}
	case KindUnban, KindUnallow:
		return t.checkCancelMarks(r)
	}
	if t.RecordsOf(r.Origin) >= c.Active && !t.holds(t.setOf(r.Kind), r) {
		return refuse(RuleActive, "%s of %s: its origin has %d records already", r.Kind, shortPrefix(r.Prefix), c.Active)
	}
	return nil
}

// checkCancelMarks refuses an unban or unallow that exceeds what one origin may have.
func (t *Table) checkCancelMarks(r *Record) error {
	more, _, full := t.wouldAdd(t.setOf(r.Kind), r)
	switch {
	case more > 0 && t.CancelMarksOf(r.Origin)+more > MaxCancelMarks:
		return refuse(RuleCancelMarks, "%s of %s: its origin has %d marks in force already", r.Kind, shortPrefix(r.Prefix), MaxCancelMarks)
	case full:
		return refuse(RuleCancelMarks, "%s of %s: its origin has %d in force there already, none of which says more than the others", r.Kind, shortPrefix(r.Prefix), maxFront)
	}
	return nil
}

// Foresee charges an op of this node and predicts what peers with the same caps will do with it: it returns nil, or a
// *PolicyError with the rule by which they hold or refuse it. Call it before merging an op that lifts bans.
func (g *Admission) Foresee(now time.Time, t *Table, op Op) error {
	self, caps := g.cfg.Self, g.cfg.Caps(g.cfg.Self)
	r := Record{Op: op, Origin: self, Issued: now}
	if err := caps.check(&r, t.limits.FutureSkew); err != nil {
		return err
	}
	if shortest := t.shortest(op, caps.MinBits4, caps.MinBits6); op.Kind != KindRevoke && op.Prefix.Bits() < shortest {
		return refuse(RuleWide, "%s: peers take nothing wider than /%d", op.Prefix, shortest)
	}
	if op.Kind != KindBan {
		if err := g.admitOther(millis(now), t, &caps, &r); err != nil {
			return err
		}
		if g.lift(now, t, &caps, &r) != HoldNone {
			return refuse(RuleLift, "peers hold what lifts more than %d bans of others at once or %d a minute", caps.Burst, caps.Rate)
		}
		return nil
	}
	if t.stands(&r) {
		return g.refresh(now, &caps, &r)
	}
	switch g.ban(now, t, &caps, &r) {
	case HoldActive:
		return refuse(RuleActive, "peers hold what goes beyond %d active bans, or %d ports in them, of one node", caps.Active, MaxHeldElements)
	case HoldRate:
		if caps.bulky(now, &r) {
			return refuse(RuleRate, "peers hold what goes beyond %d imported bans an hour of one node", caps.Bulk)
		}
		return refuse(RuleRate, "peers hold what goes beyond %d bans at once or %d a minute of one node", caps.Burst, caps.Rate)
	}
	return nil
}

// Room returns how many more new bans of this node would count now at peers with the same caps, and the rule that
// bounds it.
func (g *Admission) Room(now time.Time, t *Table, imported bool) (n int, rule string) {
	caps, from := g.cfg.Caps(g.cfg.Self), partFresh
	if imported && caps.Import {
		from = partBulk
	}
	n, rule = g.bucketOf(millis(now), g.cfg.Self).left(millis(now), caps.Allowance, from), RuleRate
	if active := max(0, caps.Active-t.RecordsOf(g.cfg.Self)); active < n {
		n, rule = active, RuleActive
	}
	return n, rule
}

// Beyond returns what Foresee says about the first of ops that peers will hold or refuse, and charges nothing. It skips
// revokes, which are never held. Call it before merging any of ops.
func (g *Admission) Beyond(now time.Time, t *Table, ops []Op) error {
	a := g.bucketOf(millis(now), g.cfg.Self)
	defer func(before bucket) { *a = before }(*a)
	for _, op := range ops {
		if op.Kind == KindRevoke {
			continue
		}
		if err := g.Foresee(now, t, op); err != nil {
			return err
		}
	}
	return nil
}

func (c *Caps) bulky(now time.Time, r *Record) bool {
	return c.Import && Imported(r.Source) || now.Sub(r.Issued) > lateAfter
}

// bucketOf returns the bucket of o. If there is no room for one more bucket, it returns one that origins share.
func (g *Admission) bucketOf(now int64, o Origin) *bucket {
	if a, ok := g.origins[o]; ok {
		return a
	}
	if len(g.origins) >= MaxOrigins && now-g.purged > time.Minute.Milliseconds() {
		g.purged = now
		for other, a := range g.origins {
			// A bucket that was not used for an hour has refilled as far as an hour allows.
			if !slices.ContainsFunc(a[:], func(m meter) bool { return now-m.at <= time.Hour.Milliseconds() }) {
				delete(g.origins, other)
			}
		}
	}
	if len(g.origins) >= MaxOrigins {
		return &g.others
	}
	a := new(bucket)
	g.origins[o] = a
	return a
}

// maxSetBack is how many milliseconds a clock may be set back before a bucket restarts from the new time.
const maxSetBack = 60_000

// A bucket is what an origin has used of each of its bounds.
type bucket [parts]meter

// A part is one of the bounds of a bucket.
type part int

const (
	partFresh    part = iota // bans, by Rate and Burst
	partLift                 // entries lifted, by Rate and Burst
	partBulk                 // by Bulk
	partElements             // port elements, by MaxSaidElements
	partOther                // ops other than bans, by MaxOthers
	partChatter              // by ChatterRate and ChatterBurst
	parts
)

// bound returns how much of p there is at once and how much comes back in an hour.
func (of Allowance) bound(p part) (most, hour float64) {
	switch p {
	case partBulk:
		return float64(of.Bulk), float64(of.Bulk)
	case partElements:
		return MaxSaidElements, 4 * MaxSaidElements
	case partOther:
		return MaxOthers, MaxOthers
	case partChatter:
		return ChatterBurst, ChatterRate * 3600
	}
	return float64(of.Burst), float64(of.Rate) * 60
}

// A meter counts what was used of one bound, not what is left: so the zero value is full, and a changed allowance
// applies at once.
type meter struct {
	used float64 // not refilled yet
	at   int64   // when it was last refilled, in Unix milliseconds
}

// refill returns how much there is of p, used or not.
func (m *meter) refill(now int64, of Allowance, p part) (most float64) {
	most, hour := of.bound(p)
	if passed := now - m.at; passed > 0 { // a clock that was set back refills nothing
		m.used, m.at = max(0, m.used-float64(passed)*hour/3_600_000), now
	} else if passed < -maxSetBack {
		m.at = now
	}
	return most
}

// left returns how much is left of p.
func (a *bucket) left(now int64, of Allowance, p part) int {
	return max(0, int(a[p].refill(now, of, p)-a[p].used))
}

// take uses n of p and reports whether that much was left. If not, n = 1 uses nothing, and a larger n uses up what is
// left.
func (a *bucket) take(now int64, of Allowance, p part, n int) bool {
	m := &a[p]
	most := m.refill(now, of, p)
	if n == 0 || m.used+float64(n) <= most {
		m.used += float64(n)
		return true
	}
	if n > 1 {
		m.used = max(m.used, most)
	}
	return false
}
