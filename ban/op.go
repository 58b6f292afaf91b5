// Package ban decides what is banned.
//
// An [Op] is one decision: ban this prefix until then, take a ban back, lift everything inside a prefix, never ban this
// prefix. A [Record] is an op with its origin and its place in that origin's order. A [Table] merges records in any
// order, any number of times, and always reaches the same state; each call returns exactly what the firewall must
// change.
//
// # What one op may cost
//
// Certified nodes are bounded too. An entry is a prefix with its ports. "Examined" counts what a table does for an op
// when it arrives and when it ends, and what an admission does to judge it.
//
//	op of a peer         entries examined                kernel elements        kept
//	ban, refresh         1, and 1 at its end             1,024, 1 for all ports record and floor (112 B), entry (100 B), texts
//	revoke               1, and 1 at its end             as the ban             the same
//	unban                3 x those inside its prefix     none of its own        72 B a mark, 90 in indexes; MaxMarks marks
//	allow                3 x those inside, end included  1                      as a ban
//	unallow              3 x those inside                none of its own        as an unban
//	held unban, unallow  those counted                   none                   1 kB
//	withdrawn origin     its records and those inside its unbans and allows, once
//
// From one origin, an [Admission] and a [Table] accept at most
//
//	new bans                    Caps.Burst at once, Caps.Rate a minute, Caps.Bulk an hour; more are held
//	records                     Caps.Active; more are held or refused
//	port elements               MaxSaidElements at once, 4 times as many an hour, refreshes included, MaxHeldElements in
//	                            its live bans; bans beyond are held, refreshes refused
//	entries of others inside    Caps.Burst at once, Caps.Rate a minute; more are held. All origins: the breaker. An unban or
//	  unbans, allows, unallows    unallow about others counts as at least one
//	entries of its own inside   Caps.Bulk an hour; more are held. One op lifts MaxCounted, and as many of others; with more
//	                            inside it is held
//	ops other than bans         MaxOthers an hour; more are refused
//	marks in force              MaxCancelMarks, of which maxFront for one prefix and origin; more are refused
//	allows in force             MaxAllows; more are refused
//	ops that wait, held         MaxHeldOf, and no more than is left of MaxHeld, for all origins; an unban or unallow takes 8
//	                            and one for each of its marks; more are refused
//	width of all but revokes    Caps.MinBits4 and MinBits6, else those of Limits
//
// Outside the table, making fail2ban let go of what is lifted costs, for all origins together,
//
//	lifts told to fail2ban      one call a second, of 500 addresses at most; 65,536 prefixes wait, more are left out
//	                            and reported
//	peers' questions about it   4 calls at once, one a second
//
// One Merge examines MaxTouch entries inside the unbans and allows of peers and as many inside this node's own,
// SetNever examines MaxTouch, Expire MaxExpire, and Withdraw as many as it is asked to. The rest is due at once. A
// cancel covers nothing that was issued more than Limits.FutureSkew after it.
//
// The package is pure: it starts nothing, opens nothing and reads no clock; the caller passes the time. Times have a
// resolution of one millisecond and are UTC.
package ban

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of one op.
const (
	MaxReason = 200 // bytes of Op.Reason
	MaxSource = 64  // bytes of Op.Source
	MaxMarks  = 16  // origins that one unban or unallow can name
)

// ClockSkew is how much longer a cancelling op lives than what it cancels, so that a node whose clock is behind does
// not see the cancelled ban again.
const ClockSkew = 5 * time.Minute

// The end of the year 9999, the last that RFC 3339 can express, in Unix time.
const (
	maxUnix   = 253402300799
	maxMillis = maxUnix*1000 + 999
)

// Kind says what an op does.
type Kind uint8

// The kinds of ops. KindNever is no op: it marks an entry of the never-ban list in a [Finding].
const (
	KindNever   Kind = 0
	KindBan     Kind = 1 // drop packets from Prefix
	KindRevoke  Kind = 2 // the origin takes back its own ban of exactly this prefix and ports
	KindUnban   Kind = 3 // cancel the bans inside Prefix that Marks cover, whoever made them
	KindAllow   Kind = 4 // suppress every ban inside Prefix
	KindUnallow Kind = 5 // cancel the allows inside Prefix that Marks cover
)

var kindNames = [...]string{
	KindNever: "never", KindBan: "ban", KindRevoke: "revoke", KindUnban: "unban", KindAllow: "allow", KindUnallow: "unallow",
}

// String returns the kind in lower case.
func (k Kind) String() string { return nameOf(kindNames[:], "kind", uint8(k)) }

// Origin names the node where an op began: the first 16 bytes of the SHA-256 of its public key.
type Origin [16]byte

// String returns 32 lower-case hex digits.
func (o Origin) String() string { return hex.EncodeToString(o[:]) }

// Short returns the first 8 hex digits, for people.
func (o Origin) Short() string { return hex.EncodeToString(o[:4]) }

