package cli

import (
	"context"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// sourceCLI is the source of bans from the command line.
const sourceCLI = "cli"

const addrHelp = `ADDR is an address or a CIDR, IPv4 or IPv6, or - for a list on stdin (one a line,
# comments). Names are never looked up.`

func (c *command) banVerb() *verb {
	return &verb{
		name: "ban", args: "ADDR...", short: "ban addresses on every node of the mesh",
		long: addrHelp + ` Every argument is checked before the first is banned.

Without --for a ban that this node has made before is not shortened and keeps its reason.
With --for it gets the new end and reason, and stderr tells what they were.

Prints a line for each address that is banned: the address, "until", and the time
in UTC. An address that a rule refuses, or whose ban has no effect (an unban cancels it,
the mesh has revoked this node), is named on stderr with the rule; the others are still
banned, and the exit code is 4. It is 1 where the kernel does not drop it.

With --json one object a line: prefix, until, state (as in list, or lifted), note, and
for an address that is not banned error {code, message, hint, rule}.`,
		flags: []cli.Flag{
			text("for", "`D` how long: 90s, 30m, 12h, 7d12h (default: bans.for of the agent's config, 30m)"),
			text("port", "`LIST` only these ports: 22/tcp,80,8000-8010/udp; names as in /etc/services (default: all)"),
			text("reason", "`TEXT` shown to everyone who asks why"),
			jsonFlag("one object a line"),
		},
		examples: `meshban ban 203.0.113.7
meshban ban 203.0.113.0/24 2001:db8:bad::/48 --for 7d --reason "scans ssh"
meshban ban 203.0.113.7 --port 22/tcp,80
awk '{print $1}' worst.log | meshban ban - --for 12h`,
		action: c.ban,
	}
}

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
	return c.each(ctx, all, func(ctx context.Context, some []netip.Prefix) ([]control.Result, error) {
		req.Addrs = some
		rep, err := client.Ban(ctx, req)
		return rep.Results, err
	}, func(r control.Result) string {
		return r.Prefix.String() + " " + untilText(r, "banned")
	})
}

func (c *command) unbanVerb() *verb {
	return &verb{
		name: "unban", args: "ADDR... | --all | --by NODE | --source S", short: "lift bans everywhere, whoever banned",
		long: addrHelp + ` A CIDR lifts every ban inside it. A ban that is
made later counts again.

--all lifts every ban, --by those that NODE has said, --source those from S, as list shows
it (line stands for line:sshd too); both together lift what matches both. An address goes
whoever else bans it. They show what they lift, and ask where stdin is a terminal.

Prints a line for each address that is lifted. One that is not banned is named on
stderr, and the exit code is 5. One that a wider ban still drops is named with that ban,
and the exit code is 4. Where the fail2ban of a node still bans the address, stderr says so
and what to type there.

With --json one object a line: prefix, until (null), note, error {code, message, hint, rule}.`,
		flags: []cli.Flag{
			toggle("all", "lift every ban"),
			text("by", "`NODE` lift what this node has banned: a name, an id, or at least 8 digits of one"),
			text("source", "`S` lift what came from this source: cli, line, line:sshd, import"),
			text("reason", "`TEXT` shown to everyone who asks why"),
			toggle("dry-run", "show what --all, --by or --source would lift, and change nothing"),
			toggle("yes", "do not ask"),
			jsonFlag("one object a line"),
		},
		examples: `meshban unban 203.0.113.7
meshban unban 203.0.113.0/24 --reason "our own scanner"
meshban unban --by web3 --dry-run
meshban unban --source import --yes`,
		action: c.unban,
	}
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
	return c.each(ctx, all, func(ctx context.Context, some []netip.Prefix) ([]control.Result, error) {
		rep, err := client.Unban(ctx, control.UnbanRequest{Prefixes: some, Reason: reason})
		return rep.Results, err
	}, func(r control.Result) string { return r.Prefix.String() + " lifted" })
}

func (c *command) allowVerb() *verb {
	return &verb{
		name: "allow", args: "ADDR... | --remove ADDR... | --list", short: "never ban these addresses, mesh-wide",
		long: addrHelp + `

What is banned of them is lifted at once, and bans of them count no more. Prints a
line for each address: the address and until when it is allowed. --list shows the
whole never-ban list of this node: what the mesh allows, what meshban.yaml allows,
and what is built in.

With --json one object a line: prefix, until, note, error {code, message, hint, rule}; with
--list: prefix, until, origin, origin_id, reason, source.`,
		flags: []cli.Flag{
			text("for", "`D` how long: 12h, 7d (default: until removed, a year at most)"),
			text("reason", "`TEXT` shown to everyone who asks why"),
			toggle("remove", "take the addresses off the list again"),
			toggle("list", "show the list"),
			jsonFlag("one object a line"),
		},
		examples: `meshban allow 198.51.100.0/28 --reason "office"
meshban allow 198.51.100.77 --for 12h
meshban allow --remove 198.51.100.77
meshban allow --list`,
		action: c.allow,
	}
}

func (c *command) allow(ctx *cli.Context) error {
	v := values{ctx: ctx}
	length, reason := v.duration("for"), v.reason()
	if v.err != nil {
		return v.err
	}
	list, remove := ctx.Bool("list"), ctx.Bool("remove")
	switch {
	case list && (remove || length != 0 || reason != "" || ctx.Args().Present()):
		return usagef("meshban allow --list", "--list stands alone")
	case list:
		return c.allowed(ctx)
	case remove && length != 0:
		return usagef("meshban allow --remove ADDR", "--remove takes no --for")
	}
	all, err := c.addrs(ctx)
	if err != nil {
		return err
	}
	client := c.client()
	if remove {
		return c.each(ctx, all, func(ctx context.Context, some []netip.Prefix) ([]control.Result, error) {
			rep, err := client.Unallow(ctx, control.UnallowRequest{Prefixes: some, Reason: reason})
			return rep.Results, err
		}, func(r control.Result) string { return r.Prefix.String() + " removed" })
	}
	return c.each(ctx, all, func(ctx context.Context, some []netip.Prefix) ([]control.Result, error) {
		rep, err := client.Allow(ctx, control.AllowRequest{Prefixes: some, For: length, Reason: reason})
		return rep.Results, err
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
	t := newTable(c.out, "ADDRESS", "LEFT", "BY", "SOURCE", "REASON")
	return show(c, ctx, t, "nothing is allowed", func(e control.AllowEntry) []string {
		left := "-"
		if !e.Until.IsZero() {
			left = span(e.Until.Sub(now))
		}
		return []string{e.Prefix.String(), left, or(e.Origin, "-"), e.Source, strings.TrimSpace(e.Reason)}
	}, streamed(entries))
}
