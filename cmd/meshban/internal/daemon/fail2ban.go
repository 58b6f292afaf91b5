package daemon

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
)

// fail2banWait bounds how long the answer to unban waits for fail2ban; whyWait does the same for why.
const fail2banWait, whyWait = 10 * time.Second, 4 * time.Second

// fail2banProblem shows what fail2ban did not unban; "" clears the problem.
func (d *Daemon) fail2banProblem(text string) {
	if text == "" {
		d.problems.clear("fail2ban")
		return
	}
	d.problems.set("fail2ban", text, "") // which says what to do
	d.log.Warn("fail2ban did not let go of all that was lifted", "problem", text)
}

// confirmFail2ban notes in the results of an unban what this node's fail2ban still bans. An address that only fail2ban
// banned counts as found.
func (d *Daemon) confirmFail2ban(ctx context.Context, results []control.Result) {
	if len(results) > fail2ban.MaxAtOnce {
		return // the lift is still passed on; status reports its outcome
	}
	ctx, cancel := context.WithTimeout(ctx, fail2banWait)
	defer cancel()
	name := d.config().Name
	only, err := d.onlyThere(ctx, results)
	var lifted []netip.Prefix
	for _, r := range results {
		if r.Err == nil || slices.ContainsFunc(only, r.Prefix.Overlaps) {
			lifted = append(lifted, r.Prefix.Prefix)
		}
	}
	var still []fail2ban.Ban
	if err == nil {
		still, err = d.fail2ban.Confirm(ctx, lifted)
	}
	for i := range results {
		r := &results[i]
		here := slices.DeleteFunc(slices.Clone(still), func(b fail2ban.Ban) bool { return !b.Prefix.Overlaps(r.Prefix.Prefix) })
		unsure := err != nil && r.Err != nil && r.Err.Code == control.CodeNotFound
		if !slices.Contains(lifted, r.Prefix.Prefix) && !unsure {
			continue
		}
		note := ""
		switch {
		case err != nil:
			note = fail2ban.Unknown("", err.Error())
		case len(here) > 0:
			note = fail2ban.Describe(name, here)
		case r.Err != nil:
			r.Err, note = nil, name+"'s fail2ban alone banned it, and has let go"
		}
		addNote(r, note)
	}
}

// onlyThere returns the prefixes of fail2ban's bans that overlap a result whose prefix the mesh does not ban.
func (d *Daemon) onlyThere(ctx context.Context, results []control.Result) ([]netip.Prefix, error) {
	var unknown, only []netip.Prefix
	for _, r := range results {
		if r.Err != nil && r.Err.Code == control.CodeNotFound {
			unknown = append(unknown, r.Prefix.Prefix)
		}
	}
	if len(unknown) == 0 {
		return nil, nil
	}
	bans, err := d.fail2ban.Banned(ctx, unknown...)
	if fail2ban.Absent(err) {
		err = nil
	}
	for _, b := range bans {
		only = append(only, b.Prefix)
	}
	return only, err
}

// fail2banBans returns what this node's fail2ban bans of prefix, or that this is not known; "" = nothing.
func (d *Daemon) fail2banBans(ctx context.Context, prefix netip.Prefix) string {
	ctx, cancel := context.WithTimeout(ctx, whyWait)
	defer cancel()
	bans, err := d.fail2ban.Banned(ctx, prefix)
	if err != nil && !fail2ban.Absent(err) {
		return fail2ban.Unknown(d.config().Name, err.Error())
	}
	return fail2ban.Describe(d.config().Name, bans)
}

// fail2banStatus returns what status shows about fail2ban, or nil if meshban is not connected to it.
func (d *Daemon) fail2banStatus(ctx context.Context) *control.Fail2banStatus {
	s := d.fail2ban.State(ctx)
	if s.At.IsZero() {
		return nil
	}
	out := &control.Fail2banStatus{Tells: append([]string{}, s.Tells...), Silent: append([]string{}, s.Silent...), Unban: d.config().Fail2ban.Unban}
	if s.Err != nil {
		out.Error = s.Err.Error()
	}
	return out
}
