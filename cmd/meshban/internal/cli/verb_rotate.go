package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

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
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	fmt.Fprintln(c.out, rep.Generation)
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	fmt.Fprintf(c.err, "meshban: the mesh's key is rotated, generation %d, for %s\n", rep.Generation, plural(rep.Nodes, "node", "nodes"))
	if len(rep.Waiting) > 0 {
		tellHint(c.err, fmt.Sprintf("not yet on: %s; meshban status shows when it is", control.Printable(strings.Join(rep.Waiting, ", "))))
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
	if done, err := c.answered(ctx, res, err); done {
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
