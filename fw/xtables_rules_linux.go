package fw

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// chains holds the rules of our two chains in one family, each as `iptables -S` prints it without "-A CHAIN ".
type chains struct {
	main []string
	hit  []string // without the last rule, which drops
}

// xtables maintains our chains and the jump to them in the tables of both families.
type xtables struct {
	table    string
	families []*xtFamily
	opts     Options
	sock     nfSocket // to ask nf_tables for its generation
	open6    string   // why IPv6 packets pass; "" = they do not, or there are none
}

// undroppable returns why no entry of this prefix can be enforced; "" = it can.
func (x *xtables) undroppable(p netip.Prefix) string {
	switch {
	case !droppable(p):
		return whyPrefix
	case len(x.families) == 1 && p.Addr().Is6():
		return x.open6
	}
	return ""
}

// openXTables finds the commands. It goes on without the IPv6 one; if the machine has IPv6, the note says that its
// packets pass.
func openXTables(ctx context.Context, opts Options) (x *xtables, note string, err error) {
	x = &xtables{table: tableRaw, opts: opts}
	if opts.Outbound == OutboundAllow {
		x.table = tableMangle // the first hook where the kernel knows which side began a connection
	}
	v4, err := newXTFamily(ctx, opts, false)
	if err != nil {
		return nil, "", err
	}
	x.families = []*xtFamily{v4}
	v6, err := newXTFamily(ctx, opts, true)
	if err == nil {
		_, err = v6.list(ctx, x.table, v6.wait)
	}
	if errors.Is(err, ErrLocked) || ctx.Err() != nil {
		return nil, "", err
	}
	if err != nil {
		if _, none := os.Stat("/proc/thread-self/net/if_inet6"); !errors.Is(none, os.ErrNotExist) {
			x.open6 = "IPv6 packets are not dropped: " + strings.TrimSuffix(err.Error(), ": "+ErrUnsupported.Error())
		}
		return x, x.open6, nil
	}
	x.families = append(x.families, v6)
	return x, "", nil
}

// hitRules returns the rules that every iptables-based backend applies to a matched packet before dropping it.
func (x *xtables) hitRules(v6 bool) []string {
	var rules []string
	if v6 {
		// Without neighbour discovery, banning a router or neighbour would take down the link: RFC 4890, 4.4.1.
		for typ := 133; typ <= 137; typ++ {
			rules = append(rules, "-p ipv6-icmp -m icmp6 --icmpv6-type "+strconv.Itoa(typ)+" -j RETURN")
		}
	}
	if x.opts.Outbound == OutboundAllow {
		rules = append(rules, "-m conntrack --ctdir REPLY -j RETURN")
	}
	return rules
}

func dropRule(made string) string {
	if made == madeNothing {
		return "-j DROP"
	}
	return "-m comment --comment " + made + " -j DROP"
}

// ensure puts chains and jump in place in every family. What is already right is left alone; the rest is written in one
// step. want returns a family's chains.
func (x *xtables) ensure(ctx context.Context, want func(v6 bool) chains) error {
	return x.setUp(ctx, want, false)
}

// setUp does what ensure does. If keep is set, chains that an earlier run filled are left alone, so that they keep
// dropping until the first load.
func (x *xtables) setUp(ctx context.Context, want func(v6 bool) chains, keep bool) error {
	for _, f := range x.families {
		have, err := f.list(ctx, x.table, f.wait)
		if err != nil {
			return err
		}
		if err := f.remember(have, x.table); err != nil {
			return err
		}
		c := want(f.v6)
		hit := append(slices.Clone(c.hit), dropRule(f.made))
		right := have.has(chainMain) && have.has(chainHit) &&
			(keep || slices.Equal(have.rules[chainHit], hit) && slices.Equal(have.rules[chainMain], c.main))
		if !right {
			if err := f.restore(ctx, x.table, append(f.hitLines(c), chainLines(chainMain, c.main)...)); err != nil {
				return err
			}
		}
		if err := f.ensureJump(x.table, have); err != nil {
			return err
		}
	}
	return nil
}

// chainLines returns the lines that replace a chain's rules.
func chainLines(chain string, rules []string) []string {
	lines := []string{":" + chain + " - [0:0]"}
	for _, rule := range rules {
		lines = append(lines, "-A "+chain+" "+rule)
	}
	return lines
}

// hitLines returns the lines that replace the rules of chainHit.
func (f *xtFamily) hitLines(c chains) []string {
	return append(chainLines(chainHit, c.hit), "-A "+chainHit+" "+dropRule(f.made))
}

// remember finds out, before anything is written, what the kernel will hold only for us.
func (f *xtFamily) remember(have listing, table string) error {
	if !f.nft {
		return nil // the legacy kernel tables cannot be removed again
	}
	if made := have.made(); made != madeNothing {
		f.made = made
		return nil
	}
	tableThere, chainThere, err := nftHas(f.v6, table, chainHook)
	switch {
	case err != nil:
		return err
	case !tableThere:
		f.made = madeTable
	case !chainThere && f.made == madeNothing:
		f.made = madeChain
	}
	return nil
}

