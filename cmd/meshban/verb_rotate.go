package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) rotateVerb() *verb {
	return &verb{
		name: "rotate", args: control.WhatMeshKey, short: "give the mesh a new key",
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
old key: export again.`,
		examples: `meshban revoke web3 && meshban rotate mesh-key`,
		action:   c.rotate,
	}
}

func (c *command) rotate(ctx *cli.Context) error {
	if ctx.NArg() != 1 || ctx.Args().First() != control.WhatMeshKey {
		return usagef("meshban rotate "+control.WhatMeshKey, "say what to rotate")
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
		tellHint(c.err, fmt.Sprintf("not there yet: %s; meshban status shows when it is", clean(strings.Join(rep.Waiting, ", "))))
	}
	return nil
}
