package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
)

// setUps are what setup can set up.
var setUps = []string{"fail2ban", "systemd", "prometheus", "grafana"}

const oneOfSetUps = "fail2ban, systemd, prometheus or grafana"

func (c *command) setup(ctx *cli.Context) error {
	opts := node.SetupOptions{Dir: c.dir, Print: ctx.Bool("print"), Remove: ctx.Bool("remove"), Out: c.out}
	if opts.Print && opts.Remove {
		return usagef("give one of them", "--print and --remove exclude each other")
	}
	if !opts.Remove || ctx.Args().Present() {
		var err error
		if opts.What, err = oneArg(ctx, "to know what to set up: "+oneOfSetUps, "meshban setup fail2ban"); err != nil {
			return err
		}
		if !slices.Contains(setUps, opts.What) {
			hint := "write " + oneOfSetUps
			if meant := config.Nearest(opts.What, setUps); meant != "" {
				hint = fmt.Sprintf("did you mean %q?", meant)
			}
			return usagef(hint, "there is nothing to set up called %q", opts.What)
		}
	}
	if opts.What == "grafana" && !opts.Print {
		return usagef("`meshban setup grafana --print` prints it", "a board is not installed: print it, and import it in Grafana")
	}
	if (opts.What == "" || opts.What == "fail2ban") && !opts.Print && (!opts.Remove || c.acts.Fail2banInstalled()) {
		question := "start every jail of fail2ban anew (its bans come back)?"
		if opts.Remove {
			question = "take the files away, and start every jail of fail2ban anew (its bans come back)?"
		}
		if err := c.ask(question, ctx.Bool("yes")); err != nil {
			return err
		}
	}
	if packaged, hiding := c.acts.Packaged(); packaged && opts.What == "systemd" && !opts.Remove && !opts.Print && len(hiding) > 0 {
		question := fmt.Sprintf("the package brings the unit: remove %s, which it would never use?", strings.Join(hiding, " and "))
		if err := c.ask(question, ctx.Bool("yes")); err != nil {
			return err
		}
	}
	var files bytes.Buffer
	if ctx.Bool("json") {
		opts.Out = &files
	}
	res, err := c.acts.Setup(ctx.Context, opts)
	if ctx.Bool("json") {
		return c.setupJSON(&files, res, err)
	}
	for _, line := range res.Done {
		fmt.Fprintln(c.out, control.Printable(line))
	}
	if err != nil {
		return err
	}
	if opts.Remove && len(res.Done) == 0 {
		fmt.Fprintln(c.err, "meshban: nothing of ours is installed")
	}
	for _, line := range res.Next {
		tellHint(c.err, line)
	}
	return nil
}

func (c *command) teardown(ctx *cli.Context) error {
	if _, err := c.client().Status(ctx.Context); err == nil {
		return &control.Error{
			Code:    control.CodeFailed,
			Message: fmt.Sprintf("an agent runs on %q and would put everything back", c.dir),
			Hint:    "stop it first: systemctl stop meshban",
		}
	}
	removed, err := c.acts.Teardown(ctx.Context, c.dir)
	if ctx.Bool("json") {
		return cmp.Or(err, writeObject(c.out, removal{append([]string{}, removed...)}))
	}
	for _, what := range removed {
		fmt.Fprintln(c.out, "removed "+control.Printable(what))
	}
	if err != nil {
		return err
	}
	if len(removed) == 0 {
		fmt.Fprintln(c.err, "meshban: nothing of ours is in the kernel")
	}
	return nil
}
