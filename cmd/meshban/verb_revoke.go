package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) revokeVerb() *verb {
	return &verb{
		name: "revoke", args: "NODE", short: "shut a node out of the mesh for good",
		long: `NODE is a name, an id, or at least the first 8 digits of one. On every node all that it
said is taken back at once, and what it says from now on is refused; nothing undoes
this. With --since, what it said before that time stays, in the name of this node:
choose a time before its key can have been stolen. To come back, a machine needs a new
key and a new token. A revoked machine still has the mesh's key, so it can listen:
meshban rotate mesh-key afterwards ends that.

It needs the key of the mesh's authority (ca.key, where the mesh began). Prints the
node's id.`,
		flags: []cli.Flag{
			text("since", "`T` what it said before T stays: a time (2026-11-22T11:02:11Z) or how long ago (2h, 3d)"),
			text("reason", "`TEXT` shown to everyone who asks"),
		},
		examples: `meshban revoke web3 --reason "stolen disk"
meshban revoke 1f3870be --since 2h`,
		action: c.revoke,
	}
}

func (c *command) revoke(ctx *cli.Context) error {
	if ctx.Args().Len() != 1 {
		return usagef("meshban revoke web3", "name one node")
	}
	req := control.RevokeRequest{Node: ctx.Args().First()}
	var err error
	if req.Reason, err = readText(ctx, "reason", control.MaxReason); err != nil {
		return err
	}
	if req.Since, err = read(ctx, "since", c.readTime); err != nil {
		return err
	}
	rep, err := c.client().Revoke(ctx.Context, req)
	if err != nil {
		return err
	}
	fmt.Fprintln(c.out, rep.ID)
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	said := fmt.Sprintf("%s (%s) is revoked since %s", or(clean(rep.Name), "a node that nobody has met"), short(rep.ID), control.FormatTime(rep.Revoked))
	if rep.Kept > 0 {
		said += fmt.Sprintf("; %s of it stay, in the name of this node", plural(rep.Kept, "record", "records"))
	}
	fmt.Fprintf(c.err, "meshban: %s\n", said)
	return nil
}

// readTime reads a time, or how long ago it was.
func (c *command) readTime(s string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	ago, err := config.ParseDuration(s)
	if err != nil {
		return time.Time{}, &config.Error{
			Problem: fmt.Sprintf("%q is neither a time nor how long ago", s), Remedy: "write it as 2026-11-22T11:02:11Z, 2h or 3d",
		}
	}
	return c.now().Add(-ago), nil
}
