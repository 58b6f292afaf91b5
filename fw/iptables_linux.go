package fw

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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

	// maxRuleDeletes is how many rules are deleted one by one: for each, iptables-nft compares the whole chain, which
	// takes as long as writing a twentieth of it (30 of 600 ms for 32,000 rules).
	maxRuleDeletes = 20
)

// ruleEntry is one entry and its rank among the newest.
type ruleEntry struct {
	Entry
	rank uint64 // the lowest rank goes first
}

// iptablesBackend drops by one or a few rules per entry, for the newest entries only. The kernel never ends them
// itself.
type iptablesBackend struct {
	xt         *xtables
	opts       Options
	held       map[Key]ruleEntry // what the chain holds; replaced, never modified, so that it stays true if a change fails
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
	if err := xt.setUp(ctx, b.want, true); err != nil {
		return nil, "", err
	}
	limits := fmt.Sprintf("only the newest %d bans are enforced, and each costs every packet; install ipset or nftables", maxRuleEntries)
	if note != "" {
		limits += "; " + note
	}
	return b, limits, nil
}

func (b *iptablesBackend) Name() string { return NameIPTables }
func (b *iptablesBackend) Dropped(ctx context.Context) (v4, v6 Dropped, err error) {
	return b.xt.dropped(ctx)
}

func (b *iptablesBackend) Close() error   { return b.xt.close() }
func (b *iptablesBackend) Traits() Traits { return Traits{LetsThrough: b.xt.open6} }

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
	c.main = mainRules(b.held, v6)
	return c
}

// mainRules returns the rules of one family's entries, in the order of their ranks.
func mainRules(entries map[Key]ruleEntry, v6 bool) (rules []string) {
	for _, e := range slices.SortedFunc(maps.Values(entries), func(x, y ruleEntry) int { return cmp.Compare(x.rank, y.rank) }) {
		if e.Prefix.Addr().Is6() == v6 {
			rules = append(rules, entryRules(e.Entry)...)
		}
	}
	return rules
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
	var list []Entry
	var refused []Refusal
	cut := func() {
		kept, over := latest(list)
		for _, e := range over {
			refused = append(refused, Refusal{e, whyNewest})
		}
		list = kept
	}
	for e := range state.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if why := b.xt.undroppable(e.Prefix); why != "" {
			refused = append(refused, Refusal{e, why})
		} else if e.Until.After(now) {
			if list = append(list, e); len(list) >= 2*maxRuleEntries {
				cut()
			}
		}
	}
	cut()
	former := b.held
	b.held = map[Key]ruleEntry{}
	for _, e := range slices.Backward(list) {
		b.held[e.Key()] = ruleEntry{e, b.nextRank()}
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

// latest sorts entries, the last to end first, and cuts off what there is no room for.
func latest(list []Entry) (kept, over []Entry) {
	slices.SortFunc(list, func(x, y Entry) int {
		return cmp.Or(y.Until.Compare(x.Until), comparePrefix(x.Prefix, y.Prefix))
	})
	n := min(len(list), maxRuleEntries)
	return list[:n:n], list[n:]
}

// Apply keeps the newest entries, and writes the chain of each family that changes in one step.
func (b *iptablesBackend) Apply(ctx context.Context, now time.Time, updates []Update) error {
	next := maps.Clone(b.held)
	if next == nil {
		next = map[Key]ruleEntry{}
	}
	var refused []Refusal
	for _, u := range updates {
		switch why := b.xt.undroppable(u.Prefix); {
		case why != "" && !u.Remove:
			refused = append(refused, Refusal{u.Entry, why})
		case why != "":
		case u.Remove || !u.Until.After(now):
			delete(next, u.Key())
		default:
			next[u.Key()] = ruleEntry{u.Entry, b.nextRank()}
		}
	}
	if over := len(next) - maxRuleEntries; over > 0 {
		byRank := func(x, y Key) int { return cmp.Compare(next[x].rank, next[y].rank) }
		for _, key := range slices.SortedFunc(maps.Keys(next), byRank)[:over] {
			refused = append(refused, Refusal{next[key].Entry, whyNewest})
			delete(next, key)
		}
	}
	if err := b.turn(ctx, next); err != nil {
		return err
	}
	return refusedError(refused)
}

// turn changes the chains from what they hold to next.
func (b *iptablesBackend) turn(ctx context.Context, next map[Key]ruleEntry) error {
	for _, f := range b.xt.families {
		rules := mainRules(next, f.v6)
		if slices.Equal(rules, mainRules(b.held, f.v6)) {
			continue
		}
		if err := f.restore(ctx, b.xt.table, chainLines(chainMain, rules)); err != nil {
			return err
		}
	}
	b.held = next
	return nil
}

// expire removes the rules of ended entries, and returns when the next one ends.
func (b *iptablesBackend) expire(ctx context.Context, now time.Time) (next time.Time, err error) {
	live := maps.Clone(b.held)
	for key, e := range b.held {
		switch {
		case !e.Until.After(now):
			delete(live, key)
		case next.IsZero() || e.Until.Before(next):
			next = e.Until
		}
	}
	if len(live) < len(b.held) {
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
			err = f.restore(ctx, b.xt.table, f.hitLines(b.want(f.v6)))
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
				return nil, false // ip6tables-nft may delete the other list's rule: it does not compare masks
			}
			if len(lines) == maxRuleDeletes {
				return nil, false
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
