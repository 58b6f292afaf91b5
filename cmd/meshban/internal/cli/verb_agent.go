package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

func (c *command) agentVerb() *verb {
	return &verb{
		name: "agent", short: "run this node",
		long: `Runs in the foreground until SIGTERM or SIGINT; SIGHUP reads the config again. With
nothing set up it makes a mesh of one node and says how to invite others; a machine
that shall enter an existing mesh begins with meshban join TOKEN. Without root it drops
nothing (firewall none) and says so.

Flags override the config file. Stopping leaves in the kernel what is banned;
meshban teardown takes it out.`,
		flags: []cli.Flag{
			text("config", "`F` the config file (default: meshban.yaml in the state folder, if it is there)", "MESHBAN_CONFIG"),
			text("name", "`NAME` of this node, for people (default: the host name)", "MESHBAN_NAME"),
			text("bind", "`IP:PORT` where to listen on, UDP and TCP (default: [::]:7946, all addresses)", "MESHBAN_BIND"),
			text("advertise", "`IP:PORT` where the others reach this node", "MESHBAN_ADVERTISE"),
			texts("join", "`HOST[:PORT]` a member to look for, once this machine has joined the mesh; may be repeated", "MESHBAN_JOIN"),
			text("line-file", "`F` the file that other programs append their bans to (default: newbans.log in the state folder)", "MESHBAN_LINE_FILE"),
			text("firewall", "`LIST` backends in the order of trial: auto, or ipset,nftables,iptables,none", "MESHBAN_FIREWALL"),
			text("metrics", "`IP:PORT` where to serve Prometheus metrics (default: off)", "MESHBAN_METRICS"),
		},
		examples: `meshban agent
meshban agent --dir ./node1 --bind 127.0.0.1:7946 --firewall none
meshban agent --bind 192.0.2.1:7946 --metrics 127.0.0.1:9100`,
		action: c.agent,
	}
}

func (c *command) agent(ctx *cli.Context) error {
	if err := noArgs(ctx); err != nil {
		return err
	}
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
	return opts, v.err
}

func nameFlag() cli.Flag {
	return text("name", "`NAME` of this node, for people (default: the host name)", "MESHBAN_NAME")
}

func bindFlag() cli.Flag {
	return text("bind", "`IP:PORT` where to listen on, UDP and TCP (default: [::]:7946, all addresses)", "MESHBAN_BIND")
}

// entry reads the flags that init and join share.
func (c *command) entry(v *values) node.JoinOptions {
	return node.JoinOptions{Dir: c.dir, Name: get(v, "name", config.ParseName), Bind: v.addrPort("bind", config.DefaultPort)}
}

func (c *command) initVerb() *verb {
	return &verb{
		name: "init", short: "make a new mesh with this machine as its first node",
		long: `Writes the mesh's key, this node's key, the key of the mesh's authority (ca.key) and
meshban.yaml into the state folder. Who has ca.key decides who is a member: keep a copy
of it off the fleet, with mode 0600. A machine that shall enter an existing mesh uses
meshban join instead.`,
		flags: []cli.Flag{nameFlag(), bindFlag()},
		examples: `meshban init
meshban init --name web1 --bind 192.0.2.1:7946`,
		action: c.init,
	}
}

func (c *command) init(ctx *cli.Context) error {
	if err := noArgs(ctx); err != nil {
		return err
	}
	v := values{ctx: ctx}
	opts := c.entry(&v)
	if v.err != nil {
		return v.err
	}
	res, err := c.acts.Init(ctx.Context, opts)
	if err != nil {
		return err
	}
	field(c.out, "node", fmt.Sprintf("%s (%s)", res.Name, short(res.ID)))
	field(c.out, "mesh", res.Mesh)
	field(c.out, "config", res.Config)
	tellHint(c.err, "next: "+startHint(c.dir)+"; then `meshban invite` for each machine that shall join")
	return nil
}

// startHint says how to start the agent on dir.
func startHint(dir string) string {
	if dir == systemDir {
		return "`meshban setup systemd`, or `meshban agent` by hand"
	}
	return "`meshban agent --dir " + dir + "`"
}

func (c *command) joinVerb() *verb {
	return &verb{
		name: "join", args: "TOKEN | --request | --certificate FILE", short: "enrol this machine into a mesh",
		long: `TOKEN is what meshban invite has printed on a node of the mesh; - reads it from
stdin, which keeps it out of the process list. Makes this node's key, gets the mesh's
key from the inviting node, and writes meshban.yaml, join list included.

Without contact to a node, as for configuration management: --request makes the key and
prints a request, meshban ca sign answers it where the authority's key is, and
--certificate takes the answer. --join then says where the mesh is.`,
		flags: []cli.Flag{
			nameFlag(), bindFlag(),
			toggle("request", "print a certificate request instead"),
			text("certificate", "`FILE` what meshban ca sign has printed, instead of a token; - reads it from stdin"),
			texts("join", "`HOST[:PORT]` with --certificate: a node to join; repeat it for more"),
		},
		examples: `meshban join mb1-...
ssh web1 meshban invite | meshban join -
meshban join --request --name web4 > web4.request
meshban join --certificate web4.certificate --join web1 --join web2`,
		action: c.join,
	}
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
	if err != nil {
		return err
	}
	field(c.out, "node", fmt.Sprintf("%s (%s)", res.Name, short(res.ID)))
	field(c.out, "mesh", res.Mesh)
	field(c.out, "join", res.Join...)
	field(c.out, "config", res.Config)
	if res.NameTaken {
		fmt.Fprintf(c.err, "meshban: warning: another node is called %s too, so both are shown with their ids\n", clean(res.Name))
		tellHint(c.err, "for another name, set it in meshban.yaml, make a token with `meshban invite`, then: meshban rotate node-key TOKEN")
	}
	hint := "next: " + startHint(c.dir)
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
	return c.handOut(res)
}
