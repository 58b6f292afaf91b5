package cli

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) audit(ctx *cli.Context) error {
	touches, err := auditFilter(ctx)
	if err != nil {
		return err
	}
	v := values{ctx: ctx}
	since := get(&v, "since", c.readTime)
	if v.err != nil {
		return v.err
	}
	t := c.newTable("TIME", "WHAT", "ADDRESS", "UNTIL", "BY", "NODE", "REASON")
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
	why := fullID.ReplaceAllStringFunc(cmp.Or(e.Reason, e.Source), short)
	if e.Lost > 0 {
		why += fmt.Sprintf(" (%d changes before this one were not recorded)", e.Lost)
	}
	return why
}
