package daemon

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh/frame"
)

const (
	// valuePause is the name in the store of a pause that an operator of this machine asked for.
	valuePause = "pause"
	// pauseMark starts the payload of a frame by which the authority pauses every node, or ends that; no payload of ops
	// starts this way. The end follows, in Unix milliseconds (0 = now), and the reason.
	pauseMark = "pause "
	// pauseCheck bounds the time until the end of a pause is computed anew: the clock may have been set.
	pauseCheck = time.Minute
	// whatPause and whatPauseAll are the audit log's words; offSuffix follows at the end of a pause.
	whatPause, whatPauseAll, offSuffix = "pause", "pause all", " off"
	// pauseAskEvery is how often the other nodes are asked whether they have paused, until askLimit is over.
	pauseAskEvery = 250 * time.Millisecond
)

// pause is a time in which this node drops nothing. The zero Until means that there is none.
type pause struct {
	Until  time.Time     `json:"until"`
	For    time.Duration `json:"for"` // it never lasts longer than this after a start, whatever the clock says then
	By     string        `json:"by"`
	Reason string        `json:"reason,omitempty"`
	number uint64        // of the authority's statement
}

// pauses are the two that may be in force; the later end counts.
type pauses struct {
	wake chan struct{} // holds one token: a pause has changed. Anyone sends, servePauses receives
	turn sync.Mutex    // held while the kernel is told

	mu   sync.Mutex // guards what follows
	own  pause      // an operator of this machine asked for it
	mesh pause      // the mesh's authority asked for it
}

func newPauses() *pauses { return &pauses{wake: make(chan struct{}, 1)} }

// at returns the pause in force at a time.
func (p *pauses) at(now time.Time) (in pause, all, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in = p.own; p.mesh.Until.After(in.Until) {
		in, all = p.mesh, true
	}
	return in, all, in.Until.After(now)
}

// loadPause continues the pause of an earlier run.
func (d *Daemon) loadPause(now time.Time) {
	saved := d.store.Value(valuePause)
	if saved == nil {
		return
	}
	var p pause
	if err := json.Unmarshal(saved, &p); err != nil {
		d.log.Warn("could not read the stored pause: it is over", "err", err)
		return
	}
	if most := now.Add(min(p.For, control.MaxPause)); p.Until.After(most) {
		p.Until = most
	}
	d.pauses.own = p
}

// setOwnPause sets this node's own pause, here and on disk.
func (d *Daemon) setOwnPause(p pause) {
	d.pauses.mu.Lock()
	d.pauses.own = p
	d.pauses.mu.Unlock()
	var value []byte
	if !p.Until.IsZero() {
		value, _ = json.Marshal(p) // texts and numbers always encode
	}
	d.store.Set(valuePause, value)
	wake(d.pauses.wake)
}

// applyPause has the kernel drop, or not drop, as it should now. It returns once the kernel does.
func (d *Daemon) applyPause(ctx context.Context) error {
	d.pauses.turn.Lock()
	defer d.pauses.turn.Unlock()
	_, _, on := d.pauses.at(time.Now())
	if d.fw.Status().Paused == on {
		return nil
	}
	if err := d.fw.Pause(ctx, on); err != nil {
		return err
	}
	d.others.forgetSelf()
	if text := d.pauseText(); text != "" {
		d.log.Warn(text)
	} else {
		d.log.Info("this node drops again what is banned")
	}
	return nil
}

// servePauses has the kernel follow the pauses until ctx ends.
func (d *Daemon) servePauses(ctx context.Context) error {
	for {
		d.endPauses(time.Now())
		err := d.applyPause(ctx)
		var again <-chan time.Time
		if in, _, on := d.pauses.at(time.Now()); err != nil {
			d.log.Error("the kernel does not take the pause, or its end; trying again", "err", err)
			again = time.After(time.Second)
		} else if on {
			again = time.After(min(time.Until(in.Until), pauseCheck))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.pauses.wake:
		case <-again:
		}
	}
}

// endPauses records the pauses that have ended by themselves.
func (d *Daemon) endPauses(now time.Time) {
	over := func(p pause) bool { return !p.Until.IsZero() && !p.Until.After(now) }
	d.pauses.mu.Lock()
	own, mesh := over(d.pauses.own), over(d.pauses.mesh)
	if mesh {
		d.pauses.mesh.Until = time.Time{}
	}
	d.pauses.mu.Unlock()
	if own {
		d.setOwnPause(pause{})
	}
	e := d.bySelf(now, control.ViaClock)
	if e.What = whatPause + offSuffix; own {
		d.audit.Add(e)
	}
	if e.What = whatPauseAll + offSuffix; mesh {
		d.audit.Add(e)
	}
}

