package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) rotateVerb() *verb {
	return &verb{
		name: "rotate", args: control.WhatMeshKey + " | " + whatNodeKey + " [TOKEN]", short: "give the mesh, or this node, a new key",
		long: `The mesh's key (mesh.key) encrypts all traffic between the nodes. rotate makes a new one
and hands it to every certified node that is not revoked, sealed for each alone: do it
after revoke, so that the revoked machine, which has the old key, can neither listen nor
speak any more. No ban is lost or late meanwhile. The nodes encrypt with the new key as
soon as all that are alive have it, or after 5 minutes, and let go of the old one a
minute after all do, or after an hour. A node that was away gets the new key by itself
when it is back, from any node that it knows.

It needs the key of the mesh's authority (ca.key, where the mesh began). Prints the
generation, which is how often the mesh's key was rotated; members --json shows what
each node has, and status what is left to do. Copies that ca export made before hold the
old key: export again.

node-key gives this node a new key of its own, and with it a new id, while its agent is
stopped; the kernel keeps what it has. The key needs a certificate: TOKEN is what meshban
invite prints where ca.key is, - reads it from stdin; a node that has ca.key itself needs
none. Start the agent again, and then revoke the former id as the hint says: its bans go
on in the name of the node that revokes, and the former key never counts again.`,
		examples: `meshban revoke web3 && meshban rotate mesh-key
systemctl stop meshban && meshban rotate node-key mb1-... && systemctl start meshban`,
		action: c.rotate,
	}
}

// whatNodeKey names this node's own key.
const whatNodeKey = "node-key"

func (c *command) rotate(ctx *cli.Context) error {
	if ctx.Args().First() == whatNodeKey && ctx.NArg() <= 2 {
		return c.rotateNodeKey(ctx)
	}
	if ctx.Args().First() == control.WhatMeshKey && ctx.NArg() > 1 {
		return usagef("meshban rotate "+control.WhatMeshKey, "%s takes no argument, got %q", control.WhatMeshKey, ctx.Args().Get(1))
	}
	if ctx.Args().First() != control.WhatMeshKey {
		return usagef("meshban rotate "+control.WhatMeshKey+", or meshban rotate "+whatNodeKey+" TOKEN", "say what to rotate")
	}
	rep, err := c.client().Rotate(ctx.Context, control.RotateRequest{What: control.WhatMeshKey})
	if err != nil {
		return err
	}
	fmt.Fprintln(c.out, rep.Generation)
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	fmt.Fprintf(c.err, "meshban: the mesh's key is rotated, generation %d, for %s\n", rep.Generation, plural(rep.Nodes, "node", "nodes"))
	if len(rep.Waiting) > 0 {
		tellHint(c.err, fmt.Sprintf("not yet on: %s; meshban status shows when it is", clean(strings.Join(rep.Waiting, ", "))))
	}
	return nil
}

func (c *command) rotateNodeKey(ctx *cli.Context) (err error) {
	token := ctx.Args().Get(1)
	if token == "-" {
		if token, err = c.firstLine(); err != nil {
			return err
		}
	}
	res, err := c.acts.Rekey(ctx.Context, c.dir, token)
	if err != nil {
		return err
	}
	field(c.out, "node", fmt.Sprintf("%s (%s)", res.Name, short(res.ID)))
	field(c.out, "former", res.Former)
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	tellHint(c.err, fmt.Sprintf("next: start the agent, and then, where ca.key is: meshban revoke %s --since 1s --reason \"new key\"", res.Former))
	return nil
}
