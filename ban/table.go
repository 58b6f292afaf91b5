package ban

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Bounds of a table.
const (
	MaxRecords = 1 << 24 // bans, revokes and allows; beyond that a new one is dropped, a refresh is not
	MaxCancels = 1 << 20 // marks of unbans, and as many of unallows; more are dropped
	MaxExpire  = 256     // records that end or are re-examined in one call of Expire; the rest is due at once
)

// ErrNotFound means that nothing live lies inside the prefix.
var ErrNotFound = errors.New("not found")

// Config configures a table.
type Config struct {
	Self    Origin         // this node; its own ban is enforced here whatever the quorum
	Limits  Limits         // zero fields take their defaults
	Quorum  Quorum         // what it takes to enforce a ban
	Sources []SourceQuorum // what it takes for bans of some sources; the first that fits applies
	Never   []NeverEntry   // what is never banned, besides the built-in entries
}

// Table holds what is banned. Its state depends only on the time and on the records merged, with their holds, not on
// the order or number of the merges. It is not safe for concurrent use.
//
// Merge, Expire, SetNever and SetPolicy first end what is due, up to MaxExpire records; a query sees the state that the
// last of them left. What unbans, allows and the never-ban list change beyond MaxTouch entries is left to the next
// calls, which are due at once.
type Table struct {
	self    Origin
	limits  Limits
	quorum  Quorum
	sources []SourceQuorum
	never   neverList

	epochs       internTable[originEpoch]
	words        textTable[words]
	ports        textTable[Ports]
	bans, allows recordSet
	held         heldList
	lifts        lifts
	parties      parties
	chores       chores
	inForce      map[uint32]bool // claims of allows that count
	claimsOf     tally
	allowsOf     tally                 // allows that count
	elementsOf   tally                 // port elements of bans
	atOnce       int                   // entries inside own unbans and allows that the running call may still examine
	looked       uint64                // entries examined since the start
	steps        uint64                // cancel marks examined and chores skipped, since the start
	states       [StateAllowed + 1]int // entries of bans by state
	capacity     int                   // MaxRecords; less in tests
	dropped      uint64
	touched      []touched // by the running call
	withdrawn    map[Origin]Withdrawal
	ended        []Record // the unbans and unallows that ended last, at most maxEnded
	oldest       int      // index of the oldest in ended, once that is full
}

// maxEnded bounds the unbans and unallows that are remembered after their end.
const maxEnded = 1 << 12

// New returns an empty table.
func New(cfg Config) (*Table, error) {
	limits, err := cfg.Limits.normal()
	if err != nil {
		return nil, fmt.Errorf("ban limits: %w", err)
	}
	quorum, err := cfg.Quorum.normal()
	if err != nil {
		return nil, err
	}
	sources, err := normalSources(cfg.Sources)
	if err != nil {
		return nil, err
	}
	for _, e := range cfg.Never {
		if _, err := Normalize(e.Prefix); err != nil {
			return nil, fmt.Errorf("never-ban list: %s: %w", e.Why, err)
		}
	}
	withdrawn := make(map[Origin]Withdrawal)
	t := &Table{
		withdrawn: withdrawn,
		self:      cfg.Self, limits: limits, quorum: quorum, sources: sources,
		never: newNeverList(cfg.Never), capacity: MaxRecords,
		inForce: make(map[uint32]bool), claimsOf: make(tally), allowsOf: make(tally), elementsOf: make(tally),
	}
	t.bans.tree.roots = make([]uint32, allRoots) // 512 KiB, which would hold up the first ban
	return t, nil
}

// Merge merges records that CheckLocal or CheckRemote accepted and returns what changed. It is the only way in. It
// leaves out records that have ended or are malformed.
func (t *Table) Merge(now time.Time, rs []Record) []Change {
	ms := millis(now)
	changes := t.expire(ms)
	t.atOnce = MaxTouch
	room := MaxTouch
	for i := range rs {
		if r := &rs[i]; millis(r.Until) > ms && checkPrefix(r.Prefix) == nil &&
			(r.Ports.IsAll() || r.Kind != KindAllow && r.Ports.Elements() <= MaxPortElements) {
			t.merge(r)
			room = t.work(room)
		}
	}
	return t.finish(changes)
}

func (t *Table) merge(r *Record) {
	b := t.setOf(r.Kind)
	switch r.Kind {
	case KindBan, KindRevoke, KindAllow:
		if t.bans.claims.live+t.allows.claims.live >= t.capacity && !t.holds(b, r) {
			t.dropped++
		} else if entry, changed := t.put(b, r); changed {
			t.touch(b, entry, t.causeOf(r))
		}
	case KindUnban, KindUnallow:
		if checkMarks(r.Marks) == nil && t.lets(b, r) && t.addCancel(b, r) {
			t.rejudge(b, keyOf(r.Prefix), t.causeOf(r))
		}
	}
}

