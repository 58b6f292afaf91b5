package fw

import (
	"cmp"
	"context"
	"iter"
	"net/netip"
	"time"
)

// ipsetLoad fills sets under their temporary names.
type ipsetLoad struct {
	b       *ipset
	now     time.Time
	made    map[string]bool // by final name
	bufs    [2][kinds][]element
	full    [2][kinds]bool
	refused []Refusal
	hits    map[element]*Dropped // counters to go on with

	ports  *portBans
	unsent map[netip.Prefix]bool // prefixes with ports whose elements are yet to be queued
	slice  int                   // elements with ports since state.Meanwhile was last read
}

func newIPSetLoad(b *ipset, now time.Time) *ipsetLoad {
	return &ipsetLoad{b: b, now: now, made: map[string]bool{}, ports: newPortBans(), unsent: map[netip.Prefix]bool{}}
}

// make creates a set under its temporary name, replacing whatever an earlier run left there.
func (l *ipsetLoad) make(spec setSpec, hashSize uint32) error {
	temp := spec
	temp.name = tempName(spec.name)
	if _, err := destroyBusy(context.Background(), &l.b.conn, temp.name); err != nil {
		return err
	}
	if err := l.b.conn.create(temp, hashSize); err != nil {
		return err
	}
	l.made[spec.name] = true
	return nil
}

// put queues an element, and sends the queue once it is full.
func (l *ipsetLoad) put(kind int, e element) error {
	i := familyOf(e.prefix)
	if l.full[i][kind] {
		l.refused = append(l.refused, refusals(l.ports, kind, []element{e})...)
		return nil
	}
	if len(l.hits) > 0 {
		e.hits = l.hits[element{prefix: e.prefix, proto: e.proto, port: e.port}]
	}
	l.bufs[i][kind] = append(l.bufs[i][kind], e)
	if len(l.bufs[i][kind]) >= maxElements {
		return l.flush(i, kind)
	}
	return nil
}

func (l *ipsetLoad) flush(i, kind int) error {
	left, err := l.b.conn.add(tempName(ipsetSpecs[i][kind].name), l.bufs[i][kind])
	l.refused = append(l.refused, refusals(l.ports, kind, left)...)
	l.full[i][kind] = len(left) > 0
	l.bufs[i][kind] = l.bufs[i][kind][:0]
	return err
}

// entries loads the sentinels first, so that there is room for them, and then the entries.
func (l *ipsetLoad) entries(ctx context.Context, state State) error {
	for i := range l.b.xt.families {
		for kind := range entryKinds {
			if err := l.put(kind, sentinelOf(i, kind)); err != nil {
				return err
			}
		}
	}
	for e := range state.Entries {
		if err := cmp.Or(l.entry(e), ctx.Err()); err != nil {
			return err
		}
	}
	for len(l.unsent) > 0 {
		for prefix := range l.unsent {
			delete(l.unsent, prefix)
			if err := l.portsOf(ctx, prefix, state.Meanwhile); err != nil {
				return err
			}
		}
	}
	return l.flushAll(kindAddr, kindNet, kindPort)
}

// entry queues an entry. One with ports is noted for portsOf instead: an element shared by several entries gets the
// latest of their ends.
func (l *ipsetLoad) entry(e Entry) error {
	switch why := l.b.xt.undroppable(e.Prefix); {
	case why != "":
		l.refused = append(l.refused, Refusal{e, why})
		return nil
	case !e.Until.After(l.now), len(l.b.xt.families) == 1 && e.Prefix.Addr().Is6():
		return nil
	case len(e.Ports) > 0:
		if l.ports.keep(e) {
			l.unsent[e.Prefix.Masked()] = true
		} else {
			l.refused = append(l.refused, Refusal{e, whyPorts})
		}
		return nil
	}
	prefix := e.Prefix.Masked()
	return l.put(kindOf(prefix), element{prefix: prefix, timeout: timeoutSeconds(l.now, e.Until)})
}

