package fw

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Chains of our table. A packet goes from nftBase to its family's chain and, on a match, to that family's hit chain.
const (
	nftBase = "prerouting"

	// nftBefore is slightly before raw (-300), and so before connection tracking too.
	nftBefore = -310
)

func nftChainName(v6, hit bool) string {
	name := "v4"
	if v6 {
		name = "v6"
	}
	if hit {
		return "hit-" + name
	}
	return name
}

// nftRuleset returns all our rules by chain, looking up the sets of a generation.
func nftRuleset(generation string, outbound Outbound) map[string][][]expr.Any {
	rules := map[string][][]expr.Any{
		nftBase: {
			{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, equal(append([]byte("lo"), make([]byte, 14)...)), verdict(expr.VerdictReturn, "")},
			append(ofFamily(false), verdict(expr.VerdictGoto, nftChainName(false, false))),
			append(ofFamily(true), verdict(expr.VerdictGoto, nftChainName(true, false))),
		},
	}
	for _, v6 := range []bool{false, true} {
		look := func(kind int, then expr.Any) []expr.Any {
			offset, length := uint32(12), uint32(4)
			if v6 {
				offset, length = 8, 16
			}
			rule := append(ofFamily(v6), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length})
			if kind == kindPort || kind == kindPortNet {
				// The 4-byte registers after the address. The kernel reports one that starts a 16-byte register under
				// the number of the latter.
				proto, port := uint32(unix.NFT_REG32_01), uint32(unix.NFT_REG32_02)
				if v6 {
					proto, port = unix.NFT_REG_2, unix.NFT_REG32_05
				}
				rule = append(rule, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: proto},
					&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
			}
			return append(rule, &expr.Lookup{SourceRegister: 1, SetName: nftSetName(v6, kind, generation)}, then)
		}
		hit := nftChainName(v6, true)
		for _, kind := range []int{kindAddr, kindNet, kindPort, kindPortNet} {
			chain := nftChainName(v6, false)
			rules[chain] = append(rules[chain], look(kind, verdict(expr.VerdictGoto, hit)))
		}
		if v6 {
			// Without neighbour discovery, banning a router or neighbour would take down the link: RFC 4890, 4.4.1.
			rules[hit] = append(rules[hit], []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{unix.IPPROTO_ICMPV6}),
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
				&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: []byte{133}},
				&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{137}},
				verdict(expr.VerdictReturn, ""),
			})
		}
		if outbound == OutboundAllow {
			rules[hit] = append(rules[hit], []expr.Any{
				&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equal([]byte{1}), verdict(expr.VerdictReturn, ""),
			})
		}
		pass := verdict(expr.VerdictReturn, "")
		rules[hit] = append(rules[hit], look(kindNever, pass), look(kindAllow, pass), []expr.Any{
			&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: nftCounter(v6).Name}, verdict(expr.VerdictDrop, ""),
		})
	}
	return rules
}

func equal(b []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }

func verdict(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

func ofFamily(v6 bool) []expr.Any {
	family := byte(unix.NFPROTO_IPV4)
	if v6 {
		family = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{family})}
}

// describe returns rules as text, to compare them with what the kernel returns.
func describe(exprs []expr.Any) string {
	var s strings.Builder
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Lookup:
			fmt.Fprintf(&s, "lookup %d %s\n", e.SourceRegister, e.SetName) // its SetID is not kept
		default:
			fmt.Fprintf(&s, "%T%+v\n", e, e)
		}
	}
	return s.String()
}

// nftChains returns our chains, called ones before calling ones.
func nftChains(outbound Outbound) []*nftables.Chain {
	table := nftOurTable()
	var chains []*nftables.Chain
	for _, hit := range []bool{true, false} {
		for _, v6 := range []bool{false, true} {
			chains = append(chains, &nftables.Chain{Name: nftChainName(v6, hit), Table: table})
		}
	}
	accept, priority := nftables.ChainPolicyAccept, nftables.ChainPriority(nftBefore)
	if outbound == OutboundAllow {
		priority = *nftables.ChainPriorityMangle // by then the kernel knows which side began a connection
	}
	return append(chains, &nftables.Chain{
		Name: nftBase, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: &priority, Policy: &accept,
	})
}

// nftFound is what the kernel has of ours.
type nftFound struct {
	table  bool
	chains map[string]*nftables.Chain
	rules  map[string][]*nftables.Rule
	sets   map[string]*nftables.Set
}

// find reads the table, chains, rules and the heads of sets, never elements.
func (b *nft) find() (nftFound, error) {
	found := nftFound{chains: map[string]*nftables.Chain{}, rules: map[string][]*nftables.Rule{}, sets: map[string]*nftables.Set{}}
	tables, err := b.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return found, nftError("list tables", err)
	}
	for _, t := range tables {
		found.table = found.table || t.Name == nftTable
	}
	if !found.table {
		return found, nil
	}
	chains, err := b.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return found, nftError("list chains", err)
	}
	for _, c := range chains {
		if c.Table.Name != nftTable {
			continue
		}
		found.chains[c.Name] = c
		if found.rules[c.Name], err = b.conn.GetRules(nftOurTable(), c); err != nil {
			return found, nftError("list rules", err)
		}
	}
	sets, err := b.conn.GetSets(nftOurTable())
	if err != nil {
		return found, nftError("list sets", err)
	}
	for _, s := range sets {
		found.sets[s.Name] = s
	}
	return found, nil
}

