package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon/enforce"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// allowFor is how long an allow entry without an end lasts: the mesh keeps nothing for ever, and no frame longer
	// than frame.MaxLife.
	allowFor = 365 * 24 * time.Hour
	// inviteFor is how long a token is valid by default.
	inviteFor = time.Hour
)

// Ban implements control.Agent.
func (d *Daemon) Ban(ctx context.Context, req control.BanRequest) (control.BanReply, error) {
	ports, err := ban.ParsePorts(req.Ports)
	if err != nil {
		return control.BanReply{}, &control.Error{Code: control.CodeUsage, Message: err.Error(), Hint: "write ports as 22/tcp,80,8000-8010"}
	}
	now := time.Now()
	length := cmp.Or(time.Duration(req.For), d.config().Bans.For)
	imported := ban.Imported(req.Source)
	if name, ok := strings.CutPrefix(req.Source, listPrefix); ok && !control.ValidListName(name) {
		return control.BanReply{}, &control.Error{Code: control.CodeUsage, Message: fmt.Sprintf("%q names no list", req.Source)}
	}
	notes := d.newNotes(now, imported, req.Before)
	former := make(map[netip.Prefix]ban.Record) // this node's earlier bans of them
	var rep control.BanReply
	ops := func(t *ban.Table, prefix netip.Prefix) ([]ban.Op, error) {
		op := ban.Op{Kind: ban.KindBan, Prefix: prefix, Ports: ports, Until: endOf(now, length), Reason: req.Reason, Source: req.Source}
		fresh := false
		if imported {
			var listed bool
			var err error
			if fresh, listed, err = d.importedLocked(t, &op); err != nil {
				return nil, err
			}
			rep.Listed += count(listed)
		} else if req.For == 0 {
			d.escalateLocked(now, &op, length)
		}
		if err := t.CheckLocal(now, op); err != nil {
			return nil, err
		}
		rep.Fresh += count(fresh)
		notes.lookLocked(t, prefix, fresh)
		if old, ok := t.OwnBan(prefix, ports); ok && !imported {
			former[prefix] = old
			if req.For == 0 && !prolong(&op, old) {
				return nil, nil
			}
		}
		return t.OwnOps(op), nil
	}
	if req.DryRun {
		rep.Results = d.rehearseBans(req.Addrs, ops)
	} else {
		if rep.Results, err = d.publishEach(ctx, now, req.Addrs, ops); err != nil {
			return control.BanReply{}, err
		}
		d.confirm(ctx, rep.Results, d.banEffect(now, ports, req.ErrorsOnly), "banned")
	}
	for i, r := range rep.Results {
		old, known := former[r.Prefix.Prefix]
		if r.Until.IsZero() && known {
			r.Until, rep.Results[i].Until = control.TimeOf(old.Until), control.TimeOf(old.Until)
		}
		if r.Err == nil {
			note, hint := notes.of(r.Prefix.Prefix, r.Until.Sub(now))
			if note == noteSpared && r.Note != "" {
				continue // which already says what is left out
			}
			addNote(&rep.Results[i], note)
			rep.Results[i].Hint = hint
			if known {
				addNote(&rep.Results[i], formerNote(req, old, r.Until.Time))
			}
		}
	}
	return rep, nil
}

