package fw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// What a set is for.
const (
	kindAddr  = iota // single addresses, all ports
	kindNet          // wider prefixes, all ports
	kindPort         // addresses and prefixes, with a port
	kindNever        // never dropped: the never-ban list
	kindAllow        // never dropped
	kinds

	entryKinds = kindNever // those before it hold what is dropped
)

// Bounds of the sets.
const (
	maxAddrs = 4 << 20
	maxNets  = 1 << 20
	maxPorts = 1 << 20

	// ipsetSlice updates fit one message and take 0.3 ms; a larger slice saves nothing.
	ipsetSlice = 256

	// A set still referenced by rules that were just deleted is busy for a moment.
	busyRetries = 10
	busyDelay   = 2 * time.Millisecond // doubles
)

// ipsetSpecs are our sets, [v4, v6][kind]. The revisions are the oldest that support everything we use.
var ipsetSpecs = func() (specs [2][kinds]setSpec) {
	for i, v6 := range []bool{false, true} {
		name := [2]string{"meshban4", "meshban6"}[i]
		specs[i] = [kinds]setSpec{
			kindAddr: {name, "hash:ip", 1, v6, maxAddrs, true},
			kindNet:  {name + "n", "hash:net", 3, v6, maxNets, true},
			kindPort: {name + "p", "hash:net,port", 4, v6, maxPorts, true},
			// Twice the bounds: a change adds new prefixes before it removes old ones.
			kindNever: {name + "v", "hash:net", 2, v6, 2 * MaxNever, false},
			kindAllow: {name + "a", "hash:net", 2, v6, 2 * MaxAllow, false},
		}
	}
	return specs
}()

// EmptySets returns the ipset commands that create our sets under the names that saved rules use.
func EmptySets() (commands []string) {
	for _, family := range ipsetSpecs {
		for _, s := range family {
			family, timeout := "inet", ""
			if s.v6 {
				family = "inet6"
			}
			if s.timeouts {
				timeout = " timeout 0"
			}
			commands = append(commands, fmt.Sprintf("create %s %s family %s maxelem %d%s", s.name, s.typeName, family, s.maxElem, timeout))
		}
	}
	return commands
}

// tempName is the name under which a new set is filled.
func tempName(set string) string { return set + "x" }

// ipset drops by means of sets, each looked up by one rule.
type ipset struct {
	conn       ipsetConn
	xt         *xtables
	opts       Options
	ports      *portBans
	held       *tracker            // what the kernel has taken; nil = unknown
	batch      [2][kinds]setChange // of the Apply under way; kept to reuse its memory
	placed     bool                // the sets of exceptions hold exactly those below
	exceptions Exceptions          // the last that were set
	loaded     bool                // a load has put sentinels into all sets
	cleaned    bool                // whatever another backend left has been removed
}

// setChange is what a batch does to one set.
type setChange struct{ del, add []element }

func openIPSet(ctx context.Context, opts Options) (Backend, string, error) {
	xt, note, err := openXTables(ctx, opts)
	if err != nil {
		return nil, "", err
	}
	b := &ipset{xt: xt, opts: opts, ports: newPortBans(), conn: ipsetConn{counters: opts.Counters}}
	made, err := b.ensureSets(ctx)
	if err == nil {
		err = xt.ensure(ctx, b.rules)
	}
	if err != nil {
		if made > 0 && made == kinds*len(xt.families) { // everything there was made just now
			if xt.teardown(ctx) == nil {
				_, _ = teardownSets(ctx, &b.conn)
			}
		}
		_ = b.Close()
		if noIPSet(err) {
			err = fmt.Errorf("the kernel has no ip_set (%w): %w", err, ErrUnsupported)
		}
		return nil, "", err
	}
	return b, note, nil
}

// noIPSet reports whether err is the answer of a kernel without ip_set.
func noIPSet(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP)
}

func (b *ipset) Name() string                                            { return NameIPSet }
func (b *ipset) Dropped(ctx context.Context) (v4, v6 Dropped, err error) { return b.xt.dropped(ctx) }

func (b *ipset) Close() error { return errors.Join(b.conn.close(), b.xt.close()) }

func (b *ipset) Traits() Traits {
	return Traits{
		LetsThrough: b.xt.open6, Unsavable: b.inNFT(), // nft prints set matches as comments
		MaxTimeout: maxIPSetTimeout * time.Second, Quick: true, DuringLoad: true, Slice: ipsetSlice,
	}
}

// inNFT reports whether iptables-nft holds the rules.
func (b *ipset) inNFT() bool {
	return slices.ContainsFunc(b.xt.families, func(f *xtFamily) bool { return f.nft })
}

// specs calls f for each set of the families in use.
func (b *ipset) specs(f func(setSpec) error) error {
	for i := range b.xt.families {
		for _, spec := range ipsetSpecs[i] {
			if err := f(spec); err != nil {
				return err
			}
		}
	}
	return nil
}

