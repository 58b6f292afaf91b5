package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// stdoutBuffer is how many bytes of output are buffered. A verb that follows events flushes by itself.
const stdoutBuffer = 64 << 10

// command is one run of the program.
type command struct {
	acts   actions
	in     io.Reader
	out    *bufio.Writer // stdout: data only
	err    io.Writer     // stderr: errors, hints, progress
	isTerm bool          // stderr is a terminal
	term   *os.File      // stdout if it is a terminal, else nil: topics go through a pager
	screen screen        // stdout, if it is a terminal
	asks   bool          // stdin is a terminal: verbs that remove a lot ask first
	now    func() time.Time
	hangup func() <-chan os.Signal // starts the delivery of SIGHUP
	dir    string                  // the state folder, absolute; set before a verb runs
}

func newCommand(acts actions, in io.Reader, out, errs io.Writer) *command {
	c := &command{
		acts: acts, in: in, out: bufio.NewWriterSize(out, stdoutBuffer), err: errs, isTerm: isTerminal(errs), asks: isKeyboard(in),
		now: time.Now, hangup: func() <-chan os.Signal { return nil },
	}
	if isTerminal(out) {
		c.term = out.(*os.File)
		c.screen = screenOf(c.term)
	}
	return c
}

// isTerminal reports whether w is a character device, so that somebody may be looking.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run does what args (without the program's name) ask for and returns the exit code.
func (c *command) run(ctx context.Context, args []string) int {
	c.in = newStdin(ctx, c.in)
	err := c.dispatch(ctx, args)
	if fault := c.out.Flush(); fault != nil && err == nil {
		err = fmt.Errorf("write to stdout: %w", fault)
	}
	if err == nil {
		return exitDone
	}
	hint := ""
	switch {
	case errors.Is(err, control.ErrNoAgent):
		hint = c.noAgentHint()
	case errors.Is(err, control.ErrInUse):
		hint = "stop it first, or choose another folder with --dir"
	}
	tell(c.err, err, hint)
	return exitCode(err)
}

func (c *command) dispatch(ctx context.Context, args []string) error {
	verbs := c.verbs()
	call, err := arrange(args, verbs)
	if err != nil {
		return err
	}
	switch {
	case call.help && call.verb == nil:
		return c.mainHelp(c.out, verbs)
	case call.help:
		return verbHelp(c.out, call.verb)
	case call.version:
		return c.version(nil)
	case call.verb == nil:
		if err := c.mainHelp(c.err, verbs); err != nil {
			return err
		}
		return usagef("", "say what to do: one of the commands above")
	}
	return c.app(call.verb).RunContext(ctx, call.argv)
}

// app hands the verb to urfave/cli, which parses the flags. Nothing in urfave/cli may print or exit.
func (c *command) app(v *verb) *cli.App {
	return &cli.App{
		Name: programName, Usage: "-", HideHelp: true, HideVersion: true, HideHelpCommand: true,
		Flags: globalFlags(), Writer: io.Discard, ErrWriter: io.Discard, Reader: c.in,
		Compiled:       time.Unix(0, 0), // else urfave/cli asks the file system
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   badFlag,
		Commands: []*cli.Command{{
			Name: v.name, HideHelp: true, HideHelpCommand: true, Flags: v.flags, OnUsageError: badFlag, Action: v.action,
			Before: func(ctx *cli.Context) (err error) {
				if v.local {
					return nil
				}
				if c.dir, err = stateDir(ctx.String("dir")); err == nil && v.args == "" {
					err = noArgs(ctx)
				}
				return err
			},
		}},
	}
}

// badFlag converts what the flag package says about a value to a usage error.
func badFlag(_ *cli.Context, err error, _ bool) error { return usagef("", "%v", err) }

// client returns a client for the agent of the state folder.
func (c *command) client() *control.Client { return control.NewClient(socketOf(c.dir)) }
