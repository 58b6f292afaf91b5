package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/audit"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
)

// alarmEvery is the shortest interval between two log lines about what is held here, or about what peers will hold.
const alarmEvery = time.Minute

// alarm records, for status and log, why bans wait for the operator.
type alarm struct {
	logged, warned time.Time
	told           time.Time  // when a peer's report was last logged
	ignored        time.Time  // when ignored frames were last logged
	origin         ban.Origin // of the last ban that was held
	by             ban.Hold
	full           uint64         // bans refused because too many wait
	beyond         uint64         // own ops that exceed the caps
	refused        store.FrameKey // the last frame marked on disk for the bans counted in full
}

// refusedFrom, added to an op's index in the store, marks that the frame's new bans were refused from that op on,
// because too many wait. Without the mark a restart would let them count.
const refusedFrom = 1 << 15

// foretold is stored as the hold of an op that was refused because its mark names a frame that this node has not
// signed yet.
const foretold = 255

// allowance converts a configured allowance to the table's.
func allowance(a config.Allowance) ban.Allowance {
	return ban.Allowance{Rate: a.Rate, Burst: a.Burst, Bulk: a.Imports}
}

// admitLocked judges a record that just arrived from a peer: it is refused, held, or takes effect.
func (d *Daemon) admitLocked(now time.Time, t *ban.Table, r *ban.Record) error {
	if d.state.Gate.Chatters(now, t, r) {
		d.slowLocked(now, r.Origin)
	}
	if err := d.state.Gate.Admit(now, t, r); err != nil || r.Hold == ban.HoldNone {
		d.noteFullLocked(r, err)
		if d.state.Gate.Foretells(r) {
			d.store.Hold(holdOf(r), r.Version.Index, foretold)
		}
		if err != nil {
			d.countFeedbackLocked(now, r, err)
		}
		return err
	}
	// Queued before the frame itself, so that no crash leaves the frame without its hold.
	d.store.Hold(holdOf(r), r.Version.Index, uint8(r.Hold))
	d.metrics.byHold[r.Hold].Inc()
	d.countFeedbackLocked(now, r, nil)
	d.alarm.origin, d.alarm.by = r.Origin, r.Hold
	if now.Sub(d.alarm.logged) >= alarmEvery {
		d.alarm.logged = now
		d.log.Warn("ops of peers are held and wait for you: meshban held list", "kind", r.Kind.String(), "origin", d.names.of(r.Origin), "by", r.Hold.String(), "prefix", r.Prefix)
	}
	return nil
}

func holdOf(r *ban.Record) store.FrameKey {
	return store.KeyOf(r.Origin, r.Version.Epoch, r.Version.Seq)
}

// noteFullLocked counts a ban that was refused because too many wait, and marks its frame in the store.
func (d *Daemon) noteFullLocked(r *ban.Record, err error) {
	var policy *ban.PolicyError
	if !errors.As(err, &policy) || policy.Rule != ban.RuleHeldFull {
		return
	}
	d.alarm.full++
	if key := holdOf(r); key != d.alarm.refused {
		d.alarm.refused = key
		d.store.Hold(key, refusedFrom|r.Version.Index, uint8(r.Hold))
	}
}

// heldProblemLocked returns the problem that status shows while bans wait, or "".
func (d *Daemon) heldProblemLocked(t *ban.Table) string {
	n := t.Waiting()
	if n == 0 {
		d.alarm.full = 0
		return ""
	}
	what := fmt.Sprintf("%d bans of peers wait for you", n)
	if lifts := t.LiftsWaiting(); lifts > 0 {
		what = fmt.Sprintf("%d ops of peers wait for you, %d of which lift bans", n, lifts)
	}
	text := fmt.Sprintf("%s, the last by %s (%s); `meshban held list` shows them, `meshban held release --from %s` lets them count, `meshban held drop --from %[4]s` sets them aside",
		what, d.names.of(d.alarm.origin), d.alarm.by, d.names.handle(d.alarm.origin))
	if d.alarm.full > 0 {
		text += fmt.Sprintf("; %d more were refused for lack of room; after the next restart they wait too", d.alarm.full)
	}
	return text
}

// foreseeLocked warns the operator if peers with the same configuration will hold or refuse ops that are about to be
// merged.
func (d *Daemon) foreseeLocked(now time.Time, t *ban.Table, ops []ban.Op) {
	for _, op := range ops {
		var policy *ban.PolicyError
		if !errors.As(d.state.Gate.Foresee(now, t, op), &policy) {
			continue
		}
		d.alarm.beyond++
		d.metrics.beyondCaps.WithLabelValues(policy.Rule).Inc()
		ops := fmt.Sprint(d.alarm.beyond, " ops of this node go")
		if d.alarm.beyond == 1 {
			ops = "1 op of this node goes"
		}
		d.problems.set("caps", fmt.Sprintf("%s beyond what peers take: %s", ops, policy.Detail),
			fmt.Sprintf("`meshban ca caps %s`, where ca.key is, shows and changes what others take from it", d.names.handle(d.self)))
		if now.Sub(d.alarm.warned) >= alarmEvery {
			d.alarm.warned = now
			d.log.Warn("peers will not enforce all that this node says", "rule", policy.Rule, "detail", policy.Detail, "prefix", op.Prefix)
		}
	}
}

// storedHolds holds the stored decisions about ops, by frame and index.
type storedHolds struct {
	d       *Daemon
	holds   map[storedOp]ban.Hold
	refused map[store.FrameKey]uint16 // the index from which new bans were refused
}