// ensureJump inserts the jump at the first place before it removes any other, so that there is always one.
func (f *xtFamily) ensureJump(table string, have listing) error {
	if have.jumpInPlace() {
		return nil
	}
	if err := f.ipt.Insert(table, chainHook, 1, jumpRule...); err != nil {
		return fmt.Errorf("insert the jump into %s: %w", chainHook, f.wrap(err))
	}
	at := have.jumps()
	for i := len(at) - 1; i >= 0; i-- {
		if err := f.ipt.DeleteById(table, chainHook, at[i]+1); err != nil {
			return fmt.Errorf("remove a jump from %s: %w", chainHook, f.wrap(err))
		}
	}
	return nil
}

// xtCounters are a rule's counters as `iptables -S -v` prints them.
var xtCounters = regexp.MustCompile(` -c ([0-9]+) ([0-9]+)`)

// dropped reads the counters of the rules that drop.
func (x *xtables) dropped(ctx context.Context) (v4, v6 Dropped, err error) {
	for _, f := range x.families {
		out, err := f.run(ctx, f.path, nil, "-t", x.table, "-w", checkWait, "-S", chainHit, "-v")
		if err != nil {
			return v4, v6, fmt.Errorf("read counters: %w", err)
		}
		of := &v4
		if f.v6 {
			of = &v6
		}
		for line := range strings.Lines(out) {
			if n := xtCounters.FindStringSubmatch(line); n != nil && strings.HasSuffix(strings.TrimSpace(line), "-j DROP") {
				of.Packets, _ = strconv.ParseUint(n[1], 10, 64)
				of.Bytes, _ = strconv.ParseUint(n[2], 10, 64)
			}
		}
	}
	return v4, v6, nil
}

// check returns what is not as ensure would leave it.
func (x *xtables) check(ctx context.Context, want func(v6 bool) chains) (problems []string, err error) {
	for _, f := range x.families {
		have, err := f.list(ctx, x.table, checkWait)
		if err != nil {
			return nil, err
		}
		say := func(format string, args ...any) {
			problems = append(problems, f.name+": "+fmt.Sprintf(format, args...))
		}
		switch at := have.jumps(); {
		case len(at) == 0:
			say("the jump from %s to %s is missing", chainHook, chainMain)
		case len(at) > 1:
			say("%s jumps to %s %d times", chainHook, chainMain, len(at))
		case at[0] != 1:
			say("the jump from %s to %s stands at place %d, not first", chainHook, chainMain, at[0])
		case !have.jumpInPlace():
			say("the jump from %s to %s was altered", chainHook, chainMain)
		}
		c := want(f.v6)
		hit := append(slices.Clone(c.hit), dropRule(have.made()))
		for _, chain := range []struct {
			name string
			want []string
		}{{chainMain, c.main}, {chainHit, hit}} {
			switch rules := have.rules[chain.name]; {
			case !have.has(chain.name):
				say("the chain %s is missing", chain.name)
			case len(rules) == 0 && len(chain.want) > 0:
				say("the chain %s was emptied", chain.name)
			case !slices.Equal(rules, chain.want):
				say("the chain %s was altered", chain.name)
			}
		}
	}
	return problems, nil
}

// teardown removes our rules from every table of every family.
func (x *xtables) teardown(ctx context.Context) error {
	for _, f := range x.families {
		for _, table := range []string{tableRaw, tableMangle} {
			if _, err := f.teardown(ctx, table); err != nil {
				return err
			}
		}
	}
	return nil
}

// teardown removes our rules from one table, and what existed only for them. It does not touch a table that does not
// exist. It returns what it removed.
func (f *xtFamily) teardown(ctx context.Context, table string) (removed []string, err error) {
	if there, err := xtTableExists(f.nft, f.v6, table); err != nil || !there {
		return nil, err
	}
	have, err := f.list(ctx, table, f.wait)
	if err != nil {
		return nil, err
	}
	at := have.jumps()
	for i := len(at) - 1; i >= 0; i-- {
		if err := f.ipt.DeleteById(table, chainHook, at[i]); err != nil {
			return removed, fmt.Errorf("remove the jump from %s: %w", chainHook, f.wrap(err))
		}
	}
	if len(at) > 0 {
		removed = append(removed, fmt.Sprintf("%s: the jump in table %s", f.name, table))
	}
	for _, chain := range []string{chainMain, chainHit} {
		if !have.has(chain) {
			continue
		}
		if err := f.ipt.ClearAndDeleteChain(table, chain); err != nil {
			return removed, fmt.Errorf("remove the chain %s: %w", chain, f.wrap(err))
		}
		removed = append(removed, fmt.Sprintf("%s: the chain %s in table %s", f.name, chain, table))
	}
	if made := have.made(); f.nft && made != madeNothing {
		gone, err := nftRemoveEmpty(f.v6, table, chainHook, made == madeTable,
			strings.HasPrefix(have.policy[chainHook], "ACCEPT"))
		if err != nil {
			return removed, err
		}
		for _, what := range gone {
			removed = append(removed, f.name+": "+what)
		}
	}
	return removed, nil
}
