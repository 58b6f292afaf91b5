package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/mesh/frame"
)

// tooLongLocked refuses one of this node's own bans that lasts longer than the configuration now allows.
func (d *Daemon) tooLongLocked(r *ban.Record) error {
	longest := d.cfg.Bans.MaxFor
	if r.Kind != ban.KindBan || !r.Until.After(r.Issued.Add(longest+ban.DefaultLimits().FutureSkew)) {
		return nil
	}
	return &ban.PolicyError{Rule: ban.RuleLong, Detail: "it lasts longer than " + config.FormatDuration(longest)}
}

// rejudge applies a new configuration to what is already known: what it refuses no longer counts, and what the old one
// refused or held may count. The rate at which bans came in is not judged again.
func (d *Daemon) rejudge(ctx context.Context, old, next config.Config) error {
	if old.Escalation.Factor <= 1 && next.Escalation.Factor > 1 {
		d.state.CountInForce(next.Escalation.Memory)
	}
	if old.Bans.MaxFor != next.Bans.MaxFor || old.Bans.MinPrefix4 != next.Bans.MinPrefix4 || old.Bans.MinPrefix6 != next.Bans.MinPrefix6 ||
		old.Peers != next.Peers {
		if err := d.judgeAgain(); err != nil {
			return err
		}
	}
	if old.Peers == next.Peers && old.Breaker == next.Breaker {
		return nil
	}
	rate, all := looser(allowance(old.Peers.Allowance), allowance(next.Peers.Allowance)), looser(allowance(old.Breaker), allowance(next.Breaker))
	raised := map[ban.Hold]bool{
		ban.HoldRate: rate, ban.HoldLift: rate || all, ban.HoldBreaker: all, ban.HoldActive: next.Peers.Active > old.Peers.Active,
	}
	return d.releaseAgain(ctx, func(r *ban.Record) bool { return raised[r.Hold] })
}

func looser(a, b ban.Allowance) bool { return b.Rate > a.Rate || b.Burst > a.Burst || b.Bulk > a.Bulk }

// rejudgeRecapped does for nodes with a changed certificate what rejudge does after a reload.
func (d *Daemon) rejudgeRecapped(ctx context.Context) error {
	raised := make(map[ban.Origin]map[ban.Hold]bool)
	var ids []frame.ID
	d.state.View(func(*ban.Table) {
		for o, old := range d.recapped {
			if _, certified := d.granted[o]; !certified {
				continue // kept until it is certified again
			}
			delete(d.recapped, o)
			ids = append(ids, frame.ID(o))
			next := d.capsLocked(o)
			rate := looser(old.Allowance, next.Allowance) || next.Import && !old.Import
			raised[o] = map[ban.Hold]bool{ban.HoldRate: rate, ban.HoldLift: rate, ban.HoldActive: next.Active > old.Active}
		}
	})
	if len(ids) == 0 {
		return nil
	}
	if err := d.judgeAgain(ids...); err != nil {
		return err
	}
	return d.releaseAgain(ctx, func(r *ban.Record) bool { return raised[r.Origin][r.Hold] })
}

// judgeAgain judges the ops of some nodes, or of all, by their present caps.
func (d *Daemon) judgeAgain(of ...frame.ID) error {
	stored, err := d.syncedHolds()
	if err != nil {
		return err
	}
	inForce := make(map[ban.Origin]int)
	d.eachFrame(of, func(now time.Time, t *ban.Table, r ban.Record) []ban.Change {
		return d.refuseAgainLocked(now, t, r, inForce)
	})
	d.eachFrame(of, func(now time.Time, t *ban.Table, r ban.Record) []ban.Change {
		return d.admitAgainLocked(now, t, r, stored)
	})
	return nil
}

// eachFrame calls judge, with the lock held, with every record of the held frames of some nodes, or of all.
func (d *Daemon) eachFrame(of []frame.ID, judge func(time.Time, *ban.Table, ban.Record) []ban.Change) {
	for f := range d.mesh.Frames(of...) {
		if _, ok := forgottenBy(f.Payload); ok || f.Origin == d.mesh.AuthorityID() {
			continue
		}
		ops, err := ban.DecodeOps(f.Payload)
		if err != nil {
			continue
		}
		now := time.Now()
		d.state.Change(now, func(t *ban.Table) (changes []ban.Change) {
			for _, r := range recordsOf(now, f, ops) {
				changes = append(changes, judge(now, t, r)...)
			}
			return changes
		})
		d.state.View(func(*ban.Table) { clear(d.past.refusing) })
	}
}

