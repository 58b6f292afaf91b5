package ban

import (
	"strings"
	"time"
)

// Bounds of a gate.
const (
	MaxHeld    = 1 << 17 // bans that wait for the operator, and what else waits by its size; see Table.HeldFull
	MaxHeldOf  = 1 << 15 // those of one origin
	MaxOrigins = 1 << 13 // origins with an account of their own; the others share one
	MaxOthers  = 100_000 // ops of one origin an hour, and at once, that are no bans; one more is refused
	MaxCounted = 1 << 14 // entries of its own, and as many of others, that judging what lifts them looks at; with more it is held
	MaxStrikes = 1 << 16 // marks of live unbans and unallows of one origin; one more is refused

	// MaxSaidElements bounds the port elements of the bans, refreshes included, that one origin says at once, 0.15 s of the
	// kernel's time; in an hour it is four times as many.
	MaxSaidElements = 1 << 17
	// MaxHeldElements bounds those of the live bans of one origin: the kernel has room for three and a half times as many.
	MaxHeldElements = 1 << 18
)

// SourceImport is the Op.Source that marks a ban as one of a list: it is charged to the bulk. The names of lists may follow it
// behind a colon.
const SourceImport = "import"

// Imported reports whether a ban with this source is one of a list.
func Imported(source string) bool {
	rest, ok := strings.CutPrefix(source, SourceImport)
	return ok && (rest == "" || rest[0] == ':')
}

// lateAfter is from what age on a ban that arrives counts as bulk: it comes from a peer that was
// away, or this node was. A peer that dates its bans back gains no more than by the mark of imports,
// though it may not import: what it may have in force bounds that.
const lateAfter = 5 * time.Minute

// catchUp is how long after its first record a gate charges what lifts bans to the bulk if it comes late: a node that has
// just started hears the whole past of the mesh at once. Later an old date is no excuse, for its origin chose it.
const catchUp = 10 * time.Minute

// Allowance bounds how fast new bans come, and, apart from that, how fast bans of others are lifted: the entries inside
// unbans, allows and unallows. What a refresh repeats is not new.
type Allowance struct {
	Rate  int // new bans a minute, sustained; as many entries that are lifted
	Burst int // at once
	Bulk  int // new bans an hour, and at once, of lists and of what comes late; and entries of its own that an origin lifts
}

// Caps bound what one origin may say. Zero widths and a zero MaxFor are those of the table.
type Caps struct {
	Allowance
	Active   int           // live records
	MinBits4 int           // shortest IPv4 prefix, of all but revokes
	MinBits6 int           // shortest IPv6 prefix
	MaxFor   time.Duration // longest time from its issue that a ban may last
	UnbanAny bool          // may lift what others banned: unban, and allow
	Import   bool          // lists count against Bulk; else like other bans
}

// GateConfig is what a gate needs; all of it but Authority and Last is required.
type GateConfig struct {
	Self      Origin                     // whose records pass
	Authority Origin                     // whose records are held to the bounds of this node's own, and never held; zero: nobody's
	Caps      func(Origin) Caps          // what an origin may say
	Last      func() (epoch, seq uint64) // of this node's last frame; nil: unknown
	Breaker   Allowance                  // of all other origins together
}

// Gate stands before [Table.Merge] and holds each origin to its caps and all of them to the breaker.
// It is not safe for concurrent use.
type Gate struct {
	cfg     GateConfig
	breaker account
	origins map[Origin]*account
	others  account // of origins beyond MaxOrigins
	purged  int64
	began   time.Time // when it was asked first
}

// NewGate returns a gate at which nobody has said anything yet.
func NewGate(cfg GateConfig) *Gate {
	return &Gate{cfg: cfg, origins: make(map[Origin]*account)}
}

// SetBreaker replaces the allowance of all origins together, for what comes from now on.
func (g *Gate) SetBreaker(a Allowance) { g.cfg.Breaker = a }

// Check reports whether a record may be merged at all, whatever its origin has said before: what
// CheckRemote asks, in the bounds of the origin's caps, its numbers included. A refusal is a *PolicyError. Of an unban by an
// origin that may not lift the bans of others, only the marks of its own stay.
func (g *Gate) Check(now time.Time, t *Table, r *Record) error {
	if g.Trusts(r.Origin) {
		return g.checkTrusted(now, t, r)
	}
	caps := g.cfg.Caps(r.Origin)
	if err := g.checkPeer(now, t, &caps, r); err != nil {
		return err
	}
	return caps.fits(t, r)
}

func (g *Gate) checkTrusted(now time.Time, t *Table, r *Record) error {
	if err := t.checkRemote(now, *r, anyWidth, anyWidth); err != nil {
		return err
	}
	return g.checkOwnMark(r)
}

func (g *Gate) checkPeer(now time.Time, t *Table, caps *Caps, r *Record) error {
	if err := caps.checkRemote(now, t, r); err != nil {
		return err
	}
	return g.checkOwnMark(r)
}