type storedOp struct {
	frame store.FrameKey
	op    uint16
}

func (d *Daemon) storedHolds() (storedHolds, error) {
	s := storedHolds{d, map[storedOp]ban.Hold{}, map[store.FrameKey]uint16{}}
	err := d.store.Holds(func(key store.FrameKey, op uint16, hold uint8) {
		if op < refusedFrom {
			s.holds[storedOp{key, op}] = ban.Hold(hold)
		} else if _, ok := s.refused[key]; !ok { // the lowest index comes first
			s.refused[key] = op - refusedFrom
		}
	})
	return s, err
}

// judgeLocked judges a record restored from the store: held ops stay held, decisions stand, and nothing counts as new.
func (s storedHolds) judgeLocked(now time.Time, t *ban.Table, r *ban.Record) error {
	if err := s.d.state.Gate.Check(now, t, r); err != nil {
		return err
	}
	key := holdOf(r)
	hold, known := s.holds[storedOp{key, r.Version.Index}]
	if hold == foretold {
		return &ban.PolicyError{Rule: ban.RuleFuture, Detail: "it was refused before: its mark on this node was above this node's last frame"}
	}
	if from, ok := s.refused[key]; ok && !known && r.Kind != ban.KindRevoke && r.Version.Index >= from {
		if t.HeldFull(r) {
			s.d.alarm.full++
			return &ban.PolicyError{Rule: ban.RuleHeldFull, Detail: "too much waits for the operator already"}
		}
		hold = ban.HoldBreaker
		s.d.store.Hold(key, r.Version.Index, uint8(hold))
	}
	r.Hold = hold
	if r.Hold.Waits() {
		s.d.countFeedbackLocked(now, r, nil)
		s.d.alarm.origin, s.d.alarm.by = r.Origin, r.Hold
	}
	return nil
}

// Held implements control.Agent.
func (d *Daemon) Held(ctx context.Context, yield func(control.HeldEntry) error) error {
	return d.eachHeld(ctx, func(records []ban.Record) error {
		for _, r := range records {
			err := yield(control.HeldEntry{
				Prefix: control.PrefixOf(r.Prefix), Ports: r.Ports.String(), Origin: d.names.of(r.Origin), ID: r.Origin.String(), Issued: control.PastOf(r.Issued),
				Until: control.TimeOf(r.Until), Reason: r.Reason, Source: r.Source, By: r.Hold.String(), Kind: r.Kind.String(),
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// eachHeld calls yield with the records that wait, a slice at a time, until ctx ends.
func (d *Daemon) eachHeld(ctx context.Context, yield func([]ban.Record) error) error {
	return d.state.Held(func(records []ban.Record) error { return errors.Join(ctx.Err(), yield(records)) })
}

// Decide implements control.Agent. It works in slices, at most two ahead of the kernel, so that a fresh ban gets in
// between.
func (d *Daemon) Decide(ctx context.Context, req control.DecideRequest) (control.DecideReply, error) {
	hold := ban.HoldNone
	if req.Action == control.ActionDrop {
		hold = ban.HoldDropped
	}
	var reply control.DecideReply
	var from ban.Origin
	if req.Origin != "" {
		id, err := d.findNode(req.Origin)
		if err != nil {
			return reply, err
		}
		from = ban.Origin(id)
	}
	chosen := choose(req.Prefixes)
	pace := d.state.Pace(nil)
	err := d.eachHeld(ctx, func(records []ban.Record) error {
		records = slices.DeleteFunc(records, func(r ban.Record) bool {
			return req.Origin != "" && r.Origin != from || !chosen(r.Prefix)
		})
		for i := range records {
			r := &records[i]
			r.Hold = hold
			d.store.Hold(holdOf(r), r.Version.Index, uint8(hold)) // a release too: it overrides refusedFrom
		}
		if len(records) > 0 {
			d.merge(time.Now(), records)
			reply.Decided += len(records)
			pace.Slice(ctx, len(records))
		}
		return nil
	})
	if err != nil {
		return reply, err
	}
	if reply.Decided == 0 {
		return reply, &control.Error{Code: control.CodeNotFound, Message: "nothing of that is held", Hint: "`meshban held list` shows what is"}
	}
	wake(d.noticeWake)
	d.keep(ctx, keepLimit)
	d.log.Info("decided about held bans", "action", req.Action, "bans", reply.Decided)
	e := d.byCaller(ctx, time.Now())
	e.What, e.Prefixes, e.Reason = req.Action, req.Prefixes[:min(len(req.Prefixes), audit.MaxListed)], fmt.Sprintf("%d held bans", reply.Decided)
	if req.Origin != "" {
		e.Reason += " of " + d.names.of(from)
	}
	d.audit.Add(e)
	return reply, nil
}

// choose returns a function that reports whether a prefix lies inside one of list; an empty list admits every prefix.
func choose(list []netip.Prefix) func(netip.Prefix) bool {
	exact := make(map[netip.Prefix]bool, len(list))
	var wide []netip.Prefix
	for _, p := range list {
		if exact[p] = true; !p.IsSingleIP() {
			wide = append(wide, p)
		}
	}
	return func(p netip.Prefix) bool {
		return len(list) == 0 || exact[p] || slices.ContainsFunc(wide, func(w netip.Prefix) bool {
			return w.Bits() <= p.Bits() && w.Contains(p.Addr())
		})
	}
}
