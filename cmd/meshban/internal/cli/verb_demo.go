package cli

import (
	"bufio"
	"io"

	"github.com/urfave/cli/v2"
)

// demo shows what a mesh does, on this machine alone.
func (c *command) demo(ctx *cli.Context) error {
	if err := noArgs(ctx); err != nil {
		return err
	}
	if !ctx.Bool("json") {
		_, err := c.acts.Demo(ctx.Context, unbuffered{c.out})
		return err
	}
	rep, err := c.acts.Demo(ctx.Context, io.Discard)
	if err != nil {
		return err
	}
	return writeObject(c.out, rep)
}

// unbuffered shows at once what is written.
type unbuffered struct{ w *bufio.Writer }

func (u unbuffered) Write(p []byte) (int, error) {
	n, err := u.w.Write(p)
	if err == nil {
		err = u.w.Flush()
	}
	return n, err
}