func (g *Gate) checkOwnMark(r *Record) error {
	if g.Foretells(r) {
		return refuse(RuleFuture, "%s of %s is from the future: its mark on this node is above this node's last frame", r.Kind, shortPrefix(r.Prefix))
	}
	return nil
}

// Foretells reports whether a record of another node has a mark on this node above its last frame. It cannot be honest,
// because whoever sets a mark has seen the frame that it names, and would cancel what this node has yet to say. Once refused
// it must stay so after a restart, when this node no longer knows how far it had come.
func (g *Gate) Foretells(r *Record) bool {
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

// anyWidth is the least shortest prefix: the width is then that of this node's own ops.
const anyWidth = 1

// Trusts reports whether o is held to the bounds of this node's own ops.
func (g *Gate) Trusts(o Origin) bool {
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

// Admit is Check, and then sets r.Hold: HoldNone if r may count, or why it waits for the operator. It
// refuses what would wait where there is no room for it.
func (g *Gate) Admit(now time.Time, t *Table, r *Record) error {
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

// ban charges a new ban and returns why it must wait, or HoldNone. It asks the breaker only about bans of peers.
func (g *Gate) ban(now time.Time, t *Table, caps *Caps, r *Record) Hold {
	ms, from, n := millis(now), purseFresh, r.Ports.Elements()
	if caps.bulky(now, r) {
		from = purseBulk
	}
	a := g.account(ms, r.Origin)
	switch {
	case t.RecordsOf(r.Origin) >= caps.Active, n > 0 && t.ElementsOf(r.Origin)+n > MaxHeldElements:
		return HoldActive
	case !a.take(ms, caps.Allowance, from, 1), !a.take(ms, caps.Allowance, purseElements, n):
		return HoldRate
	case r.Origin != g.cfg.Self && !g.breaker.take(ms, g.cfg.Breaker, from, 1):
		return HoldBreaker
	}
	return HoldNone
}

// refresh charges a ban that stands by what it costs the kernel. What is too much is refused: held, it would not stand.
func (g *Gate) refresh(now time.Time, caps *Caps, r *Record) error {
	n := r.Ports.Elements()
	if n == 0 || g.account(millis(now), r.Origin).take(millis(now), caps.Allowance, purseElements, n) {
		return nil
	}
	return refuse(RuleRate, "ban of %s: its origin says more than %d ports at once or %d an hour", shortPrefix(r.Prefix), MaxSaidElements, 4*MaxSaidElements)
}

// lift charges an op that lifts bans or ends allows by the entries that it makes the table look at, and returns why it must wait, or
// HoldNone. Counting is charged too: who asks for more than he has left has nothing left.
func (g *Gate) lift(now time.Time, t *Table, caps *Caps, r *Record) Hold {
	if r.Kind == KindRevoke || r.Kind == KindAllow && t.stands(r) {
		return HoldNone
	}
	ms, a, from := millis(now), g.account(millis(now), r.Origin), purseLift
	if now.Sub(g.began) < catchUp && now.Sub(r.Issued) > lateAfter {
		from = purseBulk
	}
	mine, others := t.lifting(r, min(MaxCounted, a.left(ms, caps.Allowance, purseBulk)), min(MaxCounted, a.left(ms, caps.Allowance, from)))
	own, all := a.take(ms, caps.Allowance, purseBulk, mine), a.take(ms, caps.Allowance, from, others)
	switch {
	case !own || !all || max(mine, others) > MaxCounted:
		return HoldLift
	case r.Origin != g.cfg.Self && !g.breaker.take(ms, g.cfg.Breaker, from, others):
		return HoldBreaker
	}
	return HoldNone
}

// admitOther holds what is no ban to a rate and to a number. To take a ban of its own back is always free.
func (g *Gate) admitOther(now int64, t *Table, caps *Caps, r *Record) error {
	if r.Kind == KindRevoke && t.holds(&t.bans, r) {
		return nil
	}
	if !g.account(now, r.Origin).other.take(now, MaxOthers, MaxOthers/3_600_000.0) {
		return refuse(RuleRate, "%s of %s: its origin says more than %d of its kind an hour", r.Kind, shortPrefix(r.Prefix), MaxOthers)
	}
	return caps.fits(t, r)
}

// fits refuses what is no ban and goes beyond how many of its kind one origin may have.
func (c *Caps) fits(t *Table, r *Record) error {
	switch r.Kind {
	case KindBan:
		return nil
	case KindAllow:
		if t.AllowsOf(r.Origin) >= MaxAllows && !t.stands(r) {
			return refuse(RuleAllows, "allow of %s: its origin has %d in force already", shortPrefix(r.Prefix), MaxAllows)
		}
	case KindUnban, KindUnallow:
		return t.checkStrikes(r)
	}
	if t.RecordsOf(r.Origin) >= c.Active && !t.knows(r) {
		return refuse(RuleActive, "%s of %s: its origin has %d records already", r.Kind, shortPrefix(r.Prefix), c.Active)
	}
	return nil
}

// checkStrikes refuses an unban or unallow beyond what one origin may have.
func (t *Table) checkStrikes(r *Record) error {
	b := &t.bans
	if r.Kind == KindUnallow {
		b = &t.allows
	}
	more, _, full := t.wouldAdd(b, r)
	switch {
	case more > 0 && t.StrikesOf(r.Origin)+more > MaxStrikes:
		return refuse(RuleStrikes, "%s of %s: its origin has %d marks in force already", r.Kind, shortPrefix(r.Prefix), MaxStrikes)
	case full:
		return refuse(RuleStrikes, "%s of %s: its origin has %d in force there already, none of which says more than the others", r.Kind, shortPrefix(r.Prefix), maxFront)
	}
	return nil
}

// Foresee says what peers with the same caps will do with an op of this node: nil, or a *PolicyError
// by the rule for which they hold or refuse it. An op that lifts bans must not be merged yet.
func (g *Gate) Foresee(now time.Time, t *Table, op Op) error {
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

// Room returns how many more new bans of this node peers with the same caps let count now, and the rule that bounds it.
func (g *Gate) Room(now time.Time, t *Table, imported bool) (n int, rule string) {
	caps, from := g.cfg.Caps(g.cfg.Self), purseFresh
	if imported && caps.Import {
		from = purseBulk
	}
	n, rule = g.account(millis(now), g.cfg.Self).left(millis(now), caps.Allowance, from), RuleRate
	if active := max(0, caps.Active-t.RecordsOf(g.cfg.Self)); active < n {
		n, rule = active, RuleActive
	}
	return n, rule
}

// Beyond says what Foresee says of the first of ops that peers will hold or refuse, and charges nothing. A revoke is never
// held. No op may be merged yet.
func (g *Gate) Beyond(now time.Time, t *Table, ops []Op) error {
	a := g.account(millis(now), g.cfg.Self)
	defer func(before account) { *a = before }(*a)
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

// account returns the account of o. Nobody waits for room: who finds none shares one.
func (g *Gate) account(now int64, o Origin) *account {
	if a, ok := g.origins[o]; ok {
		return a
	}
	if len(g.origins) >= MaxOrigins && now-g.purged > time.Minute.Milliseconds() {
		g.purged = now
		for other, a := range g.origins {
			if now-max(a.at, a.other.at) > time.Hour.Milliseconds() { // full again in all that a refill can reach
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
	used    [4]float64 // by purse, and not refilled yet
	at      int64      // when used was so, in Unix milliseconds
	other   meter      // of MaxOthers
	chatter meter      // of ChatterBurst
}

// A meter counts what was used of a bound of its own.
type meter struct {
	used float64 // not refilled yet
	at   int64   // when it was so, in Unix milliseconds
}

// take uses one of at most so many, of which perMilli come back each millisecond; false if none is left.
func (m *meter) take(now int64, most, perMilli float64) bool {
	if passed := now - m.at; passed > 0 {
		m.used = max(0, m.used-float64(passed)*perMilli)
		m.at = now
	} else if passed < -maxSetBack {
		m.at = now
	}
	if m.used+1 > most {
		return false
	}
	m.used++
	return true
}

// A purse is a part of an allowance.
type purse int

const (
	purseFresh    purse = iota // bans, by Rate and Burst
	purseLift                  // entries that are lifted, by Rate and Burst
	purseBulk                  // by Bulk
	purseElements              // port elements, by MaxSaidElements
)

func (of Allowance) most(p purse) int {
	switch p {
	case purseBulk:
		return of.Bulk
	case purseElements:
		return MaxSaidElements
	}
	return of.Burst
}

func (a *account) refill(now int64, of Allowance) {
	if passed := float64(now - a.at); passed > 0 { // a clock that is set back refills nothing
		rate, perHour := passed*float64(of.Rate)/60_000, passed*float64(of.Bulk)/3_600_000
		elements := passed * 4 * MaxSaidElements / 3_600_000
		for p, back := range [...]float64{purseFresh: rate, purseLift: rate, purseBulk: perHour, purseElements: elements} {
			a.used[p] = max(0, a.used[p]-back)
		}
		a.at = now
	} else if passed < -maxSetBack {
		a.at = now
	}
}

// left returns how much is left of p.
func (a *account) left(now int64, of Allowance, p purse) int {
	a.refill(now, of)
	return max(0, int(float64(of.most(p))-a.used[p]))
}

// take uses n of p. It reports whether there was as much; if not, a single one is not used, but of more nothing is left.
func (a *account) take(now int64, of Allowance, p purse, n int) bool {
	a.refill(now, of)
	most := float64(of.most(p))
	if n == 0 || a.used[p]+float64(n) <= most {
		a.used[p] += float64(n)
		return true
	}
	if n > 1 {
		a.used[p] = max(a.used[p], most)
	}
	return false
}