// rehearseBans is rehearseEach for bans; it also notes what each would leave out.
func (d *Daemon) rehearseBans(prefixes []netip.Prefix, ops opsFor) []control.Result {
	results := d.rehearseEach(prefixes, ops)
	for i := range results {
		if r := &results[i]; r.Err == nil {
			addNote(r, leavesOut(d.fw.LeftOut(r.Prefix.Prefix)))
		}
	}
	return results
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// rehearseEach is publishEach without publishing.
func (d *Daemon) rehearseEach(prefixes []netip.Prefix, ops opsFor) []control.Result {
	results := make([]control.Result, 0, len(prefixes))
	for some := range slices.Chunk(prefixes, lockChunk) {
		results, _ = d.opsOfEach(results, some, ops)
		enforce.GiveWay()
	}
	return results
}

// opsFor returns what to publish about a prefix, or why it is refused. It is called with the lock held.
type opsFor func(t *ban.Table, prefix netip.Prefix) ([]ban.Op, error)

// opsOfEach asks ops about some prefixes and appends a result for each.
func (d *Daemon) opsOfEach(results []control.Result, some []netip.Prefix, ops opsFor) ([]control.Result, []ban.Op) {
	all := make([]ban.Op, 0, len(some))
	d.state.View(func(t *ban.Table) {
		for _, prefix := range some {
			result := control.Result{Prefix: control.PrefixOf(prefix)}
			these, err := ops(t, prefix)
			if err != nil {
				result.Err, these = d.refusal(err), nil
			}
			for _, op := range these {
				result.Until = control.TimeOf(op.Until)
			}
			results, all = append(results, result), append(all, these...)
		}
	})
	return results, all
}

// prolong gives op the old ban's source and its reason, if it has one, and reports whether op ends later: a ban is
// never shortened.
func prolong(op *ban.Op, old ban.Record) bool {
	op.Reason, op.Source = cmp.Or(old.Reason, op.Reason), old.Source
	return op.Until.After(old.Until)
}

// formerNote describes this node's former ban of an address that is now banned until until.
func formerNote(req control.BanRequest, old ban.Record, until time.Time) string {
	was := "until " + control.FormatTime(old.Until)
	if old.Reason != "" {
		was += fmt.Sprintf(", %q", old.Reason)
	}
	switch {
	case req.For != 0:
		return "was banned " + was
	case !until.After(old.Until):
		return "is banned already " + was + "; --for sets another end and reason"
	case old.Reason != "" && req.Reason != "" && req.Reason != old.Reason:
		return "was banned " + was + "; the reason stays, --for sets both"
	}
	return "was banned " + was
}

// Unban implements control.Agent.
func (d *Daemon) Unban(ctx context.Context, req control.UnbanRequest) (control.UnbanReply, error) {
	now, banners := time.Now(), make(map[netip.Prefix][]ban.Origin)
	noteOthers := d.askLifted(ctx, req.Prefixes) // they answer while this node waits for its disk and its kernel
	lift := d.newLift(now)
	results, err := d.publishEach(ctx, now, req.Prefixes, func(t *ban.Table, prefix netip.Prefix) ([]ban.Op, error) {
		op := ban.Op{Kind: ban.KindUnban, Prefix: prefix, Reason: req.Reason, Source: cmp.Or(req.Source, "cli")}
		ops, err := d.liftOpsLocked(now, t, op, len(req.Prefixes) > lockChunk)
		bannersOf(banners, ops)
		if errors.Is(err, ban.ErrNotFound) {
			return nil, d.notBannedLocked(t, prefix)
		}
		if err != nil {
			return nil, err
		}
		return lift.signLocked(t, prefix, ops, func() ([]ban.Op, error) {
			return lift.wholeLocked(t, op)
		})
	})
	if err == nil {
		err = lift.publish(ctx)
	}
	lift.confirm(ctx, results, d.unbanEffect, "lifted")
	for i, r := range results {
		results[i].Until = control.Time{} // what ends is the ban, not the unban
		if r.Err == nil {
			addNote(&results[i], d.othersNote("others lift only what this node itself has banned: it may not lift the bans of others", banners[r.Prefix.Prefix]))
		}
	}
	d.confirmFail2ban(ctx, results)
	noteOthers(results)
	return control.UnbanReply{Results: results}, err
}

// notBannedLocked returns an error that there is nothing to lift, and says what else may keep the prefix out.
func (d *Daemon) notBannedLocked(t *ban.Table, prefix netip.Prefix) error {
	e := &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("%s is not banned", show(prefix))}
	if verdict, ok := t.Lookup(prefix); ok {
		e.Message = fmt.Sprintf("%s has no ban of its own; it is covered by the ban of %s", show(prefix), verdict.Prefix)
		e.Hint = fmt.Sprintf("lift all of it with `meshban unban %s`, or except this one with `meshban allow %s`", verdict.Prefix, show(prefix))
	}
	return e
}

// Allow implements control.Agent.
func (d *Daemon) Allow(ctx context.Context, req control.AllowRequest) (control.AllowReply, error) {
	now := time.Now()
	length := cmp.Or(time.Duration(req.For), allowFor)
	lift := d.newLift(now)
	results, err := d.publishEach(ctx, now, req.Prefixes, func(t *ban.Table, prefix netip.Prefix) ([]ban.Op, error) {
		op := ban.Op{Kind: ban.KindAllow, Prefix: prefix, Until: endOf(now, length), Reason: req.Reason, Source: cmp.Or(req.Source, "cli")}
		if err := t.CheckLocal(now, op); err != nil {
			return nil, err
		}
		return lift.signLocked(t, prefix, t.OwnOps(op), func() ([]ban.Op, error) { return []ban.Op{op}, nil })
	})
	if err == nil {
		err = lift.publish(ctx)
	}
	lift.confirm(ctx, results, d.allowEffect, "allowed")
	for i := range results {
		if results[i].Err == nil {
			results[i].Until = control.TimeOf(endOf(now, length))
		}
	}
	for i, r := range results {
		if r.Err == nil {
			addNote(&results[i], d.othersNote("counts on this node only: it may not lift the bans of others", nil))
		}
	}
	return control.AllowReply{Results: results}, err
}