// rules returns the chains' rules: one lookup per kind.
func (b *ipset) rules(v6 bool) chains {
	i := 0
	if v6 {
		i = 1
	}
	var c chains
	for kind, match := range [...]string{kindAddr: "src", kindNet: "src", kindPort: "src,dst"} {
		c.main = append(c.main, "-m set --match-set "+ipsetSpecs[i][kind].name+" "+match+" -g "+chainHit)
	}
	c.hit = b.xt.hitRules(v6)
	for _, kind := range [...]int{kindNever, kindAllow} {
		c.hit = append(c.hit, "-m set --match-set "+ipsetSpecs[i][kind].name+" src -j RETURN")
	}
	return c
}

// ensureSets creates missing sets, empty, and returns how many. It replaces a set with one of our names but another type,
// unless rules use it.
func (b *ipset) ensureSets(ctx context.Context) (made int, err error) {
	err = b.specs(func(spec setSpec) error {
		h, ok, err := b.conn.head(spec.name)
		if err != nil || ok && h == (setHeader{spec.typeName, spec.family()}) {
			return err
		}
		if _, err := destroyBusy(ctx, &b.conn, spec.name); err != nil {
			return fmt.Errorf("rules use a set %s of another type: give it another name, then restart the agent: %w", spec.name, err)
		}
		made++
		return b.conn.create(spec, 0)
	})
	return made, err
}

// Apply carries out a batch, removals first, then additions. Order does not matter otherwise: each key comes once, and
// portBans names each element once.
func (b *ipset) Apply(ctx context.Context, now time.Time, updates []Update) error {
	for i := range b.batch {
		for k := range b.batch[i] {
			b.batch[i][k].del, b.batch[i][k].add = b.batch[i][k].del[:0], b.batch[i][k].add[:0]
		}
	}
	starts := b.portStarts(updates)
	refused := b.ports.changes(now, updates, func(prefix netip.Prefix, p portElement) {
		set := &b.batch[familyOf(prefix)][kindPort]
		if p.until.IsZero() {
			set.del = append(set.del, element{prefix: prefix, proto: p.proto, port: p.port})
		} else {
			set.add = append(set.add, element{prefix: prefix, proto: p.proto, port: p.port, timeout: timeoutSeconds(now, p.until), hits: starts[prefix]})
		}
	})
	for _, u := range updates {
		if why := b.xt.undroppable(u.Prefix); why != "" && !u.Remove {
			refused = append(refused, Refusal{u.Entry, why})
		}
		if len(u.Ports) > 0 || !droppable(u.Prefix) {
			continue
		}
		prefix := u.Prefix.Masked()
		set := &b.batch[familyOf(prefix)][kindOf(prefix)]
		if u.Remove || !u.Until.After(now) {
			set.del = append(set.del, element{prefix: prefix})
		} else {
			set.add = append(set.add, element{prefix: prefix, timeout: timeoutSeconds(now, u.Until), hits: b.startOf(u.Entry)})
		}
	}
	for i := range b.xt.families {
		for kind, spec := range ipsetSpecs[i] {
			if err := ctx.Err(); err != nil {
				return err
			}
			change := &b.batch[i][kind]
			if err := b.conn.del(spec.name, change.del); err != nil {
				return err
			}
			left, err := b.conn.add(spec.name, change.add)
			if err != nil {
				return err
			}
			refused = append(refused, refusals(b.ports, kind, left)...)
		}
	}
	b.ports.settle()
	return refusedError(refused)
}

// refusals returns the entries of elements for which there was no room.
func refusals(ports *portBans, kind int, left []element) (refused []Refusal) {
	for _, e := range left {
		if kind == kindPort {
			refused = append(refused, ports.refuse(e.prefix, portKey{e.proto, e.port})...)
		} else {
			refused = append(refused, Refusal{Entry{Prefix: e.prefix}, whyFull})
		}
	}
	return refused
}

// byKind returns what the sets of each kind hold, sentinels included.
func (x Exceptions) byKind() map[int]prefixes {
	return map[int]prefixes{kindNever: prefixes(x.Never).withSentinels(), kindAllow: prefixes(x.Allow).withSentinels()}
}

// SetExceptions changes the sets in force. If their contents are unknown it fills second sets and swaps.
func (b *ipset) SetExceptions(ctx context.Context, x Exceptions, from *Exceptions) error {
	b.placed = false
	var err error
	if from == nil {
		err = b.refillExceptions(ctx, x)
	} else {
		err = b.amendExceptions(ctx, x, *from)
	}
	if err != nil {
		return err
	}
	b.exceptions, b.placed = x, true
	return nil
}