// judgeAgainLocked judges a record by its origin's present caps. It may drop those of an unban's marks that are not
// on its origin's own bans.
func (d *Daemon) judgeAgainLocked(now time.Time, t *ban.Table, r *ban.Record) error {
	if r.Origin == d.self {
		return d.tooLongLocked(r)
	}
	return d.state.Gate.Check(now, t, r)
}

// refuseAgainLocked takes back a record that the configuration refuses. inForce counts each origin's bans: those beyond
// what it may now have in force wait for the operator.
func (d *Daemon) refuseAgainLocked(now time.Time, t *ban.Table, r ban.Record, inForce map[ban.Origin]int) []ban.Change {
	judged := r
	err := d.judgeAgainLocked(now, t, &judged)
	var policy *ban.PolicyError
	switch {
	case errors.As(err, &policy) && (policy.Rule == ban.RuleFuture || policy.Rule == ban.RuleExpired):
		return nil
	case err != nil, len(judged.Marks) < len(r.Marks) && t.Has(&r):
		d.past.judged(&r, err)
		return d.takeBackLocked(now, t, r)
	case r.Kind != ban.KindBan || r.Origin == d.self || !t.InForce(&r):
		return nil
	}
	if inForce[r.Origin]++; inForce[r.Origin] <= d.capsLocked(r.Origin).Active || t.HeldFull(&r) {
		return nil
	}
	changes := d.takeBackLocked(now, t, r)
	r.Hold = ban.HoldActive
	d.store.Hold(holdOf(&r), r.Version.Index, uint8(r.Hold))
	d.alarm.origin, d.alarm.by = r.Origin, r.Hold
	return append(changes, t.Merge(now, []ban.Record{r})...)
}

// takeBackLocked has the table forget a record, and keeps why from reporting it as an ended ban.
func (d *Daemon) takeBackLocked(now time.Time, t *ban.Table, r ban.Record) []ban.Change {
	d.past.refusing[banKey{r.Prefix, r.Ports}] = true
	return t.Refuse(now, []ban.Record{r})
}

// admitAgainLocked admits a record that was refused but no longer is, as if it arrived now. If something was decided
// about it, that decision stands.
func (d *Daemon) admitAgainLocked(now time.Time, t *ban.Table, r ban.Record, stored storedHolds) []ban.Change {
	judged := r
	if d.judgeAgainLocked(now, t, &judged) != nil || t.Has(&judged) {
		return nil
	}
	if r.Origin != d.self {
		judge := d.admitLocked
		if stored.knows(&r) {
			judge = stored.judgeLocked
		}
		err := judge(now, t, &r)
		d.past.judged(&r, err)
		if err != nil {
			return nil
		}
	}
	return t.Merge(now, []ban.Record{r})
}

// knows reports whether something was decided about a record, or ops of its frame were refused for lack of room.
func (s storedHolds) knows(r *ban.Record) bool {
	key := holdOf(r)
	_, held := s.holds[storedOp{key, r.Version.Index}]
	_, refused := s.refused[key]
	return held || refused
}

// releaseAgain releases what was held by a cap that has been raised, as far as the new caps allow.
func (d *Daemon) releaseAgain(ctx context.Context, raised func(*ban.Record) bool) error {
	return d.eachHeld(ctx, func(records []ban.Record) error {
		now := time.Now()
		d.state.Change(now, func(t *ban.Table) (changes []ban.Change) {
			for _, r := range records {
				if !raised(&r) || !d.fitsNowLocked(now, t, r) {
					continue
				}
				r.Hold = ban.HoldNone
				d.store.Hold(holdOf(&r), r.Version.Index, uint8(r.Hold))
				changes = append(changes, t.Merge(now, []ban.Record{r})...)
			}
			return changes
		})
		wake(d.noticeWake)
		return nil
	})
}

// fitsNowLocked reports whether a waiting record is now within the caps, and if so charges it.
func (d *Daemon) fitsNowLocked(now time.Time, t *ban.Table, r ban.Record) bool {
	o := r.Origin
	if r.Hold == ban.HoldActive { // its origin's records include it
		return t.RecordsOf(o)-(t.WaitingOf(o)-t.LiftsWaitingOf(o)) < d.capsLocked(o).Active
	}
	return d.state.Gate.Admit(now, t, &r) == nil && r.Hold == ban.HoldNone
}
