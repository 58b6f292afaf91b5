package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon/enforce"
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

// publishFull publishes as many whole frames as ops fill and returns the rest.
func (d *Daemon) publishFull(now time.Time, ops []ban.Op) (rest []ban.Op, err error) {
	parts := ban.SplitOps(ops, maxFramePayload)
	for i := range len(parts) - 1 {
		if err := d.publishFrame(now, parts[i]); err != nil {
			return nil, err
		}
	}
	return parts[len(parts)-1], nil
}

// publishFrame publishes ops that fit into one frame: signed and sent first, because the kernel may be slow.
func (d *Daemon) publishFrame(now time.Time, ops []ban.Op) error {
	payload, err := ban.AppendOps(nil, ops)
	if err != nil {
		return fmt.Errorf("encode %d ops: %w", len(ops), err)
	}
	f, err := d.mesh.Sign(now, payload, ban.Expires(ops))
	if err != nil {
		return fmt.Errorf("publish %d ops: %w", len(ops), err)
	}
	d.mesh.Send(f)
	d.remember(now, f)
	records := recordsOf(now, f, ops)
	d.state.Change(now, func(t *ban.Table) []ban.Change {
		d.foreseeLocked(now, t, ops)
		return t.Merge(now, records)
	})
	return nil
}

// merge merges records that were judged, a chunk at a time.
func (d *Daemon) merge(now time.Time, records []ban.Record) {
	for some := range slices.Chunk(records, lockChunk) {
		d.state.Change(now, func(t *ban.Table) []ban.Change { return t.Merge(now, some) })
	}
}

// arrival is a peer's frame and its records; judging drops those that are refused.
type arrival struct {
	frame   frame.Frame
	records []ban.Record
}

// deliver takes verified frames from peers, in order of arrival, on the mesh's own goroutine. Each frame is merged
// before the next is judged, so that a repeated op does not count against its origin.
func (d *Daemon) deliver(frames []frame.Frame) {
	now := time.Now()
	var own []ban.Record // this node's own records that it had lost
	for len(frames) > 0 {
		var some []*arrival
		for n := 0; n < lockChunk && len(frames) > 0; frames = frames[1:] {
			if records := d.decode(now, now, frames[0]); len(records) > 0 {
				some = append(some, &arrival{frames[0], records})
				n += len(records)
			}
		}
		d.admit(now, some, d.admitLocked)
		for _, a := range some {
			d.recordRemote(now, a.records)
			// A frame in this node's name with this epoch or a later one comes from a copy of this node. It is not
			// amended, because the copy would amend the amendment.
			if ban.Origin(a.frame.Origin) == d.self && a.frame.Epoch < d.mesh.Epoch() {
				own = append(own, a.records...)
			}
		}
	}
	d.amend(now, own)
}

// judge returns why a record of another node is refused, or nil. It is called with the lock held.
type judge func(now time.Time, t *ban.Table, r *ban.Record) error

// admit merges the records of each frame that judge accepts. Refused ops are counted and logged; the frame travels on
// regardless, because every node judges for itself.
func (d *Daemon) admit(now time.Time, some []*arrival, judge judge) {
	steps := make([]func(*ban.Table) []ban.Change, 0, len(some))
	for _, a := range some {
		steps = append(steps, func(t *ban.Table) []ban.Change {
			kept := a.records[:0]
			for i := range a.records {
				r := &a.records[i]
				var err error
				if r.Origin == d.self {
					err = d.tooLongLocked(r)
				} else {
					err = judge(now, t, r)
				}
				d.past.judged(r, err)
				if err != nil {
					d.metrics.refuse(err)
					d.log.Debug("refused an op", "origin", d.names.of(r.Origin), "prefix", r.Prefix, "err", err)
					continue
				}
				kept = append(kept, *r)
			}
			a.records = kept
			return t.Merge(now, kept)
		})
	}
	d.state.Change(now, steps...)
}

// amend publishes the ops that this node's own records need after they were lost and have come back: see
// ban.Table.Amend.
func (d *Daemon) amend(now time.Time, own []ban.Record) {
	var ops []ban.Op
	for some := range slices.Chunk(own, lockChunk) {
		d.state.View(func(t *ban.Table) {
			for _, r := range some {
				for _, op := range t.Amend(r) {
					if t.CheckLocal(now, op) == nil {
						ops = append(ops, op)
					}
				}
			}
		})
	}
	if len(ops) == 0 {
		return
	}
	if err := d.publish(now, ops); err != nil {
		d.log.Warn("could not say again what takes back a ban of this node that had been lost", "err", err)
	}
}

