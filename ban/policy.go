package ban

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Limits bound what a node accepts. A zero field takes its value from [DefaultLimits].
type Limits struct {
	MaxFor       time.Duration // longest time that a ban may last from its issue
	PeerMinBits4 int           // shortest IPv4 prefix that a peer may ban
	PeerMinBits6 int           // shortest IPv6 prefix that a peer may ban
	MinBits4     int           // shortest IPv4 prefix in any op of anyone
	MinBits6     int           // shortest IPv6 prefix in any op of anyone
	FutureSkew   time.Duration // how far a peer's clock may be ahead of ours
}

// DefaultLimits returns 30 days, /24 and /48 for peers, /8 and /19 for anyone, 5 minutes of skew.
func DefaultLimits() Limits {
	return Limits{
		MaxFor:       30 * 24 * time.Hour,
		PeerMinBits4: 24,
		PeerMinBits6: 48,
		MinBits4:     8,
		MinBits6:     19,
		FutureSkew:   5 * time.Minute,
	}
}

// MaxAllowFor is the longest time that an allow may last from its issue: it protects, so it may well outlast any ban.
const MaxAllowFor = 366 * 24 * time.Hour

// maxMaxFor is the greatest value of Limits.MaxFor.
const maxMaxFor = 10 * 365 * 24 * time.Hour

// normal fills in the defaults and returns an error if a field is out of range.
func (l Limits) normal() (Limits, error) {
	d := DefaultLimits()
	if l.MaxFor == 0 {
		l.MaxFor = d.MaxFor
	}
	if l.FutureSkew == 0 {
		l.FutureSkew = d.FutureSkew
	}
	for _, f := range []struct {
		field    *int
		def, max int
		name     string
	}{
		{&l.PeerMinBits4, d.PeerMinBits4, 32, "PeerMinBits4"},
		{&l.PeerMinBits6, d.PeerMinBits6, 128, "PeerMinBits6"},
		{&l.MinBits4, d.MinBits4, 32, "MinBits4"},
		{&l.MinBits6, d.MinBits6, 128, "MinBits6"},
	} {
		if *f.field == 0 {
			*f.field = f.def
		}
		if *f.field < 1 || *f.field > f.max {
			return l, fmt.Errorf("%s %d is not within 1-%d", f.name, *f.field, f.max)
		}
	}
	if l.MaxFor < time.Second || l.MaxFor > maxMaxFor {
		return l, fmt.Errorf("MaxFor %v is not within %v-%v", l.MaxFor, time.Second, maxMaxFor)
	}
	if l.FutureSkew < 0 || l.FutureSkew > l.MaxFor {
		return l, fmt.Errorf("FutureSkew %v is not within 0-%v", l.FutureSkew, l.MaxFor)
	}
	return l, nil
}

// The rules by which an op is refused.
const (
	RuleNever       = "never-ban list"
	RuleAllow       = "allow list"
	RuleWide        = "prefix too wide"
	RuleLong        = "too long"
	RuleExpired     = "expired"
	RuleFuture      = "from the future"
	RuleMalformed   = "malformed"
	RulePorts       = "too many ports"
	RuleRate        = "rate of its origin"
	RuleActive      = "active bans of its origin"
	RuleOthers      = "bans of others"
	RuleHeldFull    = "too many held"
	RuleLift        = "bans of others that its origin lifts"
	RuleCancelMarks = "unbans of its origin"
	RuleAllows      = "allows of its origin"
)

// PolicyError reports that an op was refused, by which rule, and why in words.
type PolicyError struct {
	Rule   string // one of the Rule constants
	Detail string // a sentence for people that names the rule and the entry

	// Set by CheckLocal only:
	Op      Op            // what was refused
	Longest time.Duration // how long such an op may last
	By      netip.Prefix  // the entry of the never-ban list or the allow list that refuses it
	Allower Origin        // who issued that allow
}

// Error returns the detail.
func (e *PolicyError) Error() string { return e.Detail }

