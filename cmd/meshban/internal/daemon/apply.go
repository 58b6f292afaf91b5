package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh"
)

// maxFramePayload keeps one frame within one UDP packet.
const maxFramePayload = mesh.MaxPayload

// publish makes ops true everywhere: signed, on their way to every member, and applied here. The ops must have passed
// the table's CheckLocal. When it fails half way, what came before the failure stands.
func (d *Daemon) publish(now time.Time, ops []ban.Op) error {
	parts := ban.SplitOps(ops, maxFramePayload)
	for i, part := range parts {
		if i == len(parts)-1 && d.mesh.Peers() > 0 {
			gather(d.smallRate)
		}
		if err := d.publishFrame(now, part); err != nil {
			return err
		}
	}
	return nil
}

// publishFull publishes those of ops that fill frames and returns the rest.
func (d *Daemon) publishFull(now time.Time, ops []ban.Op) (rest []ban.Op, err error) {
	parts := ban.SplitOps(ops, maxFramePayload)
	for i := range len(parts) - 1 {
		if err := d.publishFrame(now, parts[i]); err != nil {
			return nil, err
		}
	}
	return append(ops[:0], parts[len(parts)-1]...), nil
}

// publishFrame publishes ops that fit into one frame.
func (d *Daemon) publishFrame(now time.Time, ops []ban.Op) error {
	payload, err := ban.AppendOps(nil, ops)
	if err != nil {
		return fmt.Errorf("encode %d ops: %w", len(ops), err)
	}
	d.foresee(now, ops)
	records := make([]ban.Record, 0, len(ops))
	var flushed <-chan struct{}
	frame, err := d.mesh.Publish(now, payload, ban.Expires(ops), func(draft mesh.Frame) {
		d.merge(now, appendRecords(records, now, draft, ops))
		flushed = ahead(d.fw.Flush)
	})
	if err != nil {
		return fmt.Errorf("publish %d ops: %w", len(ops), err)
	}
	d.remember(now, frame)
	kick(d.expireKick)
	<-flushed
	giveWay()
	return nil
}

// deliver takes verified frames of peers. It is called from the mesh's own goroutine, in order of arrival. Each is merged
// before the next is judged, which may say again what it says: that counts nothing against its origin.
func (d *Daemon) deliver(frames []mesh.Frame) {
	now := time.Now()
	records := d.arrived[:0]
	var ends []int       // of each frame's records
	var own []ban.Record // that this node had lost
	settle := func() {
		if len(records) > 0 {
			d.fw.Flush()
			giveWay()
		}
		begin := 0
		for _, end := range ends {
			d.recordRemote(now, records[begin:end])
			begin = end
		}
		records, ends = records[:0], ends[:0]
	}
	for _, frame := range frames {
		begin := len(records)
		records = d.decode(records, now, now, frame, d.admitLocked)
		d.merge(now, records[begin:])
		// What has our epoch or a later one is a copy's, which would amend what this node amends.
		if ban.Origin(frame.Origin) == d.self && frame.Epoch < d.mesh.Epoch() {
			own = append(own, records[begin:]...)
		}
		ends = append(ends, len(records))
		if len(records) >= lockChunk {
			settle()
		}
	}
	settle()
	kick(d.expireKick)
	d.arrived = records
	d.amend(now, own)
}

// amend publishes what the own records that have come back make necessary.
func (d *Daemon) amend(now time.Time, own []ban.Record) {
	var ops []ban.Op
	for some := range slices.Chunk(own, lockChunk) {
		d.mu.Lock()
		for _, r := range some {
			for _, op := range d.table.Amend(r) {
				if d.table.CheckLocal(now, op) == nil {
					ops = append(ops, op)
				}
			}
		}
		d.mu.Unlock()
	}
	if len(ops) == 0 {
		return
	}
	if err := d.publish(now, ops); err != nil {
		d.log.Warn("could not say again what takes back a ban of this node that had been lost", "err", err)
	}
}