// portsOf queues the elements of a prefix's entries with ports, and after each slice lets in what came meanwhile.
func (l *ipsetLoad) portsOf(ctx context.Context, prefix netip.Prefix, meanwhile iter.Seq[Entry]) error {
	for _, p := range l.ports.elements(l.now, prefix) {
		if err := l.put(kindPort, element{prefix: prefix, proto: p.proto, port: p.port, timeout: timeoutSeconds(l.now, p.until)}); err != nil {
			return err
		}
		if l.slice++; l.slice < maxSliceElements || meanwhile == nil {
			continue
		}
		l.slice = 0
		for e := range meanwhile {
			if err := l.entry(e); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (l *ipsetLoad) flushAll(kinds ...int) error {
	for i := range l.b.xt.families {
		for _, kind := range kinds {
			if err := l.flush(i, kind); err != nil {
				return err
			}
		}
	}
	return nil
}

// drop destroys the temporary sets: by then they hold the old content, or a load that failed.
func (l *ipsetLoad) drop() {
	for set := range l.made {
		if _, err := destroyBusy(context.Background(), &l.b.conn, tempName(set)); err != nil {
			l.b.opts.Logger.Warn("a temporary set stays until the next load", "set", tempName(set), "err", err)
		}
	}
}

// bucketsFor returns the initial number of hash buckets, 8 bytes each, of a set for n entries of both families. A set
// grows when one bucket has twelve entries, which happens at about three per bucket on average. Growing holds the lock
// of all sets of the machine, for 50 ms at 200,000 entries and 200 ms at 700,000, and no fresh ban gets in. The initial
// size avoids that: 4 MB of kernel memory suffice for a million IPv4 bans, half a megabyte for 200,000 IPv6 bans, and 1
// MB a family for the 262,144 port elements that one origin may have.
func bucketsFor(spec setSpec, kind, n int) uint32 {
	const most, perBucket, forPorts = 1 << 20, 2, 1 << 17
	switch kind {
	case kindNet:
		return 0 // the kernel's default
	case kindPort:
		return forPorts
	}
	buckets := uint32(1 << 19)
	if spec.v6 {
		buckets = 1 << 16
	}
	for buckets < most && int(buckets)*perBucket < n {
		buckets *= 2
	}
	return buckets
}

// Replace fills second sets and swaps each with the first.
func (b *ipset) Replace(ctx context.Context, now time.Time, state State) error {
	made, err := b.ensureSets(ctx)
	if err != nil {
		return err
	}
	// The rules come first, so that what an earlier run left in the sets is dropped while the new ones are filled.
	if err := b.xt.ensure(ctx, b.rules); err != nil {
		return err
	}
	load := newIPSetLoad(b, now)
	defer load.drop()
	if load.hits, err = b.counted(); err != nil {
		return err
	}
	for i := range b.xt.families {
		for kind, spec := range ipsetSpecs[i][:entryKinds] {
			if err := load.make(spec, bucketsFor(spec, kind, state.Len)); err != nil {
				return err
			}
		}
	}
	if err := cmp.Or(load.entries(ctx, state), ctx.Err()); err != nil {
		return err
	}
	if made > 0 { // sets of exceptions may be among the new ones
		if err := b.SetExceptions(ctx, b.exceptions, nil); err != nil {
			return err
		}
	}
	for kind := range entryKinds {
		for i := range b.xt.families {
			if err := b.swap(ctx, ipsetSpecs[i][kind].name); err != nil {
				return err
			}
		}
	}
	b.ports, b.loaded = load.ports, true
	if !b.cleaned {
		if _, err := cleanup(ctx, b.opts, keep{backend: NameIPSet, xt: b.xt}); err != nil {
			return notRemoved(load.refused, err)
		}
		b.cleaned = true
	}
	return refusedError(load.refused)
}