// Unallow implements control.Agent.
func (d *Daemon) Unallow(ctx context.Context, req control.UnallowRequest) (control.UnallowReply, error) {
	now := time.Now()
	lift := d.newLift(now)
	results, err := d.publishEach(ctx, now, req.Prefixes, func(t *ban.Table, prefix netip.Prefix) ([]ban.Op, error) {
		op := ban.Op{Kind: ban.KindUnallow, Prefix: prefix, Reason: req.Reason, Source: "cli"}
		ops, err := d.liftOpsLocked(now, t, op, len(req.Prefixes) > lockChunk)
		if err == nil {
			return lift.signLocked(t, prefix, ops, func() ([]ban.Op, error) { return lift.wholeLocked(t, op) })
		}
		if !errors.Is(err, ban.ErrNotFound) {
			return nil, err
		}
		for _, e := range t.Never() {
			if e.Prefix == prefix {
				return nil, &control.Error{
					Code: control.CodePolicy, Rule: "never-ban list",
					Message: fmt.Sprintf("%s is never banned here: %s", show(prefix), e.Why),
					Hint:    "what meshban.yaml allows is taken away there; what this machine needs cannot be taken away",
				}
			}
		}
		return nil, &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("%s is not on the mesh's allow list", show(prefix))}
	})
	if err == nil {
		err = lift.publish(ctx)
	}
	lift.confirm(ctx, results, func(*ban.Table, *control.Result) *control.Error { return nil }, "off the allow list")
	for i := range results {
		results[i].Until = control.Time{}
	}
	return control.UnallowReply{Results: results}, err
}

// publishEach asks ops for the ops of each prefix and publishes them, so that many addresses travel in few frames. It
// works in slices, so that a request for one address waits for at most one slice. A prefix that ops refuses does not
// hold up the others.
func (d *Daemon) publishEach(ctx context.Context, now time.Time, prefixes []netip.Prefix, ops opsFor) ([]control.Result, error) {
	results := make([]control.Result, 0, len(prefixes))
	few := len(prefixes) <= lockChunk
	var limit *rate.Limiter
	if d.mesh.Peers() > 0 {
		limit = d.bulkRate
	}
	pace := d.state.Pace(limit)
	var pending []ban.Op
	who := sync.OnceValue(func() control.AuditEntry { return d.byCaller(ctx, now) }) // reads files, so only after the first ban
	for some := range slices.Chunk(prefixes, lockChunk) {
		var these []ban.Op
		results, these = d.opsOfEach(results, some, ops)
		pending = append(pending, these...)
		if few {
			break // not a bulk: publish first, then wait
		}
		enforce.GiveWay()
		if len(pending) == 0 {
			continue
		}
		rest, err := d.publishFull(now, pending)
		if err != nil {
			return nil, err
		}
		d.recordOps(who(), pending[:len(pending)-len(rest)])
		pending = rest
		pace.Slice(ctx, paceCost(some))
	}
	last := pending
	if len(pending) > lockChunk { // a wide prefix is lifted by many ops
		parts := ban.SplitOps(pending, maxFramePayload)
		for _, part := range parts[:len(parts)-1] {
			if err := d.publishFrame(now, part); err != nil {
				return nil, err
			}
			pace.Slice(ctx, len(part))
		}
		last = parts[len(parts)-1]
	}
	if err := d.publish(now, last); err != nil {
		return nil, err
	}
	d.recordOps(who(), pending)
	d.noteUnsaved(ctx, results, few)
	if few && len(prefixes) > 1 {
		pace.Slice(ctx, paceCost(prefixes))
	}
	return results, nil
}

// noteUnsaved waits for the disk. If something is not on disk in time, it notes that in each result of a small
// request, or in the first result of a large one.
func (d *Daemon) noteUnsaved(ctx context.Context, results []control.Result, few bool) {
	limit := keepLimit
	if !few {
		limit = keepBulkLimit
	}
	why := d.keep(ctx, limit)
	if why == "" {
		return
	}
	for i := range results {
		if results[i].Err == nil {
			results[i].Note = why
			if !few {
				return
			}
		}
	}
}

// keepLimit bounds how long an answer waits for the disk: a command should take less than a second in all. keepBulkLimit
// bounds how long the answer to an import does. Kernel and peers do not wait.
const keepLimit, keepBulkLimit = store.Retry + 250*time.Millisecond, 30 * time.Second

// keep waits, at most limit, until what a command published is on disk, so that a kill loses nothing that was
// answered. It returns why it is not on disk, worded as a note, or "".
func (d *Daemon) keep(ctx context.Context, limit time.Duration) (why string) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := d.store.Sync(ctx)
	if auditErr := d.audit.Flush(ctx); err != nil || auditErr != nil {
		d.log.Warn("answered before it was on disk", "err", errors.Join(err, auditErr))
	}
	if err == nil {
		return ""
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		err = errno
	}
	return fmt.Sprintf("%s: %v; a restart of the agent before it is there loses it", control.NotOnDisk, err)
}

