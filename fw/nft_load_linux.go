package fw

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/google/nftables"
)

// nftLoad fills the sets of a generation that no rule looks up yet. It has a connection of its own, so that its
// transactions do not include what Apply changes in the sets in use.
type nftLoad struct {
	b          *nft
	conn       *nftConn
	now        time.Time
	generation string
	bufs       [2][nftKinds][]nftables.SetElement
	shape      nftShape
	refused    []Refusal

	meanwhile iter.Seq[Entry] // of State
	slice     int             // elements since meanwhile was last read
	late      map[Key]Update  // what it yielded
}

func newNFTLoad(b *nft, conn *nftConn, now time.Time, generation string) *nftLoad {
	return &nftLoad{b: b, conn: conn, now: now, generation: generation, shape: newNFTShape(), late: map[Key]Update{}}
}

// Replace fills the other generation's sets, then switches the rules to them and deletes the former sets in one step.
func (b *nft) Replace(ctx context.Context, now time.Time, state State) error {
	if b.broken {
		// Somebody altered the table in a way that we cannot repair. A gap is better than failing for ever.
		b.opts.Logger.Warn("recreating the nftables table, which leaves a gap")
		if _, err := b.deleteTable(); err != nil {
			return err
		}
	}
	found, err := b.find()
	if err != nil {
		return err
	}
	if found.bent() {
		b.broken = true
		return errors.New("nf_tables: a set of exceptions is of another type; the table must be recreated")
	}
	if g, ok := found.generation(); ok {
		b.generation = g
	}
	if b.setsThere(found) && len(found.problems(b.generation, b.opts.Outbound)) > 0 {
		// The rules come first, so that what the old sets still hold is dropped while the new ones are filled.
		b.queueTable(found, b.generation)
		if err := b.flush("mend the rules"); err != nil {
			b.broken = true
			return err
		}
	}
	next := "x"
	if b.generation == "x" {
		next = ""
	}
	load, err := b.load(ctx, now, state, found, next)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	b.queueTable(found, next)
	b.queueDelSets(found, b.generation)
	if err := b.flush("switch to the new sets"); err != nil {
		b.broken = true
		return err
	}
	b.generation, b.shape, b.broken, b.loaded = next, load.shape, false, true
	if !b.cleaned {
		if _, err := cleanup(ctx, b.opts, keep{backend: NameNFTables}); err != nil {
			return notRemoved(load.refused, err)
		}
		b.cleaned = true
	}
	return refusedError(load.refused)
}

// setsThere reports whether all sets of the generation in use exist.
func (b *nft) setsThere(found nftFound) bool {
	for _, v6 := range []bool{false, true} {
		for kind := range nftKinds {
			if found.sets[nftSetName(v6, kind, b.generation)] == nil {
				return false
			}
		}
	}
	return true
}

// queueDelSets queues the deletion of the sets of a generation that were found, except those of exceptions.
func (b *nft) queueDelSets(found nftFound, generation string) {
	for _, v6 := range []bool{false, true} {
		for kind := range nftKinds {
			if name := nftSetName(v6, kind, generation); found.sets[name] != nil && !excepting(kind) {
				b.conn.DelSet(&nftables.Set{Table: nftOurTable(), Name: name})
			}
		}
	}
}

// load creates the sets of a generation, replacing whatever a failed load left there, and fills them.
func (b *nft) load(ctx context.Context, now time.Time, state State, found nftFound, generation string) (*nftLoad, error) {
	b.queueDelSets(found, generation)
	if err := b.queueSets(found, generation); err != nil {
		return nil, err
	}
	if err := b.flush("make the new sets"); err != nil {
		b.broken = true
		return nil, err
	}
	if !found.excepts() {
		if err := b.setExceptions(b.exceptions, nil); err != nil {
			return nil, err
		}
	}
	conn, err := dialNFT()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	l := newNFTLoad(b, conn, now, generation)
	return l, l.entries(ctx, state)
}

// entries loads the entries, and then those that came while their elements were sent.
func (l *nftLoad) entries(ctx context.Context, state State) error {
	if err := l.sentinels(); err != nil {
		return err
	}
	for e := range state.Entries {
		if err := cmp.Or(l.entry(e), ctx.Err()); err != nil {
			return err
		}
	}
	l.meanwhile = state.Meanwhile
	if err := l.intervals(ctx); err != nil {
		return err
	}
	refused, err := l.b.change(l.conn, l.generation, &l.shape, l.now, slices.Collect(maps.Values(l.late)))
	if err != nil {
		return err
	}
	l.refused = append(l.refused, refused...)
	return l.flush()
}