// generation returns the generation whose sets the rules look up; ok is false if that cannot be told.
func (f nftFound) generation() (g string, ok bool) {
	for _, chain := range []string{nftChainName(false, false), nftChainName(true, false)} {
		for _, rule := range f.rules[chain] {
			for _, e := range rule.Exprs {
				if l, isLookup := e.(*expr.Lookup); isLookup {
					if strings.HasSuffix(l.SetName, "x") {
						return "x", true
					}
					return "", true
				}
			}
		}
	}
	return "", false
}

// problems lists what is not as it should be.
func (f nftFound) problems(generation string, outbound Outbound) (problems []string) {
	if !f.table {
		return []string{"nftables: the table inet " + nftTable + " is missing"}
	}
	say := func(format string, args ...any) {
		problems = append(problems, "nftables: "+fmt.Sprintf(format, args...))
	}
	for _, v6 := range []bool{false, true} {
		for kind := range nftKinds {
			want := nftSet(v6, kind, generation)
			switch have := f.sets[want.Name]; {
			case have == nil:
				say("the set %s is missing", want.Name)
			case !sameType(have, want):
				say("the set %s is of another type", want.Name)
			}
		}
	}
	rules := nftRuleset(generation, outbound)
	for _, want := range nftChains(outbound) {
		have := f.chains[want.Name]
		switch {
		case have == nil:
			say("the chain %s is missing", want.Name)
			continue
		case !sameHook(have, want):
			say("the chain %s has another hook or priority", want.Name)
		}
		switch rules := rules[want.Name]; {
		case len(f.rules[want.Name]) == 0:
			say("the chain %s was emptied", want.Name)
		case !sameRules(f.rules[want.Name], rules):
			say("the chain %s was altered", want.Name)
		}
	}
	return problems
}

func sameType(a, b *nftables.Set) bool {
	return a.KeyType.Bytes == b.KeyType.Bytes && a.Interval == b.Interval && a.HasTimeout == b.HasTimeout
}

// excepts reports whether all sets of exceptions exist.
func (f nftFound) excepts() bool {
	for _, v6 := range []bool{false, true} {
		if f.sets[nftSetName(v6, kindNever, "")] == nil || f.sets[nftSetName(v6, kindAllow, "")] == nil {
			return false
		}
	}
	return true
}

// bent reports whether a set of exceptions is of another type, which only a new table fixes.
func (f nftFound) bent() bool {
	for _, v6 := range []bool{false, true} {
		for _, kind := range [...]int{kindNever, kindAllow} {
			want := nftSet(v6, kind, "")
			if have := f.sets[want.Name]; have != nil && !sameType(have, want) {
				return true
			}
		}
	}
	return false
}

func sameHook(a, b *nftables.Chain) bool {
	if a.Type != b.Type || (a.Hooknum == nil) != (b.Hooknum == nil) {
		return false
	}
	return a.Hooknum == nil || *a.Hooknum == *b.Hooknum && *a.Priority == *b.Priority &&
		(a.Policy == nil || *a.Policy == *b.Policy)
}

func sameRules(have []*nftables.Rule, want [][]expr.Any) bool {
	if len(have) != len(want) {
		return false
	}
	for i := range want {
		if describe(have[i].Exprs) != describe(want[i]) {
			return false
		}
	}
	return true
}

// queueTable queues the table, chains and rules for a generation, replacing whatever rules are there.
func (b *nft) queueTable(found nftFound, generation string) {
	table := b.conn.AddTable(nftOurTable())
	for _, v6 := range []bool{false, true} {
		b.conn.AddObj(nftCounter(v6)) // one that is there keeps its count
	}
	rules := nftRuleset(generation, b.opts.Outbound)
	for _, c := range nftChains(b.opts.Outbound) {
		if have := found.chains[c.Name]; have != nil && !sameHook(have, c) {
			b.conn.DelChain(&nftables.Chain{Name: c.Name, Table: table})
		}
		b.conn.AddChain(c)
		b.conn.FlushChain(c)
	}
	for _, c := range nftChains(b.opts.Outbound) {
		for _, exprs := range rules[c.Name] {
			b.conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: exprs})
		}
	}
}

// queueSets queues the sets of a generation, and the sets of exceptions that were not found.
func (b *nft) queueSets(found nftFound, generation string) error {
	b.conn.AddTable(nftOurTable())
	for _, v6 := range []bool{false, true} {
		for kind := range nftKinds {
			s := nftSet(v6, kind, generation)
			if excepting(kind) && found.sets[s.Name] != nil {
				continue
			}
			s.Counter = b.opts.Counters && !excepting(kind)
			if err := b.conn.AddSet(s, nil); err != nil {
				return fmt.Errorf("nf_tables: set %s: %w", s.Name, err)
			}
		}
	}
	return nil
}