func refuse(rule, format string, args ...any) error {
	return &PolicyError{Rule: rule, Detail: fmt.Sprintf(format, args...)}
}

func refuseBy(entry netip.Prefix, rule, format string, args ...any) *PolicyError {
	return &PolicyError{Rule: rule, Detail: fmt.Sprintf(format, args...), By: entry}
}

// length formats whole seconds as people write them: 30d, 7d12h, 1m30s.
func length(d time.Duration) string {
	const day = 24 * time.Hour
	text := ""
	if d >= day {
		text = fmt.Sprintf("%dd", d/day)
	}
	if d %= day; d == 0 && text != "" {
		return text
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return text + s
}

// CheckLocal reports whether an operator or a log line of this node may say op. A refusal is a
// *PolicyError. A ban that lies inside the never-ban list or a live allow is refused; one that only
// contains such addresses is not, because the firewall lets them through.
func (t *Table) CheckLocal(now time.Time, op Op) error {
	err := t.checkLocal(now, op)
	if refused := (*PolicyError)(nil); errors.As(err, &refused) {
		refused.Op, refused.Longest = op, t.longest(op.Kind)
	}
	return err
}

func (t *Table) checkLocal(now time.Time, op Op) error {
	if err := t.checkOp(now, op, t.limits.MinBits4, t.limits.MinBits6); err != nil {
		return err
	}
	longest := t.longest(op.Kind)
	if outlives(op.Kind) {
		longest += t.limits.FutureSkew + ClockSkew
	}
	if op.Until.After(now.Add(longest)) {
		return refuse(RuleLong, "%s lasts too long: until %s, at most %s from now",
			shortPrefix(op.Prefix), op.Until.UTC().Format(time.RFC3339), length(t.longest(op.Kind)))
	}
	if op.Kind == KindAllow && t.AllowsOf(t.self) >= MaxAllows && !t.stands(&Record{Op: op, Origin: t.self}) {
		return refuse(RuleAllows, "allow of %s: this node has %d allows in force, the most that others take; write what it needs for long under allow in meshban.yaml",
			shortPrefix(op.Prefix), MaxAllows)
	}
	if op.Kind != KindBan {
		return nil
	}
	k := keyOf(op.Prefix)
	if e, ok := t.never.covering(k); ok {
		return refuseBy(e.Prefix, RuleNever, "%s is on the never-ban list: %s", shortPrefix(op.Prefix), e.describe(op.Prefix))
	}
	if i := t.allowing(k); i != 0 {
		e, by := t.allowEntry(i)
		err := refuseBy(e.Prefix, RuleAllow, "%s is on the allow list: %s", shortPrefix(op.Prefix), e.describe(op.Prefix))
		err.Allower = by
		return err
	}
	return nil
}

// CheckRemote reports whether a record that arrived from the mesh may be merged. A refusal is a *PolicyError. The
// never-ban list is no reason to refuse: the table holds the ban and suppresses it, so that it counts once the entry is
// removed. This node's own records, when read back, are held to the local width.
func (t *Table) CheckRemote(now time.Time, r Record) error { return t.checkRemote(now, r, 0, 0) }

// checkRemote is CheckRemote with peer4 and peer6 as the shortest prefixes that the record's origin may ban; 0 means
// the table's limit for peers.
func (t *Table) checkRemote(now time.Time, r Record, peer4, peer6 int) error {
	min4, min6 := t.limits.MinBits4, t.limits.MinBits6
	if r.Origin != t.self && r.Kind != KindRevoke {
		shortest := t.shortest(r.Op, peer4, peer6)
		min4, min6 = max(min4, shortest), max(min6, shortest)
	}
	if err := t.checkOp(now, r.Op, min4, min6); err != nil {
		return err
	}
	if r.Issued.After(now.Add(t.limits.FutureSkew)) {
		return refuse(RuleFuture, "%s of %s is from the future: issued %s ahead of this clock, at most %s",
			r.Kind, shortPrefix(r.Prefix), length(r.Issued.Sub(now).Round(time.Second)), length(t.limits.FutureSkew))
	}
	if err := checkAhead(now, &r); err != nil {
		return err
	}
	longest := t.longest(r.Kind) + t.limits.FutureSkew
	if outlives(r.Kind) {
		longest += ClockSkew
	}
	if r.Until.After(now.Add(longest)) || r.Until.After(r.Issued.Add(longest)) {
		return refuse(RuleLong, "%s of %s lasts too long: until %s, at most %s",
			r.Kind, shortPrefix(r.Prefix), r.Until.UTC().Format(time.RFC3339), length(t.longest(r.Kind)))
	}
	return nil
}

// How far ahead a version and a mark may be. An epoch is the Unix time of a start, or one more than the last epoch, so
// a clock that was wrong by up to maxEpochAhead shuts no node out. What a mark covers is bounded by its op's issue time
// too. A mark may be a little further ahead than a version, so that whatever a node may say can be lifted.
const (
	maxEpochAhead = 100 * 366 * 24 * 3600 // seconds
	maxSeq        = 1 << 48               // frames of one start: a million a second for nine years
)

// checkVersion refuses a version ahead of its time.
func checkVersion(now time.Time, r *Record) error {
	if r.Version.Epoch > uint64(max(now.Unix(), 0))+maxEpochAhead || r.Version.Seq > maxSeq {
		return refuse(RuleFuture, "%s of %s is from the future: it has the version %d.%d", r.Kind, shortPrefix(r.Prefix), r.Version.Epoch, r.Version.Seq)
	}
	return nil
}

// checkAhead refuses marks ahead of their time.
func checkAhead(now time.Time, r *Record) error {
	latest := uint64(max(now.Unix(), 0)) + maxEpochAhead + uint64(MaxAllowFor.Seconds())
	for _, m := range r.Marks {
		if m.Epoch > latest || m.Seq > maxSeq {
			return refuse(RuleFuture, "%s of %s is from the future: it has the mark %d.%d", r.Kind, shortPrefix(r.Prefix), m.Epoch, m.Seq)
		}
	}
	return nil
}

// shortest returns the shortest prefix of op's family that a peer may ban, given peer4 and peer6 from the peer's caps;
// 0 means the table's limit.
func (t *Table) shortest(op Op, peer4, peer6 int) int {
	if op.Prefix.Addr().Is4() {
		return cmp.Or(peer4, t.limits.PeerMinBits4)
	}
	return cmp.Or(peer6, t.limits.PeerMinBits6)
}

// checkOp checks what is required of every op, wherever it comes from.
func (t *Table) checkOp(now time.Time, op Op, min4, min6 int) error {
	if err := op.Validate(); err != nil {
		return refuse(RuleMalformed, "malformed op: %v", err)
	}
	if n := op.Ports.Elements(); n > MaxPortElements {
		return refuse(RulePorts, "%s: %d ports, TCP and UDP counted apart, at most %d: ban all ports, or fewer",
			shortPrefix(op.Prefix), n, MaxPortElements)
	}
	shortest := min6
	if op.Prefix.Addr().Is4() {
		shortest = min4
	}
	if op.Prefix.Bits() < shortest {
		return refuse(RuleWide, "%s: prefix too wide, the shortest allowed is /%d", op.Prefix, shortest)
	}
	if !op.Until.After(now) {
		return refuse(RuleExpired, "%s of %s has expired: it ended %s",
			op.Kind, shortPrefix(op.Prefix), op.Until.UTC().Format(time.RFC3339))
	}
	return nil
}

// longest returns how long an op of kind k may last, without the time by which it outlives what it ends.
func (t *Table) longest(k Kind) time.Duration {
	if k == KindAllow || k == KindUnallow {
		return max(t.limits.MaxFor, MaxAllowFor)
	}
	return t.limits.MaxFor
}

// outlives reports whether ops of kind k outlive what they end.
func outlives(k Kind) bool { return k == KindRevoke || k == KindUnban || k == KindUnallow }

// shortPrefix formats p and leaves out the length of a single address.
func shortPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
