package fw

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/nftables"
)

// maxNFTHits is of how many bans nf_tables counters are read. For each page the kernel walks the set from its beginning, so
// the cost grows with the square: 100,000 took 12 s.
const maxNFTHits = 20_000

// Hits reads by a connection of its own, because the other one is used meanwhile.
func (b *ipset) Hits(ctx context.Context) (Hits, error) {
	if !b.opts.Counters {
		return nil, ErrNotCounted
	}
	var conn ipsetConn
	defer func() { _ = conn.close() }()
	all := elementHits{}
	for i := range b.xt.families {
		for _, spec := range ipsetSpecs[i][:entryKinds] {
			err := conn.each(spec.name, func(e element) error {
				if e.hits != nil {
					all.add(portKey{e.proto, e.port}, hit{e.prefix.Addr(), lastAddr(e.prefix), *e.hits})
				}
				return ctx.Err()
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return all.hits(), nil
}

// fresh is the counter of an element that is new. Without it the kernel would go on with that of a removed element whose
// place it takes.
var fresh = &Dropped{}

func (b *ipset) counts(held *tracker) { b.held = held }

// startOf returns the counter of an element that is added for an entry; nil = it stays as it is.
func (b *ipset) startOf(e Entry) *Dropped {
	if !b.opts.Counters || !b.loaded || b.held != nil && b.held.has(e) {
		return nil
	}
	return fresh
}

// portStarts does what startOf does for the elements of each prefix in updates with ports. An element that a new entry
// shares with others starts anew.
func (b *ipset) portStarts(updates []Update) map[netip.Prefix]*Dropped {
	if !b.opts.Counters {
		return nil
	}
	starts := map[netip.Prefix]*Dropped{}
	for _, u := range updates {
		if start := b.startOf(u.Entry); len(u.Ports) > 0 && start != nil {
			starts[u.Prefix.Masked()] = start
		}
	}
	return starts
}

// counted returns the counters of all sets in force by element, so that a load can go on with them.
func (b *ipset) counted() (map[element]*Dropped, error) {
	out := map[element]*Dropped{}
	if !b.opts.Counters {
		return out, nil
	}
	for i := range b.xt.families {
		for _, spec := range ipsetSpecs[i][:entryKinds] {
			err := b.conn.each(spec.name, func(e element) error {
				if e.hits != nil {
					out[element{prefix: e.prefix, proto: e.proto, port: e.port}] = e.hits
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// Hits reads by a connection of its own, because the other one is used meanwhile.
func (b *nft) Hits(ctx context.Context) (of Hits, err error) {
	if !b.opts.Counters {
		return nil, ErrNotCounted
	}
	conn, err := dialNFT()
	if err != nil {
		return nil, err
	}
	defer conn.CloseLasting()
	look := &nft{conn: conn}
	const tries = 3 // a load may remove the sets meanwhile
	for range tries {
		if of, err = look.readHits(ctx); !errors.Is(err, syscall.ENOENT) {
			break
		}
	}
	return of, err
}

func (b *nft) readHits(ctx context.Context) (Hits, error) {
	found, err := b.find()
	if err != nil {
		return nil, err
	}
	generation, _ := found.generation()
	all := elementHits{}
	for i := range sentinels {
		for kind := range nftKinds {
			if err := ctx.Err(); err != nil || excepting(kind) {
				if err != nil {
					return nil, err
				}
				continue
			}
			set := nftSet(i == 1, kind, generation)
			elements, err := b.conn.GetSetElements(set)
			if err != nil {
				return nil, nftError("list the set "+set.Name, err)
			}
			if len(elements) > 0 && elements[0].Counter == nil && !set.Interval {
				return nil, errors.New("nf_tables: the sets have no counters: bans are still being loaded, or the kernel is older than Linux 5.7")
			}
			all.addNFT(set, elements)
		}
	}
	return all.hits(), nil
}

// addNFT adds the elements of a set. Those of kindNet are starts and ends of intervals.
func (h elementHits) addNFT(set *nftables.Set, elements []nftables.SetElement) {
	pairs := set.Interval && !set.Concatenation
	if pairs {
		slices.SortFunc(elements, func(x, y nftables.SetElement) int { return slices.Compare(x.Key, y.Key) })
	}
	for i, e := range elements {
		if e.Counter == nil || e.IntervalEnd {
			continue
		}
		first, k := nftKeyParts(e.Key)
		last := first
		switch {
		case set.Concatenation:
			last, _ = nftKeyParts(e.KeyEnd)
		case pairs && i+1 < len(elements):
			end, _ := nftKeyParts(elements[i+1].Key)
			last = end.Prev()
		case pairs:
			last = lastAddr(netip.PrefixFrom(first, 0))
		}
		h.add(k, hit{first, last, Dropped{e.Counter.Packets, e.Counter.Bytes}})
	}
}

// Hits reads the counters of the rules, which begin at 0 at each change of a family's bans.
func (b *iptablesBackend) Hits(ctx context.Context) (Hits, error) {
	if !b.opts.Counters {
		return nil, ErrNotCounted
	}
	all, rules := elementHits{}, map[string]Dropped{} // without ports, and with
	for _, f := range b.xt.families {
		out, err := f.run(ctx, f.path, nil, "-t", b.xt.table, "-w", checkWait, "-S", chainMain, "-v")
		if err != nil {
			return nil, fmt.Errorf("read counters: %w", err)
		}
		for line := range strings.Lines(out) {
			rule, ok := strings.CutPrefix(strings.TrimSpace(line), "-A "+chainMain+" ")
			at := xtCounters.FindStringSubmatchIndex(rule)
			if !ok || at == nil {
				continue
			}
			var n Dropped
			n.Packets, _ = strconv.ParseUint(rule[at[2]:at[3]], 10, 64)
			n.Bytes, _ = strconv.ParseUint(rule[at[4]:at[5]], 10, 64)
			rule = canonicalRule(rule[:at[0]] + rule[at[1]:])
			source, _ := strings.CutSuffix(strings.TrimPrefix(rule, "-s "), " -g "+chainHit)
			if p, err := netip.ParsePrefix(source); err == nil {
				all.add(portKey{}, hit{p.Addr(), lastAddr(p), n})
			} else {
				rules[rule] = n
			}
		}
	}
	whole := all.hits()
	return func(e Entry) (sum Dropped) {
		if len(e.Ports) == 0 {
			return whole(e)
		}
		for _, rule := range entryRules(e) {
			sum = sum.plus(rules[rule])
		}
		return sum
	}, nil
}
