package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) hook(ctx *cli.Context) error {
	const form = "meshban hook test NAME"
	args := ctx.Args()
	if args.First() != "test" {
		return usagef(form, "write test after hook")
	}
	if args.Len() != 2 {
		return usagef(form, "hook test needs the name of one hook")
	}
	rep, err := c.client().TestHook(ctx.Context, control.HookRequest{Name: args.Get(1)})
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	fmt.Fprintf(c.out, "%s took the test message after %.0f ms\n", control.Printable(rep.Name), rep.MS)
	return nil
}
