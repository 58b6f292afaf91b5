package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/doctor"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
)

func (c *command) doctor(ctx *cli.Context) (err error) {
	file := ctx.String("bundle")
	if ctx.Bool("addresses") && file == "" {
		return usagef("meshban doctor --bundle FILE --addresses", "--addresses is about what --bundle writes")
	}
	opts := node.DoctorOptions{Dir: c.dir, Peer: ctx.String("peer"), Addresses: ctx.Bool("addresses"), Version: versionText()}
	if file == "" {
		return c.examine(ctx, opts)
	}
	if file, err = filepath.Abs(file); err != nil {
		return fmt.Errorf("find the bundle: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return &control.Error{Code: control.CodeFailed, Message: fmt.Sprintf("%s exists already", file), Hint: "name a file that does not exist yet"}
	} else if err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	opts.Bundle = f
	err = c.examine(ctx, opts)
	fault := f.Close()
	if fault != nil || err != nil && !errors.As(err, new(reported)) {
		return errors.Join(err, fault, os.Remove(file))
	}
	fmt.Fprintf(c.err, "meshban: wrote %s; it names your nodes: look into it before you pass it on\n", file)
	return err
}

// examine runs the checks and prints what they found. It fails if one is bad.
func (c *command) examine(ctx *cli.Context, opts node.DoctorOptions) error {
	found, err := c.acts.Doctor(ctx.Context, opts)
	if err != nil {
		return err
	}
	failed := false
	for _, f := range found {
		failed = failed || f.State == doctor.Bad
		if ctx.Bool("json") {
			if err := writeObject(c.out, f); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(c.out, "%-11s  %s: %s\n", f.State, f.Check, control.Printable(f.Text))
		if f.Remedy != "" {
			fmt.Fprintf(c.out, "%-11s  -> %s\n", "", control.Printable(f.Remedy))
		}
	}
	if failed {
		return reported{control.CodeFailed}
	}
	return nil
}