// decode opens a frame and appends to dst what judge, which is called with the lock held, lets in. Refused ops are counted
// and named: the frame travels on all the same, because every node judges for itself.
func (d *Daemon) decode(
	dst []ban.Record, now, arrived time.Time, frame mesh.Frame, judge func(time.Time, *ban.Record) error,
) []ban.Record {
	if id, ok := forgottenBy(frame.Payload); ok {
		d.hearForget(frame, id)
		return dst
	}
	ops, err := ban.DecodeOps(frame.Payload)
	if err != nil {
		d.metrics.refuse(err)
		d.mu.Lock()
		loud := now.Sub(d.alarm.unread) >= alarmEvery
		if loud {
			d.alarm.unread = now
		}
		d.mu.Unlock()
		if loud {
			d.log.Warn("frames hold no ops that this version understands", "origin", d.names.of(ban.Origin(frame.Origin)), "err", err)
		}
		return dst
	}
	kept := len(dst)
	dst = appendRecords(dst, arrived, frame, ops)
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := kept; i < len(dst); i++ {
		r := &dst[i]
		check := judge
		if r.Origin == d.self {
			check = func(_ time.Time, r *ban.Record) error { return d.tooLongLocked(r) }
		}
		err := check(now, r)
		d.past.judged(r, err)
		if err != nil {
			d.metrics.refuse(err)
			d.log.Debug("refused an op", "origin", d.names.of(r.Origin), "prefix", r.Prefix, "err", err)
			continue
		}
		if i != kept {
			dst[kept] = *r
		}
		kept++
	}
	return dst[:kept]
}

// appendRecords gives the ops of a frame their origin, version and time of arrival.
func appendRecords(dst []ban.Record, arrived time.Time, frame mesh.Frame, ops []ban.Op) []ban.Record {
	for i := range ops {
		dst = append(dst, ban.Record{
			Op:      ops[i],
			Origin:  ban.Origin(frame.Origin),
			Version: ban.Version{Epoch: frame.Epoch, Seq: frame.Seq, Index: uint16(i)},
			Issued:  frame.Issued,
			Arrived: arrived,
		})
	}
	return dst
}

// apply takes over many records, slice by slice.
func (d *Daemon) apply(now time.Time, records []ban.Record) {
	for some := range slices.Chunk(records, lockChunk) {
		d.merge(now, some)
		d.fw.Flush()
		giveWay()
	}
	kick(d.expireKick)
}

// merge is the one way into the table, for a frame's worth of records. It queues what changed for the kernel in the order
// in which the table changed, which is why that happens under the lock; the queue never blocks. d.fw.Flush must follow.
func (d *Daemon) merge(now time.Time, records []ban.Record) {
	d.mu.Lock()
	d.settleLocked(d.table.Merge(now, records))
	d.mu.Unlock()
}

// settleLocked hands changes of the table to the kernel, and to everybody else once the kernel has them. d.fw.Flush must
// follow when the lock is given back.
func (d *Daemon) settleLocked(changes []ban.Change) {
	if len(changes) == 0 {
		return
	}
	updates := make([]fw.Update, 0, len(changes))
	allow, count, memory := false, d.cfg.Escalation.Factor > 1, d.cfg.Escalation.Memory
	for _, c := range changes {
		if count {
			d.offences.changed(time.Now(), c, memory)
		}
		d.past.changed(time.Now(), c)
		allow = allow || c.Event == ban.EventAllow || c.Event == ban.EventUnallow
		if c.Enforce || c.Lift {
			rule := ban.Rule{Prefix: c.Prefix, Ports: c.Ports, Until: c.Until, Own: c.Local}
			if !c.Ports.IsAll() && !c.Local {
				_, rule.Own = d.table.OwnBan(c.Prefix, c.Ports)
			}
			updates = append(updates, fw.Update{Entry: kernelEntry(rule), Remove: c.Lift})
		}
		if c.Lift && !c.Local {
			d.echoes.lifted(time.Now(), c)
		}
	}
	if allow {
		d.fw.ExceptionsChanged()
	}
	if len(updates) == 0 {
		d.announce(changes, time.Now(), nil)
		return
	}
	batch := d.acks.begin(changes, d.gate.Trusts)
	done := func(at time.Time, err error) {
		d.acks.end(batch, changes)
		d.announce(changes, at, err)
	}
	if err := d.fw.Queue(updates, done); err != nil {
		done(time.Now(), err)
	}
}

// kernelEntry turns a table's entry into the firewall's.
func kernelEntry(rule ban.Rule) fw.Entry {
	entry := fw.Entry{Prefix: rule.Prefix, Until: rule.Until, Own: rule.Own}
	for _, r := range rule.Ports.Ranges() {
		entry.Ports = append(entry.Ports, fw.PortRange{Proto: uint8(r.Proto), First: r.First, Last: r.Last})
	}
	return entry
}