// pauseText returns why this node drops nothing, or "" if it does.
func (d *Daemon) pauseText() string {
	in, all, on := d.pauses.at(time.Now())
	if !on {
		return ""
	}
	text := "nothing is dropped here until " + control.FormatTime(in.Until) + ": paused by " + in.By
	if all {
		text = "nothing is dropped on any node until " + control.FormatTime(in.Until) + ": paused by the mesh's authority"
	}
	if in.Reason != "" {
		text += fmt.Sprintf(", %q", in.Reason)
	}
	return text
}

// pauseRemedy returns how to end the pause in force.
func pauseRemedy(all bool) string {
	if all {
		return "`meshban pause off --all` ends it, on a node that has ca.key"
	}
	return "`meshban pause off` ends it"
}

// pauseStatus returns the pause for status, and the problem that goes with it.
func (d *Daemon) pauseStatus() (s *control.PauseStatus, what, remedy string) {
	in, all, on := d.pauses.at(time.Now())
	switch paused := d.fw.Status().Paused; {
	case on && paused:
		what, remedy = d.pauseText(), pauseRemedy(all)
	case on:
		what = "the kernel has not taken the pause yet"
	case paused:
		what, remedy = "the pause is over, but the kernel still lets everything through", "it is tried again; if that lasts, look at the log"
	}
	if on {
		s = &control.PauseStatus{Until: control.TimeOf(in.Until), By: in.By, Reason: in.Reason, All: all}
	}
	return s, what, remedy
}

// Pause implements control.Agent.
func (d *Daemon) Pause(ctx context.Context, req control.PauseRequest) (control.PauseReply, error) {
	now := time.Now()
	e := d.byCaller(ctx, now)
	e.What, e.Reason = whatPause, req.Reason
	by := cmp.Or(e.User, "an operator")
	rep := control.PauseReply{Bans: d.state.Counts().Active, All: req.All, DryRun: req.DryRun}
	if !req.Off {
		rep.Until, e.Until = control.TimeOf(now.Add(time.Duration(req.For))), now.Add(time.Duration(req.For)).UTC()
	}
	if req.All {
		return d.pauseAll(ctx, now, req, rep, e)
	}
	var own pause
	_, all, on := d.pauses.at(now)
	switch {
	case req.Off && !on:
		return rep, &control.Error{Code: control.CodeNotFound, Message: "this node is not paused"}
	case req.Off && all:
		return rep, &control.Error{Code: control.CodePolicy, Rule: "authority", Message: d.pauseText(), Hint: pauseRemedy(true)}
	case req.DryRun:
		return rep, nil
	case req.Off:
		e.What += offSuffix
	default:
		own = pause{Until: rep.Until.Time, For: time.Duration(req.For), By: by, Reason: req.Reason}
	}
	d.setOwnPause(own)
	d.audit.Add(e)
	return d.confirmPause(ctx, rep)
}

// confirmPause waits for the kernel and the disk.
func (d *Daemon) confirmPause(ctx context.Context, rep control.PauseReply) (control.PauseReply, error) {
	limited, cancel := context.WithTimeout(ctx, confirmLimit)
	defer cancel()
	if err := d.applyPause(limited); err != nil {
		return rep, &control.Error{
			Code: control.CodeFailed, Message: "the kernel has not taken it: " + err.Error(), Hint: "the agent goes on trying; `meshban status` shows what the firewall says",
		}
	}
	if in, _, on := d.pauses.at(time.Now()); on {
		rep.Until = control.TimeOf(in.Until) // the authority's may last longer
	}
	if rep.Note = d.keep(ctx, keepLimit); d.fw.Status().Backend == fw.NameNone {
		rep.Note = cmp.Or(rep.Note, "this node drops nothing anyway: it has no firewall backend, `meshban status` says why")
	}
	return rep, nil
}

func pausePayload(until time.Time, reason string) []byte {
	ms := int64(0)
	if !until.IsZero() {
		ms = until.UnixMilli()
	}
	return append(binary.BigEndian.AppendUint64([]byte(pauseMark), uint64(ms)), reason...)
}