// amendExceptions adds new prefixes before it removes unwanted ones, so that what is in both x and from, even inside a
// wider prefix or in the other list, is excepted throughout.
func (b *ipset) amendExceptions(ctx context.Context, x, from Exceptions) error {
	var changes [2][kinds]setChange
	old := from.byKind()
	for kind, list := range x.byKind() {
		gone, come := old[kind].difference(list)
		for _, p := range gone {
			c := &changes[familyOf(p)][kind]
			c.del = append(c.del, element{prefix: p})
		}
		for _, p := range come {
			c := &changes[familyOf(p)][kind]
			c.add = append(c.add, element{prefix: p})
		}
	}
	each := func(f func(set string, c setChange) error) error {
		for i := range b.xt.families {
			for kind := entryKinds; kind < kinds; kind++ {
				if err := cmp.Or(ctx.Err(), f(ipsetSpecs[i][kind].name, changes[i][kind])); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err := each(func(set string, c setChange) error {
		left, err := b.conn.add(set, c.add)
		if err == nil && len(left) > 0 {
			err = errSetFull
		}
		return err
	})
	if err != nil {
		return err
	}
	return each(func(set string, c setChange) error { return b.conn.del(set, c.del) })
}

// refillExceptions fills second sets and swaps.
func (b *ipset) refillExceptions(ctx context.Context, x Exceptions) error {
	if _, err := b.ensureSets(ctx); err != nil {
		return err
	}
	l := newIPSetLoad(b, time.Time{})
	defer l.drop()
	for kind, list := range x.byKind() {
		for i := range b.xt.families {
			if err := l.make(ipsetSpecs[i][kind], 0); err != nil {
				return err
			}
		}
		for _, p := range list {
			if familyOf(p) < len(b.xt.families) {
				if err := l.put(kind, element{prefix: p}); err != nil {
					return err
				}
			}
		}
		if err := l.flushAll(kind); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil || len(l.refused) > 0 {
		return cmp.Or(err, errSetFull)
	}
	for kind := entryKinds; kind < kinds; kind++ {
		for i := range b.xt.families {
			if err := b.swap(ctx, ipsetSpecs[i][kind].name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check reads the head of each set, and the rules.
func (b *ipset) Check(ctx context.Context) (problems []string, err error) {
	if problems, err = b.checkSets(ctx); err != nil {
		return nil, err
	}
	more, err := b.checkRules(ctx)
	return append(problems, more...), err
}

func (b *ipset) checkSets(context.Context) (problems []string, err error) {
	err = b.specs(func(spec setSpec) error {
		h, ok, err := b.conn.head(spec.name)
		switch {
		case err != nil:
			return err
		case !ok:
			problems = append(problems, fmt.Sprintf("the set %s is missing", spec.name))
		case h != setHeader{spec.typeName, spec.family()}:
			problems = append(problems, fmt.Sprintf("the set %s is a %s", spec.name, h.typeName))
		}
		return nil
	})
	return problems, err
}

func (b *ipset) checkRules(ctx context.Context) ([]string, error) {
	return b.xt.check(ctx, b.rules)
}

// marksAll reports whether nf_tables holds the rules. The mark of a legacy table shows only its size.
func (b *ipset) marksAll() bool { return b.inNFT() }

// teardownSets destroys every set of ours. A set with one of our names but another type stays if it is in use.
func teardownSets(ctx context.Context, conn *ipsetConn) (removed []string, err error) {
	for _, family := range ipsetSpecs {
		for _, spec := range family {
			for _, name := range []string{spec.name, tempName(spec.name)} {
				gone, err := destroyBusy(ctx, conn, name)
				if errors.Is(err, syscall.EBUSY) {
					if h, _, unknown := conn.head(name); unknown == nil && h.typeName != spec.typeName {
						continue
					}
				}
				if err != nil {
					return removed, err
				}
				if gone {
					removed = append(removed, "ipset: the set "+name)
				}
			}
		}
	}
	return removed, nil
}

// whileBusy retries f while a set is in use for a moment, by rules that are being freed or by a listing.
func whileBusy(ctx context.Context, f func() error) error {
	for try := 0; ; try++ {
		err := f()
		if !errors.Is(err, syscall.EBUSY) || try == busyRetries || !pause(ctx, busyDelay<<try) {
			return err
		}
	}
}

func destroyBusy(ctx context.Context, conn *ipsetConn, name string) (existed bool, err error) {
	err = whileBusy(ctx, func() (err error) {
		existed, err = conn.destroy(name)
		return err
	})
	return existed, err
}

func (b *ipset) swap(ctx context.Context, set string) error {
	return whileBusy(ctx, func() error { return b.conn.swap(tempName(set), set) })
}

func familyOf(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}

func kindOf(p netip.Prefix) int {
	if p.IsSingleIP() {
		return kindAddr
	}
	return kindNet
}
