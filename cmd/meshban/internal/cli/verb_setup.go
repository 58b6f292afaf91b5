package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
)

func (c *command) setupVerb() *verb {
	return &verb{
		name: "setup", args: "fail2ban|systemd", short: "install the files that this machine needs",
		long: `fail2ban: an action that hands bans to meshban, and a filter and jail that show what
the others have banned. fail2ban starts its jails anew (fail2ban-client reload --restart),
which keeps its bans; without a jail that tells the mesh then, setup fails. systemd: a unit that runs the agent with the capabilities that
it needs and no more, and one that makes its empty ipsets at boot, before saved rules that
name them are loaded. No file of the administrator's is touched.

With backend ipset over iptables-nft, rules that were saved by "nft list ruleset" cannot be
loaded again: save them by iptables-save (netfilter-persistent save), or write
firewall: {backends: [nftables]} into meshban.yaml.

--remove takes away what setup has installed, for fail2ban, for systemd, or, alone, for both.
A file that was edited since stays and is named. With systemd, stop the agent afterwards, as
the hint says; what is banned stays in the kernel until meshban teardown.`,
		flags: []cli.Flag{
			toggle("print", "print the files instead of installing them"),
			toggle("remove", "take away what setup has installed"),
			toggle("yes", "do not ask before fail2ban's jails are started anew"),
		},
		examples: `meshban setup systemd
meshban setup fail2ban --print
meshban setup fail2ban --remove
meshban setup --remove`,
		action: c.setup,
	}
}

func (c *command) setup(ctx *cli.Context) error {
	opts := node.SetupOptions{Dir: c.dir, Print: ctx.Bool("print"), Remove: ctx.Bool("remove"), Out: c.out}
	if opts.Print && opts.Remove {
		return usagef("give one of them", "--print and --remove exclude each other")
	}
	if !opts.Remove || ctx.Args().Present() {
		var err error
		if opts.What, err = oneArg(ctx, "to know what to set up: fail2ban or systemd", "meshban setup fail2ban"); err != nil {
			return err
		}
		if known := []string{"fail2ban", "systemd"}; opts.What != known[0] && opts.What != known[1] {
			hint := "write fail2ban or systemd"
			if meant := nearest(opts.What, known); meant != "" {
				hint = fmt.Sprintf("did you mean %q?", meant)
			}
			return usagef(hint, "there is nothing to set up called %q", opts.What)
		}
	}
	if opts.What != "systemd" && !opts.Print && (!opts.Remove || c.acts.Fail2banInstalled()) {
		question := "start every jail of fail2ban anew (its bans come back)?"
		if opts.Remove {
			question = "take the files away, and start every jail of fail2ban anew (its bans come back)?"
		}
		if err := c.ask(question, ctx.Bool("yes")); err != nil {
			return err
		}
	}
	res, err := c.acts.Setup(ctx.Context, opts)
	for _, line := range res.Done {
		fmt.Fprintln(c.out, clean(line))
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

func (c *command) teardownVerb() *verb {
	return &verb{
		name: "teardown", short: "take everything of ours out of the kernel",
		long: `Removes every rule, chain, table and set of meshban's, and nothing else. The agent has
to be stopped first, else it would put them back. The state folder stays: the next
start bans again what is still banned.`,
		examples: `systemctl stop meshban && meshban teardown`,
		action:   c.teardown,
	}
}

func (c *command) teardown(ctx *cli.Context) error {
	if err := noArgs(ctx); err != nil {
		return err
	}
	if _, err := c.client().Status(ctx.Context); err == nil {
		return &control.Error{
			Code:    control.CodeFailed,
			Message: fmt.Sprintf("an agent runs on %q and would put everything back", c.dir),
			Hint:    "stop it first: systemctl stop meshban",
		}
	}
	removed, err := c.acts.Teardown(ctx.Context, c.dir)
	for _, what := range removed {
		fmt.Fprintln(c.out, "removed "+clean(what))
	}
	if err != nil {
		return err
	}
	if len(removed) == 0 {
		fmt.Fprintln(c.err, "meshban: nothing of ours is in the kernel")
	}
	return nil
}