// refusal converts an error of the table to a control error.
func (d *Daemon) refusal(err error) *control.Error {
	var policy *ban.PolicyError
	if errors.As(err, &policy) {
		text := policy.Error()
		if by := policy.Allower; by != (ban.Origin{}) {
			text = strings.Replace(text, "allowed by "+by.Short(), "allowed by "+d.names.of(by), 1)
		}
		return &control.Error{Code: control.CodePolicy, Message: text, Rule: policy.Rule, Hint: policyHint(policy)}
	}
	return control.AsError(err)
}

// policyHint returns what to do about a refusal, ready to be typed, or "" if nothing can be done.
func policyHint(e *ban.PolicyError) string {
	if !e.Op.Prefix.IsValid() {
		return "" // not from a command
	}
	longest := config.FormatDuration(e.Longest)
	switch e.Rule {
	case ban.RuleNever:
		hint := fmt.Sprintf("`meshban why %s` shows what protects it", show(e.Op.Prefix))
		if strings.Contains(e.Detail, hostinfo.SessionOf) {
			hint += "; the session has to end first"
		}
		return hint
	case ban.RuleAllow:
		return fmt.Sprintf("`meshban allow --remove %s` takes it off the allow list", show(e.By))
	case ban.RuleWide:
		limits := ban.DefaultLimits()
		least, most := limits.MinBits6, 128
		if e.Op.Prefix.Addr().Is4() {
			least, most = limits.MinBits4, 32
		}
		return fmt.Sprintf("%s networks of /%d to /%d", e.Op.Kind, least, most)
	case ban.RulePorts:
		return "leave out --port to ban every port"
	case ban.RuleLong:
		switch {
		case e.Op.Kind == ban.KindAllow:
			return fmt.Sprintf("write --for %s or less; what stands under allow in meshban.yaml has no end", longest)
		case e.Longest < config.MaxMaxFor:
			return fmt.Sprintf("write --for %s or less, or raise bans.max_for in meshban.yaml, to at most %s", longest, config.FormatDuration(config.MaxMaxFor))
		}
		return fmt.Sprintf("write --for %s or less: no ban may last longer", longest)
	}
	return ""
}

// readyWait bounds how long an invitation waits for the mesh port to open.
const readyWait = 5 * time.Second

// Invite implements control.Agent.
func (d *Daemon) Invite(ctx context.Context, req control.InviteRequest) (control.InviteReply, error) {
	uses, ttl := max(req.Uses, 1), cmp.Or(time.Duration(req.For), inviteFor)
	select { // right after the start the mesh port may not be open yet
	case <-d.mesh.Ready():
	case <-time.After(readyWait):
	case <-ctx.Done():
		return control.InviteReply{}, ctx.Err()
	}
	token, err := d.mesh.NewInvite(uses, ttl, CertificateCaps(req.Caps))
	if errors.Is(err, pki.ErrNoAuthority) {
		return control.InviteReply{}, d.needAuthority("invite")
	}
	if err != nil {
		return control.InviteReply{}, stopping(err)
	}
	now := time.Now()
	e := d.byCaller(ctx, now)
	e.What, e.Until, e.Reason = "invite", now.Add(ttl).UTC(), fmt.Sprintf("a token, uses: %d, caps: %s", uses, req.Caps)
	d.audit.Add(e)
	return control.InviteReply{Token: token, Uses: uses, Expires: control.TimeOf(now.Add(ttl))}, nil
}

// Invitations implements control.Agent.
func (d *Daemon) Invitations(context.Context) ([]control.Invitation, error) {
	list := []control.Invitation{}
	for _, i := range d.mesh.Invitations() {
		list = append(list, control.Invitation{ID: i.ID, Uses: i.Uses, Used: i.Used, Expires: control.TimeOf(i.Expires), Caps: capsOf(i.Caps)})
	}
	return list, nil
}

// CancelInvite implements control.Agent.
func (d *Daemon) CancelInvite(ctx context.Context, req control.CancelInviteRequest) (control.CancelInviteReply, error) {
	switch found, err := d.mesh.CancelInvite(req.ID); {
	case err != nil:
		return control.CancelInviteReply{}, err
	case !found:
		return control.CancelInviteReply{}, &control.Error{
			Code: control.CodeNotFound, Message: "no open token of this node has the id " + req.ID, Hint: "`meshban invite --list` shows them",
		}
	}
	e := d.byCaller(ctx, time.Now())
	e.What, e.Reason = "invite cancel", "the token "+req.ID
	d.audit.Add(e)
	return control.CancelInviteReply(req), nil
}

func show(p netip.Prefix) string { return control.FormatPrefix(p) }
