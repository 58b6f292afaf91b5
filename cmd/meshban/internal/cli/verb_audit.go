package cli

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) auditVerb() *verb {
	return &verb{
		name: "audit", args: "[ADDR]", short: "show who changed what, when and why",
		long: `A table of every change to what is banned, oldest first: when, what (ban, unban, allow,
unallow, revoke where a node takes its own ban back; release and drop of what is held; invite, caps,
revoke node, forget, rotate mesh key, reload), the addresses, who asked, on which node, and why. Who is a
user of this machine, the line file, or another node. With ADDR, an address or a CIDR, only
what touches it. The agent keeps 64 MiB of it in
audit.jsonl in the state folder.

With --json one object a line: time, what, prefixes, ports, until, via (socket, lines,
mesh, signal), user, uid, pid, node, node_id, reason, source, lost (changes before this
one that came too fast to be recorded).`,
		flags: []cli.Flag{
			text("since", "`WHEN` only what came since: a time (2026-11-22T11:02:11Z) or how long ago (2h, 3d)"),
			jsonFlag("one object a line"),
		},
		examples: `meshban audit --since 24h
meshban audit 203.0.113.7
meshban audit --json | jq -r 'select(.user=="alice") | .prefixes[]'`,
		action: c.audit,
	}
}

func (c *command) audit(ctx *cli.Context) error {
	touches, err := auditFilter(ctx)
	if err != nil {
		return err
	}
	since, err := read(ctx, "since", c.readTime)
	if err != nil {
		return err
	}
	t := newTable(c.out, "TIME", "WHAT", "ADDRESS", "UNTIL", "BY", "NODE", "REASON")
	return show(c, ctx, t, "nothing was changed", func(e control.AuditEntry) []string {
		until := "-"
		if !e.Until.IsZero() {
			until = control.FormatTime(e.Until)
		}
		return []string{control.FormatPast(e.Time), e.What, auditAddrs(e), until, auditWho(e), e.Node, auditWhy(e)}
	}, func(ctx context.Context, yield func(control.AuditEntry) error) error {
		return c.client().Audit(ctx, since, func(e control.AuditEntry) error {
			if !touches(e) {
				return nil
			}
			return yield(e)
		})
	})
}

// auditFilter returns a function that reports whether an entry is asked for.
func auditFilter(ctx *cli.Context) (func(control.AuditEntry) bool, error) {
	if ctx.NArg() == 0 {
		return func(control.AuditEntry) bool { return true }, nil
	}
	arg, err := oneArg(ctx, "an address", "meshban audit 203.0.113.7")
	if err != nil {
		return nil, err
	}
	p, err := parseAddr(arg)
	return func(e control.AuditEntry) bool { return slices.ContainsFunc(e.Prefixes, p.Overlaps) }, err
}

func auditAddrs(e control.AuditEntry) string {
	if len(e.Prefixes) == 0 {
		return "-"
	}
	text := control.FormatPrefix(e.Prefixes[0])
	if more := len(e.Prefixes) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func auditWho(e control.AuditEntry) string {
	switch {
	case e.User != "" && e.UID != nil:
		return fmt.Sprintf("%s (%d)", e.User, *e.UID)
	case e.Via == control.ViaLines:
		return "line file"
	case e.Via == control.ViaMesh:
		return "node " + e.Node
	}
	return e.Via
}

// fullID matches a whole id, of which people see only the beginning.
var fullID = regexp.MustCompile(`\b[0-9a-f]{32}\b`)

func auditWhy(e control.AuditEntry) string {
	why := fullID.ReplaceAllStringFunc(or(e.Reason, e.Source), short)
	if e.Lost > 0 {
		why += fmt.Sprintf(" (%d changes before this one were not recorded)", e.Lost)
	}
	return why
}
