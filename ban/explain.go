package ban

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// MaxFindings bounds what Why returns.
const MaxFindings = 1000

// Finding is one record, or entry of the never-ban list, that bears on an address.
type Finding struct {
	Kind   Kind // KindNever for an entry of the never-ban list
	Prefix netip.Prefix
	Ports  Ports
	Origin Origin    // zero for the never-ban list
	Issued time.Time // zero for the never-ban list
	Until  time.Time // zero for the never-ban list
	Reason string
	Source string
	Status string // in plain words; names another origin by its Short form
	By     Origin // the other origin that Status names, or zero
	rank   rank
}

// A rank orders findings: what decides comes first.
type rank uint8

const (
	rankException rank = iota // keeps the address from being banned
	rankEnforced
	rankPending
	rankSuppressed
	rankCancelled
	rankCancel
	rankInside // exceptions inside the prefix asked for
)

// Why returns everything that bears on p, whether it covers p or lies inside it: records of every kind and entries of
// the never-ban list, with what decides first. If there are more than MaxFindings, it leaves out some that lie inside
// p.
func (t *Table) Why(p netip.Prefix) []Finding {
	p, err := Normalize(p)
	if err != nil {
		return nil
	}
	q := query{t: t, k: keyOf(p)}
	_, q.excepted = t.exception(q.k)
	for w := range t.never.forms.covering(q.k) {
		if why, ok := t.never.why[w]; ok {
			q.addNever(w, why)
		}
	}
	for i := range t.allows.covering(q.k) {
		q.addEntry(&t.allows, i)
	}
	for i := range t.bans.covering(q.k) {
		q.addEntry(&t.bans, i)
	}
	q.addCancels(&t.bans)
	q.addCancels(&t.allows)
	q.addHeld()
	for k, why := range t.never.why {
		if k != q.k && q.k.contains(k) {
			q.addNever(k, why)
		}
	}
	for _, b := range [2]*recordSet{&t.allows, &t.bans} {
		for i := range b.inside(q.k) {
			if len(q.found) >= MaxFindings {
				break
			}
			if b.entries.at(i).key() != q.k {
				q.addEntry(b, i)
			}
		}
	}
	slices.SortStableFunc(q.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), b.Issued.Compare(a.Issued),
			a.Prefix.Compare(b.Prefix), bytes.Compare(a.Origin[:], b.Origin[:]))
	})
	return q.found[:min(len(q.found), MaxFindings)]
}

// A query collects what bears on k.
type query struct {
	t        *Table
	k        pkey
	excepted bool // k is allowed or on the never-ban list
	found    []Finding
}

func (q *query) addNever(k pkey, why string) {
	f := Finding{Kind: KindNever, Prefix: k.prefix(), Reason: why, Status: "never banned", rank: rankInside}
	if k.contains(q.k) {
		f.rank = rankException
	}
	q.found = append(q.found, f)
}

func (q *query) addEntry(b *recordSet, i uint32) {
	e := b.entries.at(i)
	for j, x := range b.of(e) {
		if x.kind == kindFloor {
			continue
		}
		f := findingOf(q.t.recordOf(b, j))
		if b == &q.t.allows {
			q.judgeAllow(&f, e, x)
		} else {
			q.judgeBan(&f, e, x)
		}
		q.found = append(q.found, f)
	}
}

func (q *query) addCancels(b *recordSet) {
	bears := func(s *cancelMark) bool { return s.key().contains(q.k) || q.k.contains(s.key()) }
	for i := range b.cancels.distinct(bears) {
		f := findingOf(q.t.cancelMarkRecord(b, i))
		f.rank, f.Status = rankCancel, "cancels the bans that its origin knew then"
		if f.Kind == KindUnallow {
			f.Status = "cancels the allows that its origin knew then"
		}
		q.voided(&f)
		q.found = append(q.found, f)
		if len(q.found) >= MaxFindings {
			return
		}
	}
}

func findingOf(r Record) Finding {
	return Finding{
		Kind: r.Kind, Prefix: r.Prefix, Ports: r.Ports, Origin: r.Origin,
		Issued: r.Issued, Until: r.Until, Reason: r.Reason, Source: r.Source,
	}
}

// StatusCounts is the Status of an allow in force.
const StatusCounts = "counts"