// step counts an element, and after each slice of elements lets in what came meanwhile.
func (l *nftLoad) step(ctx context.Context) error {
	if l.slice++; l.slice < maxSliceElements || l.meanwhile == nil {
		return nil
	}
	l.slice = 0
	for e := range l.meanwhile {
		l.late[e.Key()] = Update{Entry: e}
	}
	return ctx.Err()
}

func (l *nftLoad) flush() error {
	l.conn.pending = 0
	err := l.conn.Flush()
	if err == nil {
		l.b.commits++
	}
	return nftError("fill the sets", err)
}

// send puts the elements queued for a set on the connection.
func (l *nftLoad) send(i, kind int) error {
	buf := &l.bufs[i][kind]
	err := l.conn.put(nftSet(i == 1, kind, l.generation), *buf)
	*buf = (*buf)[:0]
	return err
}

func (l *nftLoad) sentinels() error {
	for i, p := range sentinels {
		for kind, k := range map[int]portKey{kindAddr: {}, kindPort: sentinelPort} {
			if err := l.put(i, kind, nftables.SetElement{Key: nftKey(p.Addr(), k)}); err != nil {
				return err
			}
		}
		l.shape.nets[i].load(p, sentinelEnd)
		ports := newIntervals()
		ports.load(p, sentinelEnd)
		l.shape.portNets[i][sentinelPort] = ports
	}
	return nil
}

func (l *nftLoad) entry(e Entry) error {
	switch {
	case !droppable(e.Prefix):
		l.refused = append(l.refused, Refusal{e, whyPrefix})
	case !e.Until.After(l.now):
	case len(e.Ports) > 0:
		if !l.shape.ports.keep(e) {
			l.refused = append(l.refused, Refusal{e, whyPorts})
		}
	case e.Prefix.IsSingleIP():
		i := familyOf(e.Prefix)
		return l.put(i, kindAddr, nftables.SetElement{
			Key: nftKey(e.Prefix.Addr(), portKey{}), Timeout: nftTimeout(l.now, e.Until),
		})
	default:
		prefix := e.Prefix.Masked()
		l.shape.nets[familyOf(prefix)].load(prefix, e.Until)
	}
	return nil
}

// put queues elements, and sends the queue once it is long.
func (l *nftLoad) put(i, kind int, elements ...nftables.SetElement) error {
	buf := &l.bufs[i][kind]
	*buf = append(*buf, elements...)
	if len(*buf) < nftMessage-1 {
		return nil
	}
	if err := l.send(i, kind); err != nil {
		return err
	}
	if l.conn.pending >= nftPending {
		return l.flush()
	}
	return nil
}

// intervals loads what was collected from the entries: prefixes, and everything with ports.
func (l *nftLoad) intervals(ctx context.Context) error {
	for prefix := range l.shape.ports.bans {
		i := familyOf(prefix)
		for _, p := range l.shape.ports.elements(l.now, prefix) {
			k := p.portKey
			if err := l.step(ctx); err != nil {
				return err
			}
			if prefix.IsSingleIP() {
				e := nftables.SetElement{Key: nftKey(prefix.Addr(), k), Timeout: nftTimeout(l.now, p.until)}
				if err := l.put(i, kindPort, e); err != nil {
					return err
				}
				continue
			}
			if l.shape.portNets[i][k] == nil {
				l.shape.portNets[i][k] = newIntervals()
			}
			l.shape.portNets[i][k].load(prefix, p.until)
		}
	}
	for i := range l.bufs {
		if err := l.segments(ctx, i, kindNet, l.shape.nets[i], portKey{}); err != nil {
			return err
		}
		for k, c := range l.shape.portNets[i] {
			if err := l.segments(ctx, i, kindPortNet, c, k); err != nil {
				return err
			}
		}
		for kind := range nftKinds {
			if err := l.send(i, kind); err != nil {
				return err
			}
		}
	}
	return nil
}

// segments queues intervals, a segment at a time so that its start and end stay in one message.
func (l *nftLoad) segments(ctx context.Context, i, kind int, iv *intervals, k portKey) error {
	for _, s := range iv.all(l.now) {
		if err := cmp.Or(l.step(ctx), l.put(i, kind, nftIntervals(l.now, []segment{s}, k)...)); err != nil {
			return err
		}
	}
	return nil
}