// announce tells everybody else what changed. It only queues.
func (d *Daemon) announce(changes []ban.Change, at time.Time, err error) {
	watched, none := d.hub.busy(), d.fw.Status().Backend == fw.NameNone
	for _, c := range changes {
		why := d.notEnforced(c, err)
		d.metrics.changed(c, at, why == "")
		if c.Event == ban.EventBan && !c.Local && (why == "" || none) { // a line is read as: it is dropped here, unless nothing is
			d.emit.add(c)
		}
		if c.Event == ban.EventUnban && c.Lift {
			d.fail2ban.Lift(c.Prefix)
		}
		if watched {
			d.hub.send(d.event(c, at, why))
		}
	}
}

// notEnforced says why the kernel has not taken a change that enforces something, once it has answered with err; "" = it has.
func (d *Daemon) notEnforced(c ban.Change, err error) string {
	if !c.Enforce {
		return ""
	}
	if partial := (*fw.PartialError)(nil); err != nil && !errors.As(err, &partial) {
		return err.Error()
	}
	_, why := d.holds(c.Prefix, c.Ports)
	return why
}

// holds reports whether the kernel holds a ban that counts. If it does not, why gives the reason, or is empty where the ban is
// still in the queue.
func (d *Daemon) holds(prefix netip.Prefix, ports ban.Ports) (ok bool, why string) {
	return d.fw.Holds(kernelEntry(ban.Rule{Prefix: prefix, Ports: ports}))
}

// notTaken says why the kernel does not hold a ban that counts, be it only that its turn has not come; "" if it does.
func (d *Daemon) notTaken(prefix netip.Prefix, ports ban.Ports) string {
	ok, why := d.holds(prefix, ports)
	if !ok && why == "" {
		why = "the kernel has not taken it yet"
	}
	return why
}

// event puts a change into the words of the control socket. Why is why the kernel has not taken it.
func (d *Daemon) event(c ban.Change, at time.Time, why string) control.Event {
	e := control.Event{
		Time: at, Name: c.Event.String(), Prefix: c.Prefix, Ports: c.Ports.String(), Until: c.Until,
		Origin: d.names.of(c.Origin), OriginID: c.Origin.String(), Reason: c.Reason, Source: c.Source,
	}
	if why != "" {
		e.Name, e.NotEnforced = control.StateNotEnforced, why
	}
	if why == "" && c.Enforce && !c.Issued.IsZero() {
		// Two clocks: a negative figure says only that they differ.
		ms := max(0, float64(at.Sub(c.Issued).Microseconds())/1000)
		e.LatencyMS = &ms
	}
	return e
}

// remember queues a frame for the disk, with when it arrived.
func (d *Daemon) remember(arrived time.Time, frame mesh.Frame) {
	d.store.Put(store.KeyOf(frame.Origin, frame.Epoch, frame.Seq), arrived, frame.Raw())
}

// keepRecord has a record of the authority's on disk before its command is answered.
func (d *Daemon) keepRecord(ctx context.Context, raw []byte) error {
	frame, err := mesh.DecodeFrame(raw)
	if err != nil {
		return err
	}
	d.remember(time.Now(), frame)
	d.keep(ctx, keepLimit)
	return nil
}

// stopping says it in the words of the control API when an error means that the agent stops.
func stopping(err error) error {
	if errors.Is(err, mesh.ErrStopped) {
		return &control.Error{Code: control.CodeFailed, Message: "the agent is stopping"}
	}
	return err
}

// admitted remembers every frame that is newly held. Frames of this run were remembered when they were published, before
// the line file's position; once more does no harm. Own frames of former runs come back from peers after the store has
// lost them.
func (d *Daemon) admitted(frames []mesh.Frame) {
	now := time.Now()
	for _, frame := range frames {
		d.remember(now, frame)
	}
}

// forget drops frames that have ended.
func (d *Daemon) forget(refs []mesh.FrameRef) {
	for _, ref := range refs {
		d.store.Drop(store.KeyOf(ref.Origin, ref.Epoch, ref.Seq))
	}
}

// kick puts a token into c unless one waits there already.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
