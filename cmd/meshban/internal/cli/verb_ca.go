package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
)

// maxPEM bounds the files of keys, requests and certificates that are read, in bytes.
const maxPEM = 4_096

func (c *command) ca(ctx *cli.Context) error {
	const example = "meshban ca sign REQUEST, meshban ca caps NODE, meshban ca export FILE, or meshban ca import FILE"
	if ctx.NArg() != 2 {
		return usagef("for example: "+example, "ca needs what to do, and a file or a node")
	}
	what, file := ctx.Args().Get(0), ctx.Args().Get(1)
	v := values{ctx: ctx}
	key, caps := v.path("key"), v.caps()
	if v.err != nil {
		return v.err
	}
	var err error
	opts := node.CAOptions{Dir: c.dir, Do: what, Key: key, Move: ctx.Bool("move"), Caps: caps}
	switch {
	case ctx.Bool("default") && what != "caps":
		return usagef("for example: "+example, "--default goes with ca caps")
	case ctx.Bool("default") && caps != (control.Caps{}):
		return usagef("", "--default says it all: take away the other flags")
	case caps != (control.Caps{}) && what != "sign" && what != "caps":
		return usagef("for example: "+example, "caps go with ca sign and ca caps")
	case key != "" && what != "sign":
		return usagef("for example: "+example, "--key goes with ca sign")
	case opts.Move && what != "export":
		return usagef("for example: "+example, "--move goes with ca export")
	case what == "caps":
		req := control.CapsRequest{Node: file}
		if ctx.Bool("default") || caps != (control.Caps{}) {
			req.Caps = &caps
		}
		return c.caps(ctx, req)
	case what == "sign":
		if opts.Request, err = c.readFile(file); err != nil {
			return err
		}
	case what == "export" || what == "import":
		if opts.File, err = filepath.Abs(file); err != nil {
			return fmt.Errorf("find %q: %w", file, err)
		}
	default:
		return usagef("for example: "+example, "ca does not know %q", what)
	}
	res, err := c.acts.CA(ctx.Context, opts)
	if err != nil {
		return err
	}
	return c.handOut(ctx, res)
}

// caps shows or changes a node's caps.
func (c *command) caps(ctx *cli.Context, req control.CapsRequest) error {
	rep, err := c.client().Caps(ctx.Context, req)
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	field(c.out, "node", fmt.Sprintf("%s (%s)", control.Printable(rep.Name), short(rep.ID)))
	field(c.out, "caps", rep.Caps.String())
	field(c.out, "until", control.FormatTime(rep.Until))
	return nil
}

// handOut prints a text of the authority on stdout; on stderr it says what that is and what comes next.
func (c *command) handOut(ctx *cli.Context, res node.CAResult) error {
	if ctx.Bool("json") {
		return writeObject(c.out, handedOut{string(res.Text), res.Said, res.Next})
	}
	if _, err := c.out.Write(res.Text); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	fmt.Fprintf(c.err, "meshban: %s\n", control.Printable(res.Said))
	tellHint(c.err, res.Next)
	return nil
}

// readFile reads a small file; - is stdin.
func (c *command) readFile(name string) ([]byte, error) {
	in, what := c.in, "stdin"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", name, pathCause(err))
		}
		defer func() { _ = f.Close() }()
		in, what = f, fmt.Sprintf("%q", name)
	}
	b, err := io.ReadAll(io.LimitReader(in, maxPEM+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	if len(b) > maxPEM {
		return nil, usagef("", "%s has more than %d bytes", what, maxPEM)
	}
	return b, nil
}

// pathCause returns the cause of a file error whose path was already given.
func pathCause(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}