func (q *query) judgeAllow(f *Finding, e *entry, x *claim) {
	if q.voided(f) {
		return
	}
	switch c := q.cancelOf(&q.t.allows, e, x); {
	case c != nil:
		f.rank, f.By = rankCancelled, c.Origin
		f.Status = fmt.Sprintf("ended by unallow of %s by %s", shortPrefix(c.Prefix), c.Origin.Short())
	case x.hold == HoldDropped:
		f.rank, f.Status = rankCancelled, "dropped by this node's operator"
	case x.hold.Waits():
		f.rank, f.Status = rankPending, "held for the operator: "+x.hold.String()
	case e.key().contains(q.k):
		f.rank, f.Status = rankException, StatusCounts
	default:
		f.rank, f.Status = rankInside, StatusCounts
	}
}

func (q *query) judgeBan(f *Finding, e *entry, x *claim) {
	t := q.t
	if x.kind == KindRevoke {
		f.rank, f.Status = rankCancel, "its origin took its ban back"
		return
	}
	if q.voided(f) {
		return
	}
	if c := q.cancelOf(&t.bans, e, x); c != nil {
		f.rank, f.By = rankCancelled, c.Origin
		f.Status = fmt.Sprintf("cancelled by unban of %s by %s", shortPrefix(c.Prefix), c.Origin.Short())
		return
	}
	switch {
	case x.hold == HoldDropped:
		f.rank, f.Status = rankCancelled, "dropped by this node's operator"
		return
	case x.hold.Waits():
		f.rank, f.Status = rankPending, "held for the operator: "+x.hold.String()
		return
	}
	switch e.state {
	case StateEnforced:
		f.rank, f.Status = rankEnforced, "enforced"
		if q.excepted && e.key().contains(q.k) {
			f.rank, f.Status = rankSuppressed, "enforced, except here"
		}
	case StatePending, StateHeld:
		n := 0
		for _, x := range t.bans.of(e) {
			if !x.hold.Waits() && t.counts(&t.bans, e, x) {
				n++
			}
		}
		f.rank, f.Status = rankPending, t.waits(n, x)
	case StateAllowed:
		f.rank = rankSuppressed
		if never, ok := t.never.covering(e.key()); ok {
			f.Status = "suppressed by the never-ban list: " + never.describe(f.Prefix)
			return
		}
		a := t.allows.entries.at(t.allowing(e.key()))
		f.By = t.epochs.at(t.allows.claims.at(t.leading(&t.allows, a)).epoch).origin
		f.Status = fmt.Sprintf("suppressed by allow of %s by %s", shortPrefix(a.key().prefix()), f.By.Short())
	}
}

// waits describes what the quorum of claim x still lacks if n origins ban the entry.
func (t *Table) waits(n int, x *claim) string {
	q := t.quorumOf(x)
	text := fmt.Sprintf("waits for more origins: %d of %d", n, q.Origins)
	if q.Within != 0 {
		text += fmt.Sprintf(" within %s of each other", length(q.Within))
	}
	return text
}

// voided reports whether the finding's origin is withdrawn and, if so, says it in the finding.
func (q *query) voided(f *Finding) bool {
	w, ok := q.t.withdrawn[f.Origin]
	if ok {
		f.rank = rankCancelled
		f.Status = fmt.Sprintf("void: node %s was excluded at %s: %s", f.Origin.Short(), w.At.UTC().Format(time.RFC3339), w.Reason)
		f.By = f.Origin
	}
	return ok
}

// cancelOf returns what cancels claim x of entry e, or nil.
func (q *query) cancelOf(b *recordSet, e *entry, x *claim) *Record {
	i := q.t.cancelMarkOf(b, e, x)
	if i == 0 {
		return nil
	}
	return new(q.t.cancelMarkRecord(b, i))
}

// addHeld adds the unbans and unallows that are held or dropped.
func (q *query) addHeld() {
	for _, i := range q.t.lifts.ids {
		r := q.t.lifts.all.at(i)
		if k := keyOf(r.Prefix); !k.contains(q.k) && !q.k.contains(k) {
			continue
		}
		f := findingOf(*r)
		f.rank, f.Status = rankCancel, "held for the operator: "+r.Hold.String()
		if r.Hold == HoldDropped {
			f.Status = "dropped by this node's operator"
		}
		q.voided(&f)
		if q.found = append(q.found, f); len(q.found) >= MaxFindings {
			return
		}
	}
}
