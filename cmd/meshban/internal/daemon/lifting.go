package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
)

const (
	// heldWait bounds how long a command waits to hear from peers about a lift that they will hold; heldLook is how
	// often it checks.
	heldWait, heldLook = 2 * time.Second, 50 * time.Millisecond
)

// lift collects the ops of one command that lift more than peers accept from this node.
type lift struct {
	d      *Daemon
	now    time.Time
	beyond map[netip.Prefix]error // by the prefix that the command named
	signed []ban.Op               // what the authority publishes instead
}

func (d *Daemon) newLift(now time.Time) *lift {
	return &lift{d: d, now: now, beyond: make(map[netip.Prefix]error)}
}

// signLocked checks the ops that lift prefix. If peers would hold or refuse them, and this node has the authority's
// key, the authority publishes what whole returns, to which the peers' width limits do not apply, and signLocked
// returns only the ops that take back this node's own bans.
func (l *lift) signLocked(t *ban.Table, prefix netip.Prefix, ops []ban.Op, whole func() ([]ban.Op, error)) ([]ban.Op, error) {
	if l.d.mesh.Peers() == 0 {
		return ops, nil
	}
	err := l.d.state.Gate.Beyond(l.now, t, ops)
	if err == nil {
		return ops, nil
	}
	if !l.d.mesh.HasAuthority() {
		l.beyond[prefix] = err
		return ops, nil
	}
	if ops, err = whole(); err != nil {
		return nil, err
	}
	var own []ban.Op
	for _, op := range ops {
		if op.Kind == ban.KindRevoke { // nobody else can take back what this node published
			own = append(own, op)
		} else {
			l.signed = append(l.signed, op)
		}
	}
	return own, nil
}

// wholeLocked returns the ops that lift or end everything inside op's prefix, as wide as this node itself allows.
func (l *lift) wholeLocked(t *ban.Table, op ban.Op) ([]ban.Op, error) {
	limits := ban.DefaultLimits()
	return l.d.gatherLocked(l.now, t, op, limits.MinBits4, limits.MinBits6, false)
}

// liftOpsLocked returns the ops that lift or end everything inside op's prefix, within the widths that peers take from
// this node, or ErrNotFound. many says that op is one of many.
func (d *Daemon) liftOpsLocked(now time.Time, t *ban.Table, op ban.Op, many bool) ([]ban.Op, error) {
	caps := d.capsLocked(d.self)
	ops, err := d.gatherLocked(now, t, op, caps.MinBits4, caps.MinBits6, many)
	if err == nil && len(ops) == 0 {
		err = ban.ErrNotFound
	}
	return ops, err
}

// gatherLocked returns the ops, none wider than min4 or min6, that lift or end everything inside op's prefix. It works
// in slices and releases the lock between them.
func (d *Daemon) gatherLocked(now time.Time, t *ban.Table, op ban.Op, min4, min6 int, many bool) ([]ban.Op, error) {
	lifting, err := t.Lift(op, min4, min6)
	if err != nil {
		return nil, err
	}
	lifting.OneOfMany = many
	ops, more := lifting.Next(now, lockChunk)
	for more {
		d.state.Pause()
		var some []ban.Op
		some, more = lifting.Next(now, lockChunk)
		ops = append(ops, some...)
	}
	return ops, nil
}

// publish publishes the ops to be signed by the authority in its name, and applies them here at once.
func (l *lift) publish(ctx context.Context) error {
	d := l.d
	if len(l.signed) == 0 {
		return nil
	}
	for _, part := range ban.SplitOps(l.signed, maxFramePayload) {
		payload, err := ban.AppendOps(nil, part)
		if err != nil {
			return fmt.Errorf("encode %d ops: %w", len(part), err)
		}
		frame, err := d.mesh.PublishAsAuthority(l.now, payload, ban.Expires(part))
		if errors.Is(err, mesh.ErrFull) {
			return &control.Error{Code: control.CodeFailed, Message: err.Error(), Hint: "lift in fewer, wider prefixes"}
		}
		if err != nil {
			return fmt.Errorf("publish %d ops as the authority: %w", len(part), err)
		}
		d.remember(l.now, frame)
		d.merge(l.now, recordsOf(l.now, frame, part))
	}
	d.recordOps(d.byCaller(ctx, l.now), l.signed)
	d.keep(ctx, keepLimit)
	return nil
}

// confirm does what Daemon.confirm does, once all that has ended is gone, and replaces each success that peers do not
// confirm with an error that names the peers.
func (l *lift) confirm(ctx context.Context, results []control.Result, look func(*ban.Table, *control.Result) *control.Error, did string) {
	l.d.state.Settle(l.now)
	l.d.confirm(ctx, results, look, did)
	if len(l.beyond) == 0 {
		return
	}
	said := l.d.saidOfLift(ctx, l.now)
	var who []string
	for i, what := range []string{liftHeld: "held by ", liftRefused: "refused by ", liftSilent: "not heard from "} {
		if len(said[i]) > 0 {
			who = append(who, what+strings.Join(said[i], ", "))
		}
	}
	for i := range results {
		r := &results[i]
		err, ok := l.beyond[r.Prefix.Prefix]
		if !ok || r.Err != nil || len(who) == 0 {
			continue
		}
		e := l.d.refusal(err)
		e.Message = fmt.Sprintf("%s is %s on this node, and elsewhere not all of it: %s; %s", r.Prefix.String(), did, strings.Join(who, "; "), e.Message)
		e.Hint = fmt.Sprintf("say it on the node that has ca.key, or let it count there: `meshban held release --from %s`", l.d.names.handle(l.d.self))
		r.Err = e
	}
}

// What a peer may report about a lift that exceeds what peers take. A peer that lets the lift count reports nothing,
// so a report about something else tells nothing about the lift.
const (
	liftHeld = iota
	liftRefused
	liftSilent
)

func (r report) ofLift(since time.Time, before uint64) int {
	switch {
	case r.at.Before(since):
		return liftSilent
	case r.lifts > 0:
		return liftHeld
	case r.refused() != before:
		return liftRefused
	}
	return liftSilent
}

// saidOfLift waits, at most heldWait, until every live peer has reported after since what it does with this node's
// lifts. It returns the peers' names, grouped by what they reported.
func (d *Daemon) saidOfLift(ctx context.Context, since time.Time) (said [liftSilent + 1][]string) {
	before := make(map[ban.Origin]uint64) // ops refused before since
	d.state.View(func(*ban.Table) {
		for peer, r := range d.reports {
			if r.at.Before(since) {
				before[peer] = r.refused()
			}
		}
	})
	tick := time.NewTicker(heldLook)
	defer tick.Stop()
	for end := time.Now().Add(heldWait); ; {
		said = [liftSilent + 1][]string{}
		members := d.mesh.Members()
		d.state.View(func(*ban.Table) {
			for _, m := range members {
				if m.Self || m.State != mesh.StateAlive {
					continue
				}
				peer := ban.Origin(m.ID)
				what := d.reports[peer].ofLift(since, before[peer])
				said[what] = append(said[what], d.names.of(peer))
			}
		})
		for _, names := range said {
			slices.Sort(names)
		}
		if len(said[liftSilent]) == 0 || !time.Now().Before(end) {
			return said
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return said
		}
	}
}
