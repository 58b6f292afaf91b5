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
	"github.com/meshban/meshban/mesh/frame"
)

// maxFramePayload keeps one frame within one UDP packet.
const maxFramePayload = frame.MaxPayload

// publish signs ops, sends them to every member and applies them here. The ops must have passed the table's CheckLocal.
// If publish fails halfway, everything before the failure stands.
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

// publishFull publishes the ops that fill whole frames and returns the rest.
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
	f, err := d.mesh.Publish(now, payload, ban.Expires(ops), func(draft frame.Frame) {
		d.merge(now, appendRecords(records, now, draft, ops))
		flushed = ahead(d.fw.Flush)
	})
	if err != nil {
		return fmt.Errorf("publish %d ops: %w", len(ops), err)
	}
	d.remember(now, f)
	kick(d.expireKick)
	<-flushed
	giveWay()
	return nil
}

// deliver takes verified frames from peers, in order of arrival, on the mesh's own goroutine. Each frame is merged
// before the next is judged, so that an op that is said again does not count against its origin.
func (d *Daemon) deliver(frames []frame.Frame) {
	now := time.Now()
	records := d.arrived[:0]
	var ends []int       // where each frame's records end
	var own []ban.Record // this node's own records that it had lost
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
	for _, f := range frames {
		begin := len(records)
		records = d.decode(records, now, now, f, d.admitLocked)
		d.merge(now, records[begin:])
		// A frame of ours with this epoch or a later one comes from a copy of this node, which would amend whatever
		// this node amends.
		if ban.Origin(f.Origin) == d.self && f.Epoch < d.mesh.Epoch() {
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

// amend publishes what this node's own records that have come back make necessary.
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

// decode decodes a frame's ops and appends to dst those that judge admits. It calls judge with the lock held. Refused
// ops are counted and logged; the frame travels on regardless, because every node judges for itself.
func (d *Daemon) decode(
	dst []ban.Record, now, arrived time.Time, f frame.Frame, judge func(time.Time, *ban.Record) error,
) []ban.Record {
	if id, ok := forgottenBy(f.Payload); ok {
		d.hearForget(f, id)
		return dst
	}
	ops, err := ban.DecodeOps(f.Payload)
	if err != nil {
		d.metrics.refuse(err)
		d.mu.Lock()
		loud := now.Sub(d.alarm.unread) >= alarmEvery
		if loud {
			d.alarm.unread = now
		}
		d.mu.Unlock()
		if loud {
			d.log.Warn("frames hold no ops that this version understands", "origin", d.names.of(ban.Origin(f.Origin)), "err", err)
		}
		return dst
	}
	kept := len(dst)
	dst = appendRecords(dst, arrived, f, ops)
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

// appendRecords appends a frame's ops to dst with their origin, version and time of arrival.
func appendRecords(dst []ban.Record, arrived time.Time, f frame.Frame, ops []ban.Op) []ban.Record {
	for i := range ops {
		dst = append(dst, ban.Record{
			Op:      ops[i],
			Origin:  ban.Origin(f.Origin),
			Version: ban.Version{Epoch: f.Epoch, Seq: f.Seq, Index: uint16(i)},
			Issued:  f.Issued,
			Arrived: arrived,
		})
	}
	return dst
}

// apply merges many records, a chunk at a time.
func (d *Daemon) apply(now time.Time, records []ban.Record) {
	for some := range slices.Chunk(records, lockChunk) {
		d.merge(now, some)
		d.fw.Flush()
		giveWay()
	}
	kick(d.expireKick)
}

// merge is the only way into the table, for about a frame's worth of records. It queues kernel changes under the lock,
// so that they stay in the order in which the table changed; the queue never blocks. Call d.fw.Flush afterwards.
func (d *Daemon) merge(now time.Time, records []ban.Record) {
	d.mu.Lock()
	d.settleLocked(d.table.Merge(now, records))
	d.mu.Unlock()
}

// settleLocked queues changes of the table for the kernel, and announces them once the kernel has answered. Call
// d.fw.Flush after releasing the lock.
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

// kernelEntry converts a table rule to a firewall entry.
func kernelEntry(rule ban.Rule) fw.Entry {
	entry := fw.Entry{Prefix: rule.Prefix, Until: rule.Until, Own: rule.Own}
	for _, r := range rule.Ports.Ranges() {
		entry.Ports = append(entry.Ports, fw.PortRange{Proto: uint8(r.Proto), First: r.First, Last: r.Last})
	}
	return entry
}

// announce reports changes to metrics, the line file, fail2ban and watchers. It only queues.
func (d *Daemon) announce(changes []ban.Change, at time.Time, err error) {
	watched, none := d.hub.busy(), d.fw.Status().Backend == fw.NameNone
	for _, c := range changes {
		why := d.notEnforced(c, err)
		d.metrics.changed(c, at, why == "")
		if c.Event == ban.EventBan && !c.Local && (why == "" || none) { // a line means "dropped here"; with no backend, nothing is
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

// notEnforced returns why the kernel, having answered with err, does not enforce a change that should be enforced, or
// "" if it does.
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

// holds reports whether the kernel holds an effective ban. If not, why is the reason, or empty while the ban is still
// queued.
func (d *Daemon) holds(prefix netip.Prefix, ports ban.Ports) (ok bool, why string) {
	return d.fw.Holds(kernelEntry(ban.Rule{Prefix: prefix, Ports: ports}))
}

// notTaken returns why the kernel does not hold an effective ban, even if the ban is merely still queued, or "" if it
// does.
func (d *Daemon) notTaken(prefix netip.Prefix, ports ban.Ports) string {
	ok, why := d.holds(prefix, ports)
	if !ok && why == "" {
		why = "the kernel has not taken it yet"
	}
	return why
}

// event converts a change to a control event. why is the reason why the kernel has not taken the change.
func (d *Daemon) event(c ban.Change, at time.Time, why string) control.Event {
	e := control.Event{
		Time: at, Name: c.Event.String(), Prefix: c.Prefix, Ports: c.Ports.String(), Until: c.Until,
		Origin: d.names.of(c.Origin), OriginID: c.Origin.String(), Reason: c.Reason, Source: c.Source,
	}
	if why != "" {
		e.Name, e.NotEnforced = control.StateNotEnforced, why
	}
	if why == "" && c.Enforce && !c.Issued.IsZero() {
		// Two clocks are involved: a negative value only shows that they differ.
		ms := max(0, float64(at.Sub(c.Issued).Microseconds())/1000)
		e.LatencyMS = &ms
	}
	return e
}

// remember queues a frame for the disk, with its time of arrival.
func (d *Daemon) remember(arrived time.Time, f frame.Frame) {
	d.store.Put(store.KeyOf(f.Origin, f.Epoch, f.Seq), arrived, f.Raw)
}

// keepRecord writes a record of the authority to disk before its command is answered.
func (d *Daemon) keepRecord(ctx context.Context, raw []byte) error {
	f, err := frame.Decode(raw)
	if err != nil {
		return err
	}
	d.remember(time.Now(), f)
	d.keep(ctx, keepLimit)
	return nil
}

// stopping replaces an error that means that the agent is stopping with a control error.
func stopping(err error) error {
	if errors.Is(err, mesh.ErrStopped) {
		return &control.Error{Code: control.CodeFailed, Message: "the agent is stopping"}
	}
	return err
}

// admitted remembers every newly held frame. Frames of this run were already remembered when they were published,
// before the line file's position was; doing so again is harmless. Own frames of earlier runs come back from peers
// after the store has lost them.
func (d *Daemon) admitted(frames []frame.Frame) {
	now := time.Now()
	for _, f := range frames {
		d.remember(now, f)
	}
}

// forget drops ended frames from the store.
func (d *Daemon) forget(refs []frame.Ref) {
	for _, ref := range refs {
		d.store.Drop(store.KeyOf(ref.Origin, ref.Epoch, ref.Seq))
	}
}

// kick puts a token into c unless one is already there.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
