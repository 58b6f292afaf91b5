//go:build linux && netns

package chaos

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// outlives is by how much a ban may outlast its end.
	outlives = 2 * time.Second
	// rounding is by how much a time rounded to a second in a list may differ from the real one.
	rounding = time.Second
)

// claim is one node's acknowledged ban of a prefix. Its end lies between least and most, because the node read its clock at
// some moment during the command.
type claim struct {
	by          string // id of the node
	least, most time.Time
}

func (c claim) String() string {
	return fmt.Sprintf("by %s until %s to %s", c.by, c.least.UTC().Format(clock), c.most.UTC().Format(clock))
}

// record is what the oracle knows about a prefix.
type record struct {
	claims  []claim
	unsure  bool            // commands raced or failed: the nodes must agree, on either outcome
	lifters map[string]bool // ids that lifted claims of this prefix
	weak    map[string]bool // ids whose last command was acknowledged without being on disk: a kill may lose it
	running int             // commands under way
	latest  time.Time       // the latest end of all bans ever asked for
}

// oracle knows what must be in force, from acknowledged commands alone.
type oracle struct {
	mu      sync.Mutex
	records map[netip.Prefix]*record
	revoked map[string]bool
}

func newOracle() *oracle {
	return &oracle{records: map[netip.Prefix]*record{}, revoked: map[string]bool{}}
}

func (o *oracle) recordLocked(p netip.Prefix) *record {
	r := o.records[p]
	if r == nil {
		r = &record{lifters: map[string]bool{}, weak: map[string]bool{}}
		o.records[p] = r
	}
	return r
}

// begin is called before a command about prefixes starts.
func (o *oracle) begin(ps ...netip.Prefix) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range ps {
		o.recordLocked(p).running++
	}
}

// command is one that has ended.
type command struct {
	by         string
	start, end time.Time
	acked      bool
	weak       bool // not on disk when it ended: a kill may lose it
	raced      bool // other nodes ban or unban the same prefixes
}

// banned records a ban command that has ended.
func (o *oracle) banned(c command, length time.Duration, ps ...netip.Prefix) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range ps {
		r := o.recordLocked(p)
		r.running--
		most := c.end.Add(length + rounding)
		r.latest = latest(r.latest, most)
		switch {
		case o.revoked[c.by]: // its bans do not count
		case !c.acked || c.raced:
			r.unsure = true
		default:
			r.claims = slices.DeleteFunc(r.claims, func(old claim) bool { return old.by == c.by })
			r.claims = append(r.claims, claim{c.by, c.start.Add(length - rounding), most})
			r.weak[c.by] = c.weak
		}
	}
}

// lifted records an unban command that has ended. The node knew all claims, unless the command raced.
func (o *oracle) lifted(c command, ps ...netip.Prefix) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range ps {
		r := o.recordLocked(p)
		r.running--
		r.lifters[c.by] = true // also by a command that failed or raced: it may have lifted them
		if !c.acked || c.raced || o.revoked[c.by] {
			r.unsure = true
			continue
		}
		r.claims = nil
		r.weak[c.by] = c.weak
	}
}

// killed makes the oracle unsure of what the kill of a node may have lost.
func (o *oracle) killed(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.records {
		r.unsure = r.unsure || r.weak[id]
	}
}

// revoke removes a node's claims. What it had lifted may be back.
func (o *oracle) revoke(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.revoked[id] = true
	for _, r := range o.records {
		r.claims = slices.DeleteFunc(r.claims, func(c claim) bool { return c.by == id })
		r.unsure = r.unsure || r.lifters[id]
	}
}

// mustHold reports whether a prefix must be in force from now until the time until.
func (o *oracle) mustHold(p netip.Prefix, until time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.records[p]
	return r != nil && r.running == 0 && !r.unsure && r.holds(until)
}

func (r *record) holds(at time.Time) bool {
	return slices.ContainsFunc(r.claims, func(c claim) bool { return c.least.After(at) })
}

func (r *record) over(at time.Time) bool {
	return !slices.ContainsFunc(r.claims, func(c claim) bool { return !c.most.Add(outlives).Before(at) })
}

// outlived returns which of the elements, seen at the time at or later, should have ended on every node by then,
// whatever the node has heard.
func (o *oracle) outlived(seen map[netip.Prefix]bool, at time.Time) (found []finding) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for p := range seen {
		r := o.records[p]
		switch {
		case r == nil:
			found = append(found, finding{p, "no node banned it"})
		case r.running == 0 && r.latest.Add(outlives).Before(at):
			found = append(found, finding{p, fmt.Sprintf("it outlives its end %v by %v", r.latest.UTC().Format(clock), at.Sub(r.latest).Round(time.Millisecond))})
		}
	}
	return found
}

// finding is an element and what is wrong with it.
type finding struct {
	prefix netip.Prefix
	what   string
}

// clock is how times of a day are printed.
const clock = "15:04:05.000"

// judge compares a node's list, read between from and to at a quiet point, with what must be in force.
func (o *oracle) judge(list map[netip.Prefix]entry, from, to time.Time) (found []finding) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for p, r := range o.records {
		e, has := list[p]
		switch {
		case r.unsure:
		case !has && r.holds(to.Add(rounding)):
			found = append(found, finding{p, fmt.Sprintf("it is missing: banned %v", r.claims)})
		case has && r.over(from):
			found = append(found, finding{p, fmt.Sprintf("it is listed until %v, but must not be in force: %v, lifted by %v", e.Until.UTC().Format(clock), r.claims, slices.Collect(maps.Keys(r.lifters)))})
		}
	}
	for p := range list {
		if o.records[p] == nil {
			found = append(found, finding{p, "no node banned it"})
		}
	}
	slices.SortFunc(found, func(a, b finding) int { return a.prefix.Compare(b.prefix) })
	return found
}

// settle adopts what all nodes agree on at a quiet point for prefixes of which the oracle was unsure.
func (o *oracle) settle(list map[netip.Prefix]entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for p, r := range o.records {
		clear(r.weak)
		if !r.unsure {
			continue
		}
		e, has := list[p]
		r.claims = nil
		r.unsure = len(e.OriginIDs) > 1 // the list has the end of only one of them
		if has && !r.unsure {
			r.claims = []claim{{e.OriginIDs[0], e.Until.Add(-rounding), e.Until.Add(rounding)}}
		}
	}
}

// live returns the prefixes that must be in force until at.
func (o *oracle) live(ps []netip.Prefix, at time.Time) (live []netip.Prefix) {
	for _, p := range ps {
		if o.mustHold(p, at) {
			live = append(live, p)
		}
	}
	return live
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
