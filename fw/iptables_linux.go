package fw

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of the iptables backend: every packet is matched against every rule, and every change rewrites the chain.
const (
	maxRuleEntries = 1000

	whyNewest = "iptables rules hold the newest 1000 bans only"

	// maxMultiport is how many ports one multiport match takes; a range counts twice.
	maxMultiport = 15
)

// ruleEntry is one entry and its rank among the newest.
type ruleEntry struct {
	Entry
	rank uint64 // the lowest rank goes first
}

// ruleSet is what the chain holds. It is replaced, never modified, so that it stays true if a change fails.
type ruleSet struct {
	order []Key // in the order of the rules in the chain
	byKey map[Key]ruleEntry
}

// iptablesBackend drops by one or a few rules per entry, for the newest entries only. The kernel never ends them
// itself.
type iptablesBackend struct {
	xt         *xtables
	opts       Options
	held       ruleSet
	exceptions Exceptions
	rank       uint64
	cleaned    bool // whatever another backend left has been removed
}

func openIPTables(ctx context.Context, opts Options) (Backend, string, error) {
	xt, note, err := openXTables(ctx, opts)
	if err != nil {
		return nil, "", err
	}
	b := &iptablesBackend{xt: xt, opts: opts}
	if err := xt.openRules(ctx, b.want); err != nil {
		return nil, "", err
	}
	limits := fmt.Sprintf("only the newest %d bans are enforced, and each costs every packet; install ipset or nftables", maxRuleEntries)
	if note != "" {
		limits += "; " + note
	}
	return b, limits, nil
}

func (b *iptablesBackend) Name() string        { return NameIPTables }
func (b *iptablesBackend) Close() error        { return b.xt.close() }
func (b *iptablesBackend) letsThrough() string { return b.xt.open6 }

// want returns what both chains should hold.
func (b *iptablesBackend) want(v6 bool) chains {
	c := chains{hit: b.xt.hitRules(v6)}
	for _, list := range [][]netip.Prefix{b.exceptions.Never, b.exceptions.Allow} {
		for _, p := range list {
			if p.Addr().Is6() == v6 {
				c.hit = append(c.hit, exceptionRule(p))
			}
		}
	}
	for _, key := range b.held.order {
		if key.Prefix.Addr().Is6() == v6 {
			c.main = append(c.main, entryRules(b.held.byKey[key].Entry)...)
		}
	}
	return c
}

// entryRules returns the rules of one entry, as `iptables -S` prints them without "-A CHAIN ".
func entryRules(e Entry) []string {
	source := "-s " + e.Prefix.Masked().String()
	if len(e.Ports) == 0 {
		return []string{source + " -g " + chainHit}
	}
	var rules []string
	for _, p := range []struct {
		name       string
		proto, not uint8
	}{{"tcp", ProtoTCP, ProtoUDP}, {"udp", ProtoUDP, ProtoTCP}} {
		var items []string
		weight := 0
		end := func() {
			if len(items) > 0 {
				rules = append(rules, source+" -p "+p.name+" -m multiport --dports "+strings.Join(items, ",")+" -g "+chainHit)
			}
			items, weight = nil, 0
		}
		for _, r := range e.Ports {
			if r.Proto == p.not {
				continue
			}
			item, w := strconv.Itoa(int(r.First)), 1
			if r.Last != r.First {
				item, w = item+":"+strconv.Itoa(int(r.Last)), 2
			}
			if weight+w > maxMultiport {
				end()
			}
			items, weight = append(items, item), weight+w
		}
		end()
	}
	return rules
}

// Replace keeps the entries that end last, as many as fit, and writes the chains in one step.
func (b *iptablesBackend) Replace(ctx context.Context, now time.Time, state State) error {
	var latest latestEntries
	var refused []Refusal
	for e := range state.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if why := b.xt.undroppable(e.Prefix); why != "" {
			refused = append(refused, Refusal{e, why})
		} else if e.Until.After(now) {
			if out, over := latest.offer(e); over {
				refused = append(refused, Refusal{out, whyNewest})
			}
		}
	}
	former := b.held
	b.held = ruleSet{byKey: map[Key]ruleEntry{}}
	slices.SortFunc(latest, func(x, y Entry) int {
		return cmp.Or(x.Until.Compare(y.Until), comparePrefix(x.Prefix, y.Prefix))
	})
	for _, e := range latest {
		b.held.put(e, b.nextRank())
	}
	err := ctx.Err()
	if err == nil {
		err = b.xt.ensure(ctx, b.want)
	}
	if err != nil {
		b.held = former
		return err
	}
	if !b.cleaned {
		if _, err := cleanup(ctx, b.opts, keep{backend: NameIPTables, xt: b.xt}); err != nil {
			return notRemoved(refused, err)
		}
		b.cleaned = true
	}
	return refusedError(refused)
}