// Expire ends what is due, up to MaxExpire records, and returns what changed. More is due as long as Next is not after
// now.
func (t *Table) Expire(now time.Time) []Change { return t.expire(millis(now)) }

// longAgo is when work that need not wait is due.
const longAgo = 1

// Next returns when Expire next has something to do; false if nothing is left to end.
func (t *Table) Next() (time.Time, bool) {
	var first int64
	for _, b := range [2]*recordSet{&t.bans, &t.allows} {
		for _, next := range [3]func() (uint32, int64){b.next, b.cancels.next, b.wakes.next} {
			if i, at := next(); i != 0 && (first == 0 || at < first) {
				first = at
			}
		}
	}
	if i, at := t.lifts.next(); i != 0 && (first == 0 || at < first) {
		first = at
	}
	if t.chores.busy() {
		first = longAgo
	}
	if first == 0 {
		return time.Time{}, false
	}
	return fromMillis(first), true
}

func (t *Table) expire(now int64) []Change {
	room := MaxExpire
	for ; room > 0; room-- {
		i, at := t.lifts.next()
		if i == 0 || at > now {
			break
		}
		t.lifts.ends.pop()
		t.dropLift(i)
	}
	for _, b := range [2]*recordSet{&t.allows, &t.bans} {
		for ; room > 0; room-- {
			i, at := b.cancels.next()
			if i == 0 || at > now {
				break
			}
			b.cancels.ends.pop()
			t.bury(t.cancelMarkRecord(b, i))
			t.removeCancelMark(b, i)
		}
	}
	for _, b := range [2]*recordSet{&t.allows, &t.bans} {
		room = t.wakeDue(b, now, room)
		for ; room > 0; room-- {
			i, at := b.next()
			if i == 0 || at > now {
				break
			}
			x := b.claims.at(i)
			entry, c := x.entry, t.causeOfClaim(x)
			c.ending = true
			b.ends.pop()
			t.drop(b, i)
			t.touch(b, entry, c)
		}
	}
	t.work(room)
	return t.finish(nil)
}

// wakeDue re-examines the claims whose cancel mark has ended. It returns how much room is left.
func (t *Table) wakeDue(b *recordSet, now int64, room int) int {
	for ; room > 0; room-- {
		i, at := b.wakes.next()
		if i == 0 || at > now {
			break
		}
		b.wakes.ends.pop()
		delete(b.wakes.at, i)
		x := b.claims.at(i)
		c := t.causeOfClaim(x)
		c.ending = true
		t.touch(b, x.entry, c)
	}
	return room
}

// bury remembers a mark of an unban or unallow that has ended.
func (t *Table) bury(r Record) {
	if len(t.ended) < maxEnded {
		t.ended = append(t.ended, r)
		return
	}
	t.ended[t.oldest] = r
	t.oldest = (t.oldest + 1) % maxEnded
}

// Ended returns the unbans and unallows that ended last, in no order. If the clock is set back, some may count again.
// Merge them before the bans that come back with them, because their frames may be gone everywhere.
func (t *Table) Ended() []Record { return slices.Clone(t.ended) }

// SetNever replaces the never-ban list, except for the built-in entries, and returns what changed. [Table.Exceptions]
// may change even if nothing is returned. Invalid prefixes are left out.
func (t *Table) SetNever(now time.Time, es []NeverEntry) []Change {
	changes := t.expire(millis(now))
	t.atOnce = MaxTouch
	old := t.never
	t.never = newNeverList(es)
	for k, why := range t.never.why {
		if _, ok := old.why[k]; !ok {
			t.rejudge(&t.bans, k, cause{origin: t.self, words: words{why, RuleNever}})
		}
	}
	for k, why := range old.why {
		if _, ok := t.never.why[k]; !ok {
			t.rejudge(&t.bans, k, cause{origin: t.self, words: words{why, RuleNever}})
		}
	}
	return t.finish(changes)
}

// records returns how many live records of all kinds there are.
func (t *Table) records() int {
	n := 0
	for _, b := range [2]*recordSet{&t.bans, &t.allows} {
		n += b.claims.live - b.floors + b.cancels.marks.live
	}
	return n
}

// Normalize returns p masked and, if it is 4-in-6, as the IPv4 prefix that it stands for.
func Normalize(p netip.Prefix) (netip.Prefix, error) {
	if p.IsValid() && p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("prefix %v: wider than all of IPv4", p)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if !p.IsValid() {
		return netip.Prefix{}, errors.New("prefix is not valid")
	}
	return p.Masked(), nil
}