// ParseOrigin reads what String writes.
func ParseOrigin(s string) (Origin, error) {
	var o Origin
	if len(s) != 2*len(o) || strings.ToLower(s) != s {
		return o, fmt.Errorf("parse origin %q: want %d lower-case hex digits", s, 2*len(o))
	}
	if _, err := hex.Decode(o[:], []byte(s)); err != nil {
		return Origin{}, fmt.Errorf("parse origin %q: %w", s, err)
	}
	return o, nil
}

// Version orders the ops of one origin. Epoch counts the origin's starts, Seq its frames since that
// start, Index is the op's position in its frame.
type Version struct {
	Epoch, Seq uint64
	Index      uint16
}

// Compare returns -1, 0 or 1.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Epoch, w.Epoch), cmp.Compare(v.Seq, w.Seq), cmp.Compare(v.Index, w.Index))
}

// Mark stands for every op of Origin up to and including the frame (Epoch, Seq).
type Mark struct {
	Origin     Origin
	Epoch, Seq uint64
}

// covers reports whether the mark covers version v of its origin.
func (m Mark) covers(v Version) bool {
	return v.Epoch < m.Epoch || v.Epoch == m.Epoch && v.Seq <= m.Seq
}

// Op is one decision.
type Op struct {
	Kind   Kind
	Prefix netip.Prefix // masked; IPv4 is never written as 4-in-6
	Ports  Ports        // ban and revoke only; zero means all ports
	Until  time.Time    // when the op ends
	Reason string       // at most MaxReason bytes of clean text
	Source string       // at most MaxSource bytes of clean text: "cli", "api", "import", "import:drop", "line:sshd"
	Marks  []Mark       // unban and unallow only: 1 to MaxMarks, ascending by origin
}

// Validate returns an error if the op is not fit to travel. It checks form alone; [Table.CheckLocal] and
// [Table.CheckRemote] decide what may be banned.
func (o Op) Validate() error {
	switch o.Kind {
	case KindBan, KindRevoke:
		if len(o.Marks) != 0 {
			return fmt.Errorf("%s of %v: marks belong to unban and unallow", o.Kind, o.Prefix)
		}
	case KindAllow:
		if len(o.Marks) != 0 || !o.Ports.IsAll() {
			return fmt.Errorf("allow of %v: takes neither ports nor marks", o.Prefix)
		}
	case KindUnban, KindUnallow:
		if !o.Ports.IsAll() {
			return fmt.Errorf("%s of %v: takes no ports", o.Kind, o.Prefix)
		}
		if err := checkMarks(o.Marks); err != nil {
			return fmt.Errorf("%s of %v: %w", o.Kind, o.Prefix, err)
		}
	default:
		return fmt.Errorf("unknown kind %d", uint8(o.Kind))
	}
	if err := checkPrefix(o.Prefix); err != nil {
		return err
	}
	if s := o.Until.Unix(); s <= 0 || s > maxUnix {
		return fmt.Errorf("%s of %v: end %v is out of range", o.Kind, o.Prefix, o.Until)
	}
	if !clean(o.Reason, MaxReason) {
		return fmt.Errorf("%s of %v: reason %q is not clean text of at most %d bytes", o.Kind, o.Prefix, o.Reason, MaxReason)
	}
	if !clean(o.Source, MaxSource) {
		return fmt.Errorf("%s of %v: source %q is not clean text of at most %d bytes", o.Kind, o.Prefix, o.Source, MaxSource)
	}
	return nil
}

func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("prefix is not valid")
	case p.Addr().Is4In6():
		return fmt.Errorf("prefix %v: IPv4 written as IPv6", p)
	case p != p.Masked():
		return fmt.Errorf("prefix %v: bits are set behind its length", p)
	}
	return nil
}

func checkMarks(ms []Mark) error {
	if len(ms) == 0 || len(ms) > MaxMarks {
		return fmt.Errorf("%d marks, want 1 to %d", len(ms), MaxMarks)
	}
	for i := 1; i < len(ms); i++ {
		if bytes.Compare(ms[i-1].Origin[:], ms[i].Origin[:]) >= 0 {
			return errors.New("marks are not ascending by origin")
		}
	}
	return nil
}

// Record is an op with its origin and order. The same origin and version always mean the same op.
type Record struct {
	Op
	Origin  Origin
	Version Version
	Issued  time.Time // when the origin decided, by its clock
	Arrived time.Time // when this node first had it, by its own clock; zero if unknown; does not travel
	Hold    Hold      // what this node does about it; does not travel
}

// clean reports whether s is UTF-8 of at most limit bytes that is safe to print on a terminal as is.
func clean(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f {
			return utf8.ValidString(s) && strings.IndexFunc(s, unfit) < 0
		}
	}
	return true
}

// unfit reports whether r could let a peer's text move the cursor, or break or reorder a line.
func unfit(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}

// CleanText makes s fit for Op.Reason or Op.Source: it replaces what is not UTF-8 or could control a terminal with a
// blank, trims blanks at both ends and cuts s to limit bytes.
func CleanText(s string, limit int) string {
	if len(s) > 4*limit { // bounds the work below
		s = s[:4*limit]
	}
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unfit(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	for len(s) > limit {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return strings.TrimSpace(s)
}

func millis(t time.Time) int64      { return t.UnixMilli() }
func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
