package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// Every flag with a value is a string to urfave/cli and is parsed here, so that all errors look alike.

// globalFlags are the flags that may be given before or after the verb.
func globalFlags() []cli.Flag {
	return []cli.Flag{text("dir", "`D` state folder of the node: config, keys, store, control socket "+
		"(default: /var/lib/meshban as root, else $XDG_STATE_HOME/meshban)", "MESHBAN_DIR")}
}

// text returns a flag with a value; usage begins with the value's name in backquotes.
func text(name, usage string, env ...string) *cli.StringFlag {
	return &cli.StringFlag{Name: name, Usage: usage, EnvVars: env}
}

// texts returns a text flag that may be repeated.
func texts(name, usage string, env ...string) *cli.StringSliceFlag {
	return &cli.StringSliceFlag{Name: name, Usage: usage, EnvVars: env}
}

func toggle(name, usage string) *cli.BoolFlag { return &cli.BoolFlag{Name: name, Usage: usage} }

// flagError returns an error that names the flag or environment variable with the wrong value.
func flagError(ctx *cli.Context, name, value string, err error) error {
	source, hint := "--"+name, ""
	env := variable(ctx, name, value)
	if env != "" {
		source = env
	}
	if bad, ok := errors.AsType[*config.Error](err); ok {
		err, hint = errors.New(bad.Problem), bad.Remedy
	}
	err = usagef(hint, "%s: %v", source, err)
	if env != "" {
		return wrongEnvironment{err}
	}
	return err
}

// variable returns the environment variable that a flag's value came from, or "" if it came from the command line.
func variable(ctx *cli.Context, name, value string) string {
	for _, f := range ctx.Command.Flags {
		flag, ok := f.(cli.DocGenerationFlag)
		if !ok || !slices.Contains(f.Names(), name) {
			continue
		}
		for _, env := range flag.GetEnvVars() {
			said := os.Getenv(env)
			if said == value || slices.Contains(strings.Split(said, ","), value) { // a list is split at commas
				return env
			}
		}
	}
	return ""
}

// values reads several flags. Once one is wrong, the rest are zero.
type values struct {
	ctx *cli.Context
	err error // of the first wrong flag
}

// get reads a flag with parse; a missing or empty one is zero.
func get[T any](v *values, name string, parse func(string) (T, error)) (t T) {
	s := v.ctx.String(name)
	if s == "" || v.err != nil {
		return t
	}
	got, err := parse(s)
	if err != nil {
		v.err = flagError(v.ctx, name, s, err)
		return t
	}
	return got
}

func (v *values) duration(name string) control.Duration {
	return control.Duration(get(v, name, config.ParseDuration))
}

func (v *values) addrPort(name string, port uint16) netip.AddrPort {
	return get(v, name, func(s string) (netip.AddrPort, error) { return config.ParseAddrPort(s, port) })
}

func (v *values) path(name string) string { return get(v, name, filepath.Abs) }

// number reads a whole number from least to most; 0 if the flag is missing.
func (v *values) number(name string, least, most int) int {
	return get(v, name, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return 0, &config.Error{
				Problem: fmt.Sprintf("must be %d to %d, not %q", least, most, s),
			}
		}
		return n, nil
	})
}

// reason reads --reason.
func (v *values) reason() string {
	return get(v, "reason", func(s string) (string, error) {
		switch {
		case len(s) > control.MaxReason:
			return "", &config.Error{Problem: fmt.Sprintf("it has %d bytes", len(s)), Remedy: fmt.Sprintf("write at most %d", control.MaxReason)}
		case control.Printable(s) != s:
			return "", &config.Error{Problem: fmt.Sprintf("%q has characters that cannot be printed", s), Remedy: "write plain text"}
		}
		return s, nil
	})
}

// peers reads --join; empty items, which an environment variable may have, are left out.
func (v *values) peers() (all []string) {
	for _, s := range v.ctx.StringSlice("join") {
		if s == "" || v.err != nil {
			continue
		}
		peer, err := config.ParseJoin(s)
		if err != nil {
			v.err = flagError(v.ctx, "join", s, err)
		} else if !slices.Contains(all, peer) {
			all = append(all, peer)
		}
	}
	return all
}

// caps reads capsFlags; it returns the zero value if none was given.
func (v *values) caps() (c control.Caps) {
	for _, n := range c.Numbers() {
		*n.At = v.number(strings.ReplaceAll(n.Key, "_", "-"), n.Least, n.Most)
	}
	c.MaxFor = get(v, "max-for", parseMaxFor)
	c.NoUnbanAny, c.NoImport = control.Denied(v.ctx.Bool("no-unban-any")), control.Denied(v.ctx.Bool("no-import"))
	c.NoDrill = control.Denied(v.ctx.Bool("no-drill"))
	return c
}

// noArgs refuses arguments.
func noArgs(ctx *cli.Context) error {
	if ctx.Args().Present() {
		return usagef("", "%s takes no argument, got %q", ctx.Command.Name, ctx.Args().First())
	}
	return nil
}

// oneArg returns the only argument.
func oneArg(ctx *cli.Context, what, example string) (string, error) {
	switch ctx.NArg() {
	case 0:
		return "", usagef("for example: "+example, "%s needs %s", ctx.Command.Name, what)
	case 1:
		return ctx.Args().First(), nil
	}
	return "", usagef("for example: "+example, "%s takes one argument, got %d", ctx.Command.Name, ctx.NArg())
}
