package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon/enforce"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh/frame"
)

// Rules for an op that nothing refused, but that has no effect, or none on other nodes.
const (
	ruleRevoked     = "revoked"
	ruleCertificate = "no certificate"
	ruleCancelled   = "cancelled"
	ruleCovered     = "wider ban"
	ruleClock       = "clock"
)

// confirmLimit bounds how long an answer waits for the kernel.
const confirmLimit = 800 * time.Millisecond

// ignored returns why the other nodes ignore this one, or nil if they do not.
func (d *Daemon) ignored() *control.Error {
	select {
	case <-d.mesh.Ready(): // until then its own certificate may be unknown
	default:
		return nil
	}
	s := d.mesh.Standing(frame.ID(d.self))
	switch {
	case s.Revoked != nil:
		text := "the mesh revoked this node at " + control.FormatPast(s.Revoked.Issued)
		if s.Revoked.Reason != "" {
			text += fmt.Sprintf(" (%s)", s.Revoked.Reason)
		}
		return &control.Error{
			Code: control.CodePolicy, Rule: ruleRevoked, Message: text,
			Hint: fmt.Sprintf("to come back it needs a new key: stop the agent, `mv %s %[1]s.old`, then `meshban join TOKEN` with a new token", filepath.Dir(d.home.Store())),
		}
	case s.Certificate == nil:
		return &control.Error{
			Code: control.CodePolicy, Rule: ruleCertificate, Message: "this node has no valid certificate",
			Hint: "start the agent of a node that has ca.key, which renews it; or stop this one and `meshban join TOKEN` with a new token",
		}
	}
	return nil
}

// standingProblem returns the problem that status shows while the other nodes ignore this one, or "".
func (d *Daemon) standingProblem() string {
	e := d.ignored()
	if e == nil {
		return ""
	}
	return e.Message + ": the others take nothing from it, and it protects only itself; " + e.Hint
}

// confirm turns each success that the table, the kernel or the mesh does not confirm into an error. It calls look with
// the lock held; look returns the table's error for a result, or nil. did describes what this node has done anyway.
func (d *Daemon) confirm(
	ctx context.Context, results []control.Result, look func(*ban.Table, *control.Result) *control.Error, did string,
) {
	if !slices.ContainsFunc(results, func(r control.Result) bool { return r.Err == nil }) {
		return
	}
	var kernel *control.Error
	if len(results) <= lockChunk { // a bulk waits for the kernel as it goes; status reports a kernel that lags
		kernel = d.kernelTook(ctx, results)
	}
	ignored, mute := d.ignored(), mutedBy(d.mesh.Mute(), d.names)
	for some := range slices.Chunk(results, lockChunk) {
		d.state.View(func(t *ban.Table) {
			for i := range some {
				r := &some[i]
				if r.Err != nil {
					continue
				}
				if r.Err = look(t, r); r.Err != nil {
					continue
				}
				switch {
				case kernel != nil:
					r.Err = kernel
					if r.State != "" {
						r.State = control.StateNotEnforced
					}
				case ignored != nil:
					e := *ignored
					e.Message = fmt.Sprintf("%s is %s on this node only: %s", r.Prefix.String(), did, e.Message)
					r.Err = &e
				case mute != "":
					r.Err = &control.Error{
						Code: control.CodePolicy, Rule: ruleClock,
						Message: fmt.Sprintf("%s is %s on this node, but not on %s: this machine's clock is more than %d minutes ahead of theirs", r.Prefix.String(), did, mute, frame.FutureSkew/time.Minute),
						Hint:    "set the clock right, as by `timedatectl set-ntp true`; `meshban status` says by how much it is off",
					}
				}
			}
		})
		enforce.GiveWay()
	}
}

// maxNamedMembers bounds the members that an error names.
const maxNamedMembers = 4