// pausedBy returns what a payload says of a pause of every node.
func pausedBy(payload []byte) (until time.Time, reason string, ok bool) {
	rest, ok := bytes.CutPrefix(payload, []byte(pauseMark))
	if !ok || len(rest) < 8 {
		return time.Time{}, "", false
	}
	if ms := int64(binary.BigEndian.Uint64(rest)); ms != 0 {
		until = time.UnixMilli(ms)
	}
	return until, string(rest[8:]), true
}

// pauseAll pauses every node, or ends that, in the authority's name.
func (d *Daemon) pauseAll(ctx context.Context, now time.Time, req control.PauseRequest, rep control.PauseReply, e control.AuditEntry) (control.PauseReply, error) {
	_, ids := d.otherMembers()
	rep.Nodes = len(ids) + 1
	_, all, on := d.pauses.at(now)
	switch {
	case !d.mesh.HasAuthority():
		return rep, d.needAuthority("pause --all")
	case req.Off && !(on && all):
		return rep, &control.Error{Code: control.CodeNotFound, Message: "the mesh is not paused"}
	case req.DryRun:
		return rep, nil
	}
	// The end of a pause has to live as long as any statement that it ends.
	expires := now.Add(control.MaxPauseAll)
	if !req.Off {
		expires = rep.Until.Time
	}
	f, err := d.mesh.PublishAsAuthority(now, pausePayload(rep.Until.Time, req.Reason), expires)
	if err != nil {
		return rep, stopping(err)
	}
	d.hearPause(now, now, f)
	d.remember(now, f)
	if e.What = whatPauseAll; req.Off {
		e.What += offSuffix
	}
	d.audit.Add(e)
	if rep, err = d.confirmPause(ctx, rep); err != nil {
		return rep, err
	}
	rep.Waiting = d.notYet(ctx, !req.Off)
	return rep, nil
}

// notYet returns the names of the other living nodes that do not say that they are paused, or no longer paused.
func (d *Daemon) notYet(ctx context.Context, paused bool) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	for {
		names = nil
		heard := d.hearAll(ctx, 0)
		list, _ := d.otherMembers()
		for _, m := range list {
			if h, ok := heard[m.ID]; isLiving(m) && (!ok || h.err != nil || h.Paused != paused) {
				names = append(names, d.names.of(ban.Origin(m.ID)))
			}
		}
		if len(names) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return names
		case <-time.After(pauseAskEvery):
		}
	}
}

// hearPause handles a frame that pauses every node, or ends that. Only the authority's frame with the highest number
// counts, so nobody else can pause the mesh and a replay has no effect. A pause ends at its stated time, at most
// control.MaxPauseAll after it was signed and after it arrived.
func (d *Daemon) hearPause(now, arrived time.Time, f frame.Frame) (newer bool) {
	until, reason, _ := pausedBy(f.Payload)
	if f.Origin != d.mesh.AuthorityID() || until.Sub(f.Issued) > control.MaxPauseAll || len(reason) > control.MaxReason {
		d.ignore(now, f, errPause)
		return false
	}
	if most := arrived.Add(control.MaxPauseAll); until.After(most) {
		until = most
	}
	d.pauses.mu.Lock()
	newer = f.Seq > d.pauses.mesh.number
	if newer {
		d.pauses.mesh = pause{Until: until, By: "the authority", Reason: strings.ToValidUTF8(reason, ""), number: f.Seq}
	}
	d.pauses.mu.Unlock()
	if newer {
		wake(d.pauses.wake)
	}
	return newer
}

// hearPauseOfAuthority is hearPause for a frame from another node or from the store.
func (d *Daemon) hearPauseOfAuthority(now, arrived time.Time, f frame.Frame) {
	if !d.hearPause(now, arrived, f) || d.fw == nil { // a stored one is in the audit log already
		return
	}
	e := d.by(ban.Origin(f.Origin), now, control.ViaMesh)
	e.What, e.Frame = whatPauseAll, fmt.Sprintf("%d.%d", f.Epoch, f.Seq)
	until, reason, _ := pausedBy(f.Payload)
	if e.Until, e.Reason = until.UTC(), reason; until.IsZero() {
		e.What, e.Until = whatPauseAll+offSuffix, time.Time{}
	}
	d.audit.Add(e)
}

// errPause is why a pause of every node does not count.
var errPause = &ban.PolicyError{Rule: "pause", Detail: "the mesh's authority did not sign this pause of every node, or it is too long"}
