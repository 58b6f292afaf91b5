package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) forget(ctx *cli.Context) error {
	node, err := oneArg(ctx, "a node", "meshban forget web3")
	if err != nil {
		return err
	}
	rep, err := c.client().Forget(ctx.Context, control.ForgetRequest{Node: node})
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	fmt.Fprintln(c.out, rep.ID)
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	fmt.Fprintf(c.err, "meshban: %s is forgotten; its bans stay until they end\n", control.Printable(rep.Name))
	return nil
}
