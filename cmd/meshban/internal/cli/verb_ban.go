package cli

import (
	"cmp"
	"context"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// sourceCLI is the source of bans from the command line.
const sourceCLI = "cli"

func (c *command) ban(ctx *cli.Context) error {
	v := values{ctx: ctx}
	req := control.BanRequest{Source: sourceCLI, For: v.duration("for"), Ports: get(&v, "port", readPorts), Reason: v.reason()}
	if v.err != nil {
		return v.err
	}
	all, err := c.addrs(ctx)
	if err != nil {
		return err
	}
	client := c.client()
	return c.each(ctx, all, func(ctx context.Context, some []netip.Prefix) (control.ResultsReply, error) {
		req.Addrs = some
		rep, err := client.Ban(ctx, req)
		return control.ResultsReply{Results: rep.Results}, err
	}, func(r control.Result) string {
		return r.Prefix.String() + " " + untilText(r, "banned")
	})
}

func (c *command) unban(ctx *cli.Context) error {
	v := values{ctx: ctx}
	reason := v.reason()
	if v.err != nil {
		return v.err
	}
	which, err := readSelection(ctx)
	if err != nil {
		return err
	}
	var all []netip.Prefix
	if which != nil {
		all, err = c.selected(ctx, which)
	} else if ctx.Bool("dry-run") {
		err = usagef("meshban why ADDR shows what is known of an address", "--dry-run goes with --all, --by or --source")
	} else {
		all, err = c.addrs(ctx)
	}
	if err != nil {
		return err
	}
	client := c.client()
	return c.each(ctx, all, func(ctx context.Context, some []netip.Prefix) (control.ResultsReply, error) {
		return client.Unban(ctx, control.UnbanRequest{Prefixes: some, Reason: reason})
	}, func(r control.Result) string { return r.Prefix.String() + " lifted" })
}

func (c *command) allow(ctx *cli.Context) error {
	v := values{ctx: ctx}
	length, reason := v.duration("for"), v.reason()
	if v.err != nil {
		return v.err
	}
	list, remove, me := ctx.Bool("list"), ctx.Bool("remove"), ctx.Bool("me")
	switch {
	case me && (list || remove || ctx.Args().Present()):
		return usagef("meshban allow --me", "--me stands in the place of an address")
	case list && (remove || length != 0 || reason != "" || ctx.Args().Present()):
		return usagef("meshban allow --list", "--list stands alone")
	case list:
		return c.allowed(ctx)
	case remove && length != 0:
		return usagef("meshban allow --remove ADDR", "--remove takes no --for")
	}
	var all []netip.Prefix
	var err error
	if me {
		all, err = c.me(ctx.Context)
	} else {
		all, err = c.addrs(ctx)
	}
	if err != nil {
		return err
	}
	client := c.client()
	if remove {
		return c.each(ctx, all, func(ctx context.Context, some []netip.Prefix) (control.ResultsReply, error) {
			return client.Unallow(ctx, control.UnallowRequest{Prefixes: some, Reason: reason})
		}, func(r control.Result) string { return r.Prefix.String() + " removed" })
	}
	return c.each(ctx, all, func(ctx context.Context, some []netip.Prefix) (control.ResultsReply, error) {
		return client.Allow(ctx, control.AllowRequest{Prefixes: some, For: length, Reason: reason})
	}, func(r control.Result) string {
		return r.Prefix.String() + " allowed " + untilText(r, "until removed")
	})
}

func (c *command) allowed(ctx *cli.Context) error {
	entries, err := c.client().Allowed(ctx.Context)
	if err != nil {
		return err
	}
	now := c.now()
	t := c.newTable("ADDRESS", "LEFT", "BY", "SOURCE", "REASON")
	return show(c, ctx, t, "nothing is allowed", func(e control.AllowEntry) []string {
		left := "-"
		if !e.Until.IsZero() {
			left = span(e.Until.Sub(now))
		}
		return []string{e.Prefix.String(), left, cmp.Or(e.Origin, "-"), e.Source, strings.TrimSpace(e.Reason)}
	}, streamed(entries))
}
