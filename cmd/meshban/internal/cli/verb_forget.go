package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) forgetVerb() *verb {
	return &verb{
		name: "forget", args: "NODE", short: "take a member that is gone for good off the list",
		long: `NODE is a name, an id, or at least the first 8 digits of one. On every node it leaves the
list of members, and its address may be banned; its own bans stay until they end. A node
that was heard within the last minute is not forgotten (exit code 1), and one that is
heard again is back. Said on a node without ca.key, the others go on protecting the
address until NODE has been silent for an hour.

This shuts nobody out: to do that, use meshban revoke. Prints the node's id.

With --json one object: name, id.`,
		flags: []cli.Flag{jsonFlag("one object")},
		examples: `meshban forget web3
meshban forget 1f3870be`,
		action: c.forget,
	}
}

func (c *command) forget(ctx *cli.Context) error {
	node, err := oneArg(ctx, "a node", "meshban forget web3")
	if err != nil {
		return err
	}
	rep, err := c.client().Forget(ctx.Context, control.ForgetRequest{Node: node})
	if err != nil {
		return err
	}
	if ctx.Bool("json") {
		return writeObject(c.out, rep)
	}
	fmt.Fprintln(c.out, rep.ID)
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	fmt.Fprintf(c.err, "meshban: %s is forgotten; its bans stay until they end\n", clean(rep.Name))
	return nil
}
