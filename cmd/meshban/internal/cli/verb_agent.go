package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

func (c *command) agent(ctx *cli.Context) error {
	opts, err := c.agentOptions(ctx)
	if errors.As(err, new(wrongEnvironment)) {
		return node.WrongConfig(err)
	}
	if err != nil {
		return err
	}
	opts.Reload = c.hangup()
	err = c.acts.Agent(ctx.Context, opts)
	if errors.As(err, new(*config.Error)) || errors.As(err, new(*ownfile.Error)) {
		return node.WrongConfig(err)
	}
	return err
}

// agentOptions reads the flags of the agent.
func (c *command) agentOptions(ctx *cli.Context) (node.AgentOptions, error) {
	v := values{ctx: ctx}
	opts := node.AgentOptions{
		Dir: c.dir, Version: versionText(), Stderr: c.err,
		Name:      get(&v, "name", config.ParseName),
		Bind:      v.addrPort("bind", config.DefaultPort),
		Advertise: v.addrPort("advertise", config.DefaultPort),
		Join:      v.peers(),
		LineFile:  v.path("line-file"),
		Firewall:  get(&v, "firewall", config.ParseBackends),
		Config:    v.path("config"),
		Metrics:   v.addrPort("metrics", 0),
	}
	if ctx.Bool("json") {
		opts.LogFormat = config.LogJSON
	}
	return opts, v.err
}

// entry reads the flags that init and join share.
func (c *command) entry(v *values) node.JoinOptions {
	return node.JoinOptions{Dir: c.dir, Name: get(v, "name", config.ParseName), Bind: v.addrPort("bind", config.DefaultPort)}
}

func (c *command) init(ctx *cli.Context) error {
	v := values{ctx: ctx}
	opts := c.entry(&v)
	if v.err != nil {
		return v.err
	}
	res, err := c.acts.Init(ctx.Context, opts)
	if done, err := c.answered(ctx, res, err); done {
		return err
	}
	field(c.out, "node", fmt.Sprintf("%s (%s)", res.Name, short(res.ID)))
	field(c.out, "mesh", res.Mesh)
	field(c.out, "config", res.Config)
	tellHint(c.err, "next: "+c.startHint()+"; then `meshban invite` for each machine that shall join")
	return nil
}

// startHint returns how to start the agent.
func (c *command) startHint() string {
	if c.dir != systemDir {
		return "`meshban agent --dir " + c.dir + "`"
	}
	if packaged, _ := c.acts.Packaged(); packaged {
		return "`systemctl enable --now meshban`"
	}
	return "`meshban setup systemd`, or `meshban agent` by hand"
}

func (c *command) join(ctx *cli.Context) error {
	if ctx.Bool("request") || ctx.String("certificate") != "" {
		return c.joinByFile(ctx)
	}
	if len(ctx.StringSlice("join")) > 0 {
		return usagef("meshban join --certificate FILE --join HOST", "--join goes with --certificate: a token tells where the mesh is")
	}
	token, err := oneArg(ctx, "a token", "meshban join TOKEN (meshban invite prints one, on a node of the mesh)")
	if err != nil {
		return err
	}
	if token == "-" {
		if token, err = c.firstLine(); err != nil {
			return err
		}
	}
	v := values{ctx: ctx}
	opts := c.entry(&v)
	if opts.Token = token; v.err != nil {
		return v.err
	}
	return c.enrol(ctx, opts)
}

// enrol joins and reports the outcome.
func (c *command) enrol(ctx *cli.Context, opts node.JoinOptions) error {
	res, err := c.acts.Join(ctx.Context, opts)
	if done, err := c.answered(ctx, res, err); done {
		return err
	}
	field(c.out, "node", fmt.Sprintf("%s (%s)", res.Name, short(res.ID)))
	field(c.out, "mesh", res.Mesh)
	field(c.out, "join", res.Join...)
	field(c.out, "config", res.Config)
	if res.NameTaken {
		fmt.Fprintf(c.err, "meshban: warning: another node is called %s too, so both are shown with their ids\n", control.Printable(res.Name))
		tellHint(c.err, "for another name, set it in meshban.yaml, make a token with `meshban invite`, then: meshban rotate node-key TOKEN")
	}
	hint := "next: " + c.startHint()
	if _, err := os.Lstat(socketOf(c.dir)); err == nil {
		hint = "an agent runs already: restart it"
	}
	tellHint(c.err, hint)
	return nil
}

// joinByFile enrols without contact with a node.
func (c *command) joinByFile(ctx *cli.Context) error {
	if err := noArgs(ctx); err != nil {
		return err
	}
	v := values{ctx: ctx}
	opts := c.entry(&v)
	if opts.Join = v.peers(); v.err != nil {
		return v.err
	}
	file := ctx.String("certificate")
	if !ctx.Bool("request") {
		var err error
		if opts.Certificate, err = c.readFile(file); err != nil {
			return err
		}
		return c.enrol(ctx, opts)
	}
	if file != "" || len(opts.Join) > 0 {
		return usagef("meshban join --request --name web4", "--request takes neither --certificate nor --join")
	}
	res, err := c.acts.Request(ctx.Context, opts)
	if err != nil {
		return err
	}
	return c.handOut(ctx, res)
}
