package fw

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// nft drops by means of nf_tables sets in a table of its own. Every change is one kernel transaction. A full load fills
// the sets of the other generation, and one transaction then switches the rules to those.
type nft struct {
	conn       *nftConn
	opts       Options
	generation string // of the sets in use
	refreshes  bool   // the kernel resets the timeout of an element that is added again: Linux 6.12
	counts     bool   // the kernel says how many elements a set holds: Linux 6.16
	broken     bool   // a load failed; the table may hold something we cannot change
	cleaned    bool   // whatever another backend left has been removed
	shape      nftShape
	placed     bool       // the sets of exceptions hold exactly those below
	exceptions Exceptions // the last that were set
	loaded     bool       // a load has put sentinels into all sets
	commits    uint32     // our own changes of nf_tables
	glanced    string     // the mark at which each set last had its sentinel
	sock       nfSocket   // for glances
	removed    removals
}

// nftShape holds the prefixes behind the interval sets, because the kernel cannot resolve overlaps by itself. Its
// arrays are [v4, v6].
type nftShape struct {
	ports    *portBans
	nets     [2]*intervals
	portNets [2]map[portKey]*intervals
}

func newNFTShape() nftShape {
	return nftShape{
		ports: newPortBans(), nets: [2]*intervals{newIntervals(), newIntervals()},
		portNets: [2]map[portKey]*intervals{{}, {}},
	}
}

func openNFT(ctx context.Context, opts Options) (Backend, string, error) {
	conn, err := dialNFT()
	if err != nil {
		return nil, "", err
	}
	b := &nft{conn: conn, opts: opts, refreshes: kernelAtLeast(6, 12), counts: kernelAtLeast(6, 16), shape: newNFTShape()}
	if err := b.setUp(); err != nil {
		_ = b.Close()
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) {
			err = fmt.Errorf("the kernel has no nf_tables (%w): %w", err, ErrUnsupported)
		}
		return nil, "", err
	}
	return b, "", ctx.Err()
}

// setUp makes sure that sets and rules exist, and leaves alone what is right.
func (b *nft) setUp() error {
	found, err := b.find()
	if err != nil {
		return err
	}
	if g, ok := found.generation(); ok {
		b.generation = g
	}
	if len(found.problems(b.generation, b.opts.Outbound)) == 0 {
		return nil
	}
	if err := b.queueSets(found, b.generation); err != nil {
		return err
	}
	b.queueTable(found, b.generation)
	return b.flush("set up the table")
}

func (b *nft) Name() string { return NameNFTables }
func (b *nft) Close() error { return errors.Join(b.conn.CloseLasting(), b.sock.close()) }

func (b *nft) Traits() Traits { return Traits{Quick: true, DuringLoad: true, CountsUpTo: maxNFTHits} }

// kernelAtLeast reports whether the running kernel is at least this release.
func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	var ma, mi int
	if unix.Uname(&u) != nil {
		return false
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &ma, &mi); err != nil {
		return false
	}
	return ma > major || ma == major && mi >= minor
}

// nftChange collects what a batch does to the sets of one family.
type nftChange struct {
	put, take [nftKinds][]nftables.SetElement
}

// Apply carries out a batch in one transaction.
func (b *nft) Apply(ctx context.Context, now time.Time, updates []Update) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	refused, err := b.change(b.conn, b.generation, &b.shape, now, updates)
	if err != nil {
		return errors.Join(err, b.reset())
	}
	if b.conn.pending > 0 {
		if err := b.flush("change the sets"); err != nil {
			return err
		}
	}
	b.shape.ports.settle()
	for _, u := range updates {
		if u.Remove {
			b.removed.add(now, max(1, elementsOf(u.Ports)))
		}
	}
	return refusedError(refused)
}

// change queues a batch for the sets of a generation with the given shape, and returns the entries without room.
func (b *nft) change(conn *nftConn, generation string, shape *nftShape, now time.Time, updates []Update) (refused []Refusal, err error) {
	var changes [2]nftChange
	var nets [2][]netUpdate
	portNets := [2]map[portKey][]netUpdate{{}, {}}
	refused = shape.ports.changes(now, updates, func(prefix netip.Prefix, p portElement) {
		i := familyOf(prefix)
		changes[i].port(portNets[i], now, prefix, p)
	})
	for _, u := range updates {
		if !droppable(u.Prefix) {
			if !u.Remove {
				refused = append(refused, Refusal{u.Entry, whyPrefix})
			}
			continue
		}
		prefix := u.Prefix.Masked()
		i := familyOf(prefix)
		until := u.Until
		if u.Remove || !until.After(now) {
			until = time.Time{}
		}
		switch {
		case len(u.Ports) > 0: // handled by portBans
		case prefix.IsSingleIP():
			changes[i].element(kindAddr, now, nftKey(prefix.Addr(), portKey{}), until)
		default:
			nets[i] = append(nets[i], netUpdate{prefix, until})
		}
	}
	for i := range changes {
		c := &changes[i]
		if len(nets[i]) > 0 {
			c.intervals(kindNet, now, shape.nets[i], nets[i], portKey{})
		}
		for k, updates := range portNets[i] {
			if shape.portNets[i][k] == nil {
				shape.portNets[i][k] = newIntervals()
			}
			c.intervals(kindPortNet, now, shape.portNets[i][k], updates, k)
			if len(shape.portNets[i][k].sorted) == 0 {
				delete(shape.portNets[i], k)
			}
		}
		if err := b.queue(conn, i == 1, generation, c); err != nil {
			return nil, err
		}
	}
	return refused, nil
}