// mutedBy lists members by name, or returns "" for none.
func mutedBy(ids []frame.ID, n *names) string {
	var who []ban.Origin
	for _, id := range ids[:min(len(ids), maxNamedMembers)] {
		who = append(who, ban.Origin(id))
	}
	text := n.join(who)
	if more := len(ids) - len(who); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// kernelTook waits until the kernel has answered for the successful results, and returns an error if it has not taken
// them.
func (d *Daemon) kernelTook(ctx context.Context, results []control.Result) *control.Error {
	ctx, cancel := context.WithTimeout(ctx, confirmLimit)
	defer cancel()
	var done []netip.Prefix
	for _, r := range results {
		if r.Err == nil {
			done = append(done, r.Prefix.Prefix)
		}
	}
	text := fmt.Sprintf("the kernel has not taken it within %.1f s", confirmLimit.Seconds())
	if d.state.Await(ctx, done) == nil {
		if d.fw.Behind() == "" {
			return nil
		}
		text = "the kernel has not taken it"
	}
	if last := d.fw.Status().LastError; last != "" {
		text += ": " + last
	}
	return &control.Error{
		Code: control.CodeFailed, Message: text, Hint: "the agent goes on trying; `meshban status` shows what the firewall says",
	}
}

// banEffect returns a look function for confirm: it returns why a new ban drops nothing here, or nil if it does. With
// errorsOnly it need not say the state of what has no error.
func (d *Daemon) banEffect(now time.Time, ports ban.Ports, errorsOnly bool) func(*ban.Table, *control.Result) *control.Error {
	kernel := d.fw.Status()
	backend := kernel.Backend
	return func(t *ban.Table, r *control.Result) *control.Error {
		state, by := t.Effect(r.Prefix.Prefix, ports)
		switch {
		case by != nil:
			r.State = control.StateLifted
			return &control.Error{
				Code: control.CodePolicy, Rule: ruleCancelled,
				Message: fmt.Sprintf("%s is not banned: the unban of %s by %s cancels the ban until %s",
					r.Prefix.String(), show(by.Prefix), d.names.of(by.Origin), control.FormatTime(by.Until)),
				Hint: fmt.Sprintf("if that node is not to be trusted, `meshban revoke %s` takes its unbans back", d.names.handle(by.Origin)),
			}
		case state == ban.StateAllowed:
			r.State = control.StateAllowed
			op := ban.Op{Kind: ban.KindBan, Prefix: r.Prefix.Prefix, Ports: ports, Until: r.Until.Time}
			if err := t.CheckLocal(now, op); err != nil {
				return d.refusal(err)
			}
			return &control.Error{Code: control.CodePolicy, Rule: ban.RuleNever, Message: r.Prefix.String() + " is never banned here"}
		case state == ban.StateHeld, state == ban.StatePending:
			r.State = state.String()
			return &control.Error{
				Code: control.CodePolicy, Rule: r.State, Message: fmt.Sprintf("%s is not banned yet: it is %s", r.Prefix.String(), r.State),
				Hint: fmt.Sprintf("`meshban why %s` says what it waits for", r.Prefix.String()),
			}
		case state != ban.StateEnforced:
			return nil // it has ended meanwhile
		}
		r.State = state.String()
		left := d.fw.LeftOut(r.Prefix.Prefix)
		addNote(r, leavesOut(left))
		if backend == fw.NameNone {
			addNote(r, "this node has no firewall backend and drops nothing; the others do")
		}
		if text := d.pauseText(); text != "" {
			addNote(r, text)
			r.State = control.StateNotEnforced
			return nil
		}
		if backend == fw.NameNone || slices.Contains(left, r.Prefix.Prefix) {
			r.State = control.StateNotEnforced // no error: chosen by the operator, or it would cut off neighbours here
			return nil
		}
		if errorsOnly && kernel.NotEnforced == 0 && kernel.Problem == "" { // 7 % of an import's processor time
			r.State = ""
		} else if ok, why := d.holds(r.Prefix.Prefix, ports); why != "" {
			r.State = control.StateNotEnforced
			return &control.Error{
				Code: control.CodeFailed, Hint: "the other nodes still got the ban; `meshban status` shows the firewall's error",
				Message: fmt.Sprintf("%s is banned, but not enforced here: %s", r.Prefix.String(), why),
			}
		} else if !ok {
			r.State = control.StateNotEnforced // part of a bulk, which does not wait for the kernel
		}
		return nil
	}
}

// maxNamedNetworks bounds the networks that a text names.
const maxNamedNetworks = 4

// leavesOut returns which of this machine's own networks a ban leaves out, or "" for none.
func leavesOut(networks []netip.Prefix) string {
	if len(networks) == 0 {
		return ""
	}
	var names []string
	for _, n := range networks[:min(len(networks), maxNamedNetworks)] {
		names = append(names, n.String())
	}
	if more := len(networks) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	what := "a network"
	if len(networks) > 1 {
		what = "networks"
	}
	return fmt.Sprintf("leaves out %s: %s of this machine's own", strings.Join(names, ", "), what)
}

// spares returns why a ban does not reach a prefix inside it, or "" if it does.
func (d *Daemon) spares(banned, prefix netip.Prefix) string {
	for _, n := range d.fw.LeftOut(banned) {
		if n.Bits() <= prefix.Bits() && n.Contains(prefix.Addr()) {
			return "it " + leavesOut([]netip.Prefix{n})
		}
	}
	return ""
}

// unbanEffect returns what still drops a prefix that was just lifted, or nil if nothing does.
func (d *Daemon) unbanEffect(t *ban.Table, r *control.Result) *control.Error {
	verdict, dropped := t.Lookup(r.Prefix.Prefix)
	if !dropped || d.spares(verdict.Prefix, r.Prefix.Prefix) != "" {
		return nil
	}
	what := "the ban of " + show(verdict.Prefix)
	if !verdict.Ports.IsAll() {
		what += " on ports " + verdict.Ports.String()
	}
	return &control.Error{
		Code: control.CodePolicy, Rule: ruleCovered,
		Message: fmt.Sprintf("%s is still dropped: %s by %s lasts until %s",
			r.Prefix.String(), what, d.names.join(verdict.Origins), control.FormatTime(verdict.Until)),
		Hint: fmt.Sprintf("lift all of it with `meshban unban %s`, or except this one with `meshban allow %s`", show(verdict.Prefix), r.Prefix.String()),
	}
}

// allowEffect returns why an allow that was just made has no effect, or nil if it has one.
func (d *Daemon) allowEffect(t *ban.Table, r *control.Result) *control.Error {
	by := t.AllowLifted(r.Prefix.Prefix)
	if by == nil {
		return nil
	}
	return &control.Error{
		Code: control.CodePolicy, Rule: ruleCancelled,
		Message: fmt.Sprintf("%s is not allowed: the removal of %s by %s cancels it until %s",
			r.Prefix.String(), show(by.Prefix), d.names.of(by.Origin), control.FormatTime(by.Until)),
		Hint: fmt.Sprintf("if that node is not to be trusted, `meshban revoke %s` takes that back", d.names.handle(by.Origin)),
	}
}

// othersNote returns what as a note if this node's caps keep an op from counting against other nodes' bans, else "".
func (d *Daemon) othersNote(what string, banners []ban.Origin) string {
	if d.ownCaps().UnbanAny {
		return ""
	}
	banners = slices.DeleteFunc(banners, func(o ban.Origin) bool { return o == d.self })
	if len(banners) > 0 {
		what += fmt.Sprintf(": elsewhere the ban by %s stands", d.names.join(banners))
	}
	return what
}

// join returns the names of nodes, separated by commas.
func (n *names) join(ids []ban.Origin) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = n.of(id)
	}
	return strings.Join(list, ", ")
}

// bannersOf adds to dst, by prefix, the origins whose bans ops lift.
func bannersOf(dst map[netip.Prefix][]ban.Origin, ops []ban.Op) {
	for _, op := range ops {
		for _, m := range op.Marks {
			dst[op.Prefix] = append(dst[op.Prefix], m.Origin)
		}
	}
}