// decode returns the records of a frame. It handles frames that hold no ops itself.
func (d *Daemon) decode(now, arrived time.Time, f frame.Frame) []ban.Record {
	if id, ok := forgottenBy(f.Payload); ok {
		d.hearForget(f, id)
		return nil
	}
	if _, _, ok := pausedBy(f.Payload); ok {
		d.hearPauseOfAuthority(now, arrived, f)
		return nil
	}
	ops, err := ban.DecodeOps(f.Payload)
	if err != nil {
		d.ignore(now, f, err)
		return nil
	}
	return recordsOf(arrived, f, ops)
}

// ignore counts a frame that this node makes nothing of, and logs one such frame per alarmEvery.
func (d *Daemon) ignore(now time.Time, f frame.Frame, err error) {
	d.metrics.refuse(err)
	loud := false
	d.state.View(func(*ban.Table) {
		if loud = now.Sub(d.alarm.ignored) >= alarmEvery; loud {
			d.alarm.ignored = now
		}
	})
	if loud {
		d.log.Warn("ignored frames of a node", "origin", d.names.of(ban.Origin(f.Origin)), "err", err)
	}
}

// recordsOf returns a frame's ops with their origin, version and time of arrival.
func recordsOf(arrived time.Time, f frame.Frame, ops []ban.Op) []ban.Record {
	records := make([]ban.Record, 0, len(ops))
	for i := range ops {
		records = append(records, ban.Record{
			Op:      ops[i],
			Origin:  ban.Origin(f.Origin),
			Version: ban.Version{Epoch: f.Epoch, Seq: f.Seq, Index: uint16(i)},
			Issued:  f.Issued,
			Arrived: arrived,
		})
	}
	return records
}

// changedLocked remembers bans that have ended, and that lists may have changed.
func (d *Daemon) changedLocked(now time.Time, c ban.Change) {
	d.listChanged()
	d.past.changed(now, c)
	if c.Lift && !c.Local {
		d.echoes.lifted(now, c)
	}
}

// announce reports changes to metrics, the line file, fail2ban, watchers and hooks. It only queues.
func (d *Daemon) announce(changes []ban.Change, began, at time.Time, err error) {
	d.api.changed(changes)
	d.paces.add(at, changes)
	watched, none := d.hub.busy(), d.fw.Status().Backend == fw.NameNone
	for _, c := range changes {
		why := d.notEnforced(c, err)
		d.metrics.changed(c, began, at, why == "")
		drill := isDrill(c)
		if drill && why == "" && c.Enforce {
			d.drills.kernelTook(c, at)
		}
		if c.Event == ban.EventBan && why == "" && c.Enforce && !c.Issued.IsZero() {
			d.paces.took(c, at)
		}
		if c.Event == ban.EventBan && !c.Local && (why == "" || none) { // a line means "dropped here"; with no backend, nothing is
			d.emit.add(c)
		}
		if c.Event == ban.EventUnban && c.Lift {
			d.fail2ban.Lift(c.Prefix)
		}
		if watched {
			d.hub.send(d.event(c, at, why))
		}
		if kind, whose := hookEvent(c); kind != "" && !drill && d.hooks.Wants(kind, whose) {
			d.hooks.Tell(kind, whose, d.event(c, at, why))
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
	if ok, why = d.fw.Holds(enforce.Entry(ban.Rule{Prefix: prefix, Ports: ports})); why == fw.WhyPaused {
		why = cmp.Or(d.pauseText(), why)
	}
	return ok, why
}

// notTaken returns why the kernel does not hold an effective ban, which may be that the ban is still queued, or "" if
// the kernel holds it.
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
		Time: at.UTC().Truncate(time.Millisecond), Name: c.Event.String(), Prefix: control.PrefixOf(c.Prefix), Ports: c.Ports.String(), Until: control.TimeOf(c.Until),
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

// stopping turns an error that means that the agent is stopping into a control error.
func stopping(err error) error {
	if errors.Is(err, mesh.ErrStopped) {
		return &control.Error{Code: control.CodeFailed, Message: "the agent is stopping"}
	}
	return err
}

// admitted stores every newly held frame. This node's frames of this run are already queued for the disk, ahead of
// the line file's position; queuing them again is harmless. Its frames of earlier runs come back from peers after the
// store has lost them.
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

// wake puts a token into c unless one is already there.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