func (b *iptablesBackend) nextRank() uint64 {
	b.rank++
	return b.rank
}

// put adds an entry at the end, or gives the existing one its new end and rank.
func (s *ruleSet) put(e Entry, rank uint64) {
	key := e.Key()
	if _, there := s.byKey[key]; !there {
		s.order = append(s.order, key)
	}
	s.byKey[key] = ruleEntry{e, rank}
}

func (s *ruleSet) remove(gone func(Key, ruleEntry) bool) {
	s.order = slices.DeleteFunc(s.order, func(key Key) bool {
		is := gone(key, s.byKey[key])
		if is {
			delete(s.byKey, key)
		}
		return is
	})
}

func (s ruleSet) clone() ruleSet {
	c := ruleSet{order: slices.Clone(s.order), byKey: make(map[Key]ruleEntry, len(s.byKey)+1)}
	for k, v := range s.byKey {
		c.byKey[k] = v
	}
	return c
}

// shrink removes the entries of lowest rank until the rest fits, and returns them.
func (s *ruleSet) shrink() (out []Entry) {
	over := len(s.order) - maxRuleEntries
	if over <= 0 {
		return nil
	}
	ranks := make([]uint64, 0, len(s.order))
	for _, e := range s.byKey {
		ranks = append(ranks, e.rank)
	}
	slices.Sort(ranks)
	s.remove(func(_ Key, e ruleEntry) bool {
		gone := e.rank < ranks[over]
		if gone {
			out = append(out, e.Entry)
		}
		return gone
	})
	return out
}

// Apply deletes and adds rules, in one step per family.
func (b *iptablesBackend) Apply(ctx context.Context, now time.Time, updates []Update) error {
	next := b.held.clone()
	var refused []Refusal
	for _, u := range updates {
		switch why := b.xt.undroppable(u.Prefix); {
		case why != "":
			if !u.Remove {
				refused = append(refused, Refusal{u.Entry, why})
			}
		case u.Remove || !u.Until.After(now):
			if key := u.Key(); len(next.order) > 0 {
				next.remove(func(k Key, _ ruleEntry) bool { return k == key })
			}
		default:
			next.put(u.Entry, b.nextRank())
		}
	}
	for _, e := range next.shrink() {
		refused = append(refused, Refusal{e, whyNewest})
	}
	if err := b.turn(ctx, next); err != nil {
		return err
	}
	return refusedError(refused)
}

// turn changes the chain from what it holds to next.
func (b *iptablesBackend) turn(ctx context.Context, next ruleSet) error {
	for _, f := range b.xt.families {
		var lines []string
		add := func(option string, keys []Key, entries, other map[Key]ruleEntry) {
			for _, key := range keys {
				if _, stays := other[key]; !stays && key.Prefix.Addr().Is6() == f.v6 {
					for _, rule := range entryRules(entries[key].Entry) {
						lines = append(lines, option+" "+chainMain+" "+rule)
					}
				}
			}
		}
		add("-D", b.held.order, b.held.byKey, next.byKey)
		if f.v6 && f.nft && len(lines) > 0 {
			// ip6tables-nft 1.8.9 does not compare masks: asked to delete the rule of a /125, it deletes that of a /122
			// at the same address. So the chain is rewritten, in one step.
			lines = []string{":" + chainMain + " - [0:0]"}
			add("-A", next.order, next.byKey, nil)
		} else {
			add("-A", next.order, next.byKey, b.held.byKey)
		}
		if len(lines) == 0 {
			continue
		}
		if err := f.restore(ctx, b.xt.table, lines); err != nil {
			return err
		}
	}
	b.held = next
	return nil
}