// element adds a key until a time, or removes it if until is zero.
func (c *nftChange) element(kind int, now time.Time, key []byte, until time.Time) {
	if until.IsZero() {
		c.take[kind] = append(c.take[kind], nftables.SetElement{Key: key, Timeout: time.Minute})
	} else {
		c.put[kind] = append(c.put[kind], nftables.SetElement{Key: key, Timeout: nftTimeout(now, until)})
	}
}

// port adds a port of a prefix: for a single address to the set of exact elements, else to the intervals of that port.
func (c *nftChange) port(portNets map[portKey][]netUpdate, now time.Time, prefix netip.Prefix, p portElement) {
	if prefix.IsSingleIP() {
		c.element(kindPort, now, nftKey(prefix.Addr(), p.portKey), p.until)
	} else {
		portNets[p.portKey] = append(portNets[p.portKey], netUpdate{prefix, p.until})
	}
}

// intervals adds the segments that updates of prefixes remove and add.
func (c *nftChange) intervals(kind int, now time.Time, iv *intervals, updates []netUpdate, k portKey) {
	del, add := iv.apply(now, updates)
	// The kernel may have forgotten a segment; take adds it again first, and needs some timeout for that.
	for i := range del {
		del[i].until = now.Add(time.Minute)
	}
	c.take[kind] = append(c.take[kind], nftIntervals(now, del, k)...)
	c.put[kind] = append(c.put[kind], nftIntervals(now, add, k)...)
}

// queue queues a family's changes on a connection, removals first.
func (b *nft) queue(conn *nftConn, v6 bool, generation string, c *nftChange) error {
	for kind := range nftKinds {
		s := nftSet(v6, kind, generation)
		if err := conn.take(s, c.take[kind]); err != nil {
			return err
		}
		if !s.Interval && !b.refreshes {
			// Remove it first, or the old timeout would stay.
			if err := conn.take(s, c.put[kind]); err != nil {
				return err
			}
		}
		if err := conn.put(s, c.put[kind]); err != nil {
			return err
		}
	}
	return nil
}

// SetExceptions changes the sets of exceptions in one transaction.
func (b *nft) SetExceptions(ctx context.Context, x Exceptions, from *Exceptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.placed = false
	err := b.setExceptions(x, from)
	if errors.Is(err, syscall.ENOENT) { // somebody removed the table, or an element
		if err = b.setUp(); err == nil {
			err = b.setExceptions(x, nil)
		}
	}
	return err
}

func (b *nft) setExceptions(x Exceptions, from *Exceptions) error {
	var old map[int]prefixes
	if from != nil {
		old = from.byKind()
	}
	for kind, list := range x.byKind() {
		del, add := old[kind].difference(list)
		gone, come := segmentsOf(del), segmentsOf(add)
		for i := range come {
			s := nftSet(i == 1, kind, "")
			if from == nil {
				b.conn.FlushSet(s)
			}
			for some := range slices.Chunk(gone[i], nftMessage/2) { // the start and end of a segment stay in one message
				if err := b.conn.del(s, nftIntervals(time.Time{}, some, portKey{})); err != nil {
					return errors.Join(err, b.reset())
				}
			}
			for some := range slices.Chunk(come[i], nftMessage/2) {
				if err := b.conn.put(s, nftIntervals(time.Time{}, some, portKey{})); err != nil {
					return errors.Join(err, b.reset())
				}
			}
		}
	}
	if err := b.flush("set the exceptions"); err != nil {
		return err
	}
	b.placed, b.exceptions = true, x
	return nil
}

// segmentsOf returns each prefix as a segment with no end time, [v4, v6].
func segmentsOf(list prefixes) (segments [2][]segment) {
	for _, p := range list {
		i := familyOf(p)
		segments[i] = append(segments[i], segment{first: p.Addr(), last: lastAddr(p)})
	}
	return segments
}

// Check reads the table, chains, rules and the heads of the sets.
func (b *nft) Check(context.Context) (problems []string, err error) {
	found, err := b.find()
	if err != nil {
		return nil, err
	}
	return found.problems(b.generation, b.opts.Outbound), nil
}

// Dropped reads by a connection of its own, because the other one is used meanwhile.
func (b *nft) Dropped(context.Context) (v4, v6 Dropped, err error) {
	conn, err := dialNFT()
	if err != nil {
		return v4, v6, err
	}
	defer conn.CloseLasting()
	objects, err := conn.GetNamedObjects(nftOurTable())
	if err != nil {
		return v4, v6, nftError("read counters", err)
	}
	for _, o := range objects {
		named, _ := o.(*nftables.NamedObj)
		if named == nil {
			continue
		}
		switch c, _ := named.Obj.(*expr.Counter); {
		case c == nil:
		case named.Name == nftCounter(false).Name:
			v4 = Dropped{c.Packets, c.Bytes}
		case named.Name == nftCounter(true).Name:
			v6 = Dropped{c.Packets, c.Bytes}
		}
	}
	return v4, v6, nil
}

// nftCounter returns the counter of what is dropped of a family. It is an object of its own, because rules, and the
// counters in them, are replaced at each load.
func nftCounter(v6 bool) *nftables.NamedObj {
	name := "dropped4"
	if v6 {
		name = "dropped6"
	}
	return &nftables.NamedObj{Table: nftOurTable(), Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}}
}

func (b *nft) deleteTable() (existed bool, err error) {
	b.conn.DelTable(nftOurTable())
	err = b.flush("delete the table")
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	return err == nil, err
}