// expire removes the rules of ended entries, and returns when the next one ends.
func (b *iptablesBackend) expire(ctx context.Context, now time.Time) (next time.Time, err error) {
	over := false
	for _, e := range b.held.byKey {
		switch {
		case !e.Until.After(now):
			over = true
		case next.IsZero() || e.Until.Before(next):
			next = e.Until
		}
	}
	if over {
		live := b.held.clone()
		live.remove(func(_ Key, e ruleEntry) bool { return !e.Until.After(now) })
		err = b.turn(ctx, live)
	}
	return next, err
}

// SetExceptions changes the chain that decides about matched packets, in one step per family.
func (b *iptablesBackend) SetExceptions(ctx context.Context, x Exceptions, from *Exceptions) error {
	former := b.exceptions
	b.exceptions = x
	for _, f := range b.xt.families {
		var err error
		if lines, ok := b.amendment(f, x, from); !ok {
			err = f.writeChains(ctx, b.xt.table, chains{hit: b.want(f.v6).hit}, false)
		} else if len(lines) > 0 {
			err = f.restore(ctx, b.xt.table, lines)
		}
		if err != nil {
			b.exceptions = former
			return err
		}
	}
	return nil
}

// amendment returns the lines that turn one family's exceptions into x, in the order of want. It reports false if the
// whole chain has to be rewritten.
func (b *iptablesBackend) amendment(f *xtFamily, x Exceptions, from *Exceptions) (lines []string, ok bool) {
	if from == nil {
		return nil, false
	}
	place := len(b.xt.hitRules(f.v6))
	var inserts []string
	for _, l := range []struct{ list, old, oldOther prefixes }{{x.Never, from.Never, from.Allow}, {x.Allow, from.Allow, from.Never}} {
		gone, come := l.old.difference(l.list)
		for _, p := range gone {
			if p.Addr().Is6() != f.v6 {
				continue
			}
			if _, alike := l.oldOther.overlap(p); alike {
				return nil, false // ip6tables-nft may delete the other list's rule: it does not compare masks, see turn
			}
			lines = append(lines, "-D "+chainHit+" "+exceptionRule(p))
		}
		for _, p := range l.list {
			if p.Addr().Is6() != f.v6 {
				continue
			}
			place++
			for len(come) > 0 && come[0].Compare(p) < 0 { // of the other family
				come = come[1:]
			}
			if len(come) > 0 && p == come[0] {
				inserts = append(inserts, fmt.Sprintf("-I %s %d %s", chainHit, place, exceptionRule(p)))
			}
		}
	}
	return append(lines, inserts...), true
}

func exceptionRule(p netip.Prefix) string { return "-s " + p.String() + " -j RETURN" }

// glance only takes the mark of the tables: there are no sets.
func (b *iptablesBackend) glance(context.Context) (problems []string, mark string, err error) {
	mark, err = b.xt.mark()
	return nil, mark, err
}

// Check compares the rules with what they should be.
func (b *iptablesBackend) Check(ctx context.Context) (problems []string, err error) {
	return b.xt.check(ctx, b.want)
}

// Teardown removes the rules.
func (b *iptablesBackend) Teardown(ctx context.Context) error {
	b.held = ruleSet{}
	return b.xt.teardown(ctx)
}

// latestEntries is a heap of the entries that end last, the soonest to end on top.
type latestEntries []Entry

func (l latestEntries) Len() int           { return len(l) }
func (l latestEntries) Less(i, j int) bool { return l[i].Until.Before(l[j].Until) }
func (l latestEntries) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *latestEntries) Push(x any)        { *l = append(*l, x.(Entry)) }
func (l *latestEntries) Pop() any {
	e := (*l)[len(*l)-1]
	*l = (*l)[:len(*l)-1]
	return e
}

// offer adds e, and returns the entry that then no longer fits, if any.
func (l *latestEntries) offer(e Entry) (out Entry, over bool) {
	switch {
	case len(*l) < maxRuleEntries:
		heap.Push(l, e)
		return Entry{}, false
	case e.Until.After((*l)[0].Until):
		e, (*l)[0] = (*l)[0], e
		heap.Fix(l, 0)
	}
	return e, true
}
