package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// verbs lists the commands in the order of the help. The text of each is help/commands/NAME.txt.
func (c *command) verbs() []*verb {
	return slices.Concat(c.meshVerbs(), c.banVerbs(), c.lookVerbs(), c.otherVerbs())
}

// Flags that several verbs have.
func nameFlag() cli.Flag {
	return text("name", "`NAME` of this node, for people (default: the host name)", "MESHBAN_NAME")
}

func bindFlag() cli.Flag {
	return text("bind", "`IP:PORT` where to listen on, UDP and TCP (default: [::]:7946, all addresses)", "MESHBAN_BIND")
}

func forFlag() cli.Flag {
	return text("for", "`D` how long: 90s, 30m, 12h, 7d12h (default: bans.for of the agent's config, 30m)")
}

func reasonFlag() cli.Flag { return text("reason", "`TEXT` shown to everyone who asks why") }
func yesFlag() cli.Flag    { return toggle("yes", "do not ask") }
func objectFlag() cli.Flag { return toggle("json", "print one object") }
func linesFlag() cli.Flag  { return toggle("json", "print one object a line") }

// meshVerbs are about nodes and keys.
func (c *command) meshVerbs() []*verb {
	return []*verb{
		{name: "agent", short: "run this node", action: c.agent, flags: []cli.Flag{
			text("config", "`F` the config file (default: meshban.yaml in the state folder, if it is there)", "MESHBAN_CONFIG"),
			nameFlag(), bindFlag(),
			text("advertise", "`IP:PORT` where the others reach this node", "MESHBAN_ADVERTISE"),
			texts("join", "`HOST[:PORT]` a member to look for, once this machine has joined the mesh; may be repeated", "MESHBAN_JOIN"),
			text("line-file", "`F` the file that other programs append their bans to (default: newbans.log in the state folder)", "MESHBAN_LINE_FILE"),
			text("firewall", "`LIST` backends in the order of trial: auto, or ipset,nftables,iptables,none", "MESHBAN_FIREWALL"),
			text("metrics", "`IP:PORT` where to serve Prometheus metrics (default: off)", "MESHBAN_METRICS"),
			toggle("json", "log in JSON, one object a line"),
		}},
		{name: "init", short: "make a new mesh with this machine as its first node", action: c.init, flags: []cli.Flag{nameFlag(), bindFlag(), objectFlag()}},
		{name: "invite", short: "print a token with which a machine can join", action: c.invite, flags: slices.Concat([]cli.Flag{
			text("uses", fmt.Sprintf("`N` how many machines may use it, 1 to %d (default: 1)", control.MaxInviteUses)),
			text("for", "`D` how long it is good: 10m, 1h, 7d (default: 1h)"),
			toggle("list", "show the tokens that can still be used"),
			text("cancel", "`ID` let a token that --list shows admit nobody any more"), objectFlag(),
		}, capsFlags())},
		{name: "join", args: "TOKEN | --request | --certificate FILE", short: "enrol this machine into a mesh", action: c.join, flags: []cli.Flag{
			nameFlag(), bindFlag(),
			toggle("request", "print a certificate request instead"),
			text("certificate", "`FILE` what meshban ca sign has printed, instead of a token; - reads it from stdin"),
			texts("join", "`HOST[:PORT]` with --certificate: a node to join; repeat it for more"),
			objectFlag(),
		}},
		{name: "revoke", args: "NODE", short: "shut a node out of the mesh for good", action: c.revoke, flags: []cli.Flag{
			text("since", "`T` bans that came here before T stay: a time (2026-11-22T11:02:11Z) or how long ago (2h, 3d)"),
			text("reason", "`TEXT` shown to everyone who asks"),
			toggle("dry-run", "show what it would take back, and change nothing"),
			yesFlag(), objectFlag(),
		}},
		{name: "forget", args: "NODE", short: "take a member that is gone for good off the list", action: c.forget, flags: []cli.Flag{objectFlag()}},
		{name: "rotate", args: control.WhatMeshKey + " | " + whatNodeKey + " [TOKEN]", short: "give the mesh, or this node, a new key", action: c.rotate, flags: []cli.Flag{objectFlag()}},
		{name: "ca", args: "sign REQUEST | caps NODE | export FILE | import FILE", short: "use or move the key of the mesh's authority", action: c.ca,
			flags: slices.Concat([]cli.Flag{
				text("key", "`FILE` with sign: the exported key, instead of this node's"),
				toggle("move", "with export: take the key off this node"),
				toggle("default", "with caps: only what each node's config says"), objectFlag(),
			}, capsFlags())},
	}
}

// banVerbs change what is banned.
func (c *command) banVerbs() []*verb {
	return []*verb{
		{name: "ban", args: "ADDR...", short: "ban addresses on every node of the mesh", action: c.ban, flags: []cli.Flag{
			forFlag(),
			text("port", "`LIST` only these ports: 22/tcp,80,8000-8010/udp; names as in /etc/services (default: all)"),
			reasonFlag(), linesFlag(),
		}},
		{name: "unban", args: "ADDR... | --all | --by NODE | --source S", short: "lift bans everywhere, whoever banned", action: c.unban, flags: []cli.Flag{
			toggle("all", "lift every ban"),
			text("by", "`NODE` lift what this node has banned: a name, an id, or at least 8 digits of one"),
			text("source", "`S` lift what came from this source: cli, line, line:sshd, import"),
			reasonFlag(),
			toggle("dry-run", "show what --all, --by or --source would lift, and change nothing"),
			yesFlag(), linesFlag(),
		}},
		{name: "allow", args: "ADDR... | --me | --remove ADDR... | --list", short: "never ban these addresses, mesh-wide", action: c.allow, flags: []cli.Flag{
			text("for", "`D` how long: 12h, 7d (default: until removed, a year at most)"),
			reasonFlag(),
			toggle("me", "allow where this ssh session comes from"),
			toggle("remove", "take the addresses off the list again"),
			toggle("list", "show the list"),
			linesFlag(),
		}},
	}
}

// lookVerbs show what there is, and decide about what waits.
func (c *command) lookVerbs() []*verb {
	return []*verb{
		{name: "list", args: "[ADDR|CIDR]", short: "show what is banned now", action: c.list, flags: []cli.Flag{
			text("by", "`NODE` what this node has banned: a name, an id, or at least 8 digits of one"),
			text("source", "`S` what came from this source: cli, line, line:sshd, import"),
			text("state", "`S` what is in this state: enforced, \"not enforced\", pending, held or allowed"),
			text("limit", "`N` this many at most"),
			text("sort", "`COLUMN` address, left, by, state, source or hits (default: in no order)"),
			linesFlag(),
		}},
		{name: "why", args: "ADDR", short: "explain what this node does about an address", action: c.why, flags: []cli.Flag{objectFlag()}},
		{name: "members", short: "show the nodes of the mesh", action: c.members, flags: []cli.Flag{linesFlag()}},
		{name: "status", short: "show the state of this node", action: c.status, flags: []cli.Flag{
			toggle("all", "also what each other node says of itself"),
			toggle("check", "print only problems, and exit with 1 if there is one: for monitoring"),
			objectFlag(),
		}},
		{name: "doctor", short: "check this machine, its firewall, its fail2ban and its mesh", action: c.doctor, flags: []cli.Flag{
			text("peer", "`NODE` look at one peer only: a name, an id, or at least 8 digits of one"),
			text("bundle", "`FILE` also write an archive for whoever is to help"),
			toggle("addresses", "with --bundle: leave addresses as they are"),
			linesFlag(),
		}},
		{name: "drill", short: "show with real packets that every node drops", action: c.drill, flags: []cli.Flag{objectFlag()}},
		{name: "pause", args: "D | off", short: "drop nothing for a while, to see whether it is meshban", action: c.pause, flags: []cli.Flag{
			toggle("all", "every node of the mesh; needs ca.key, an hour at most"),
			reasonFlag(),
			toggle("dry-run", "show what it would let through, and change nothing"),
			yesFlag(), objectFlag(),
		}},
		{name: "dashboard", short: "open the page that shows this node and its mesh", action: c.dashboard, flags: []cli.Flag{
			text("port", "`N` the port on 127.0.0.1 where the browser finds it (default: any free one)"),
			toggle("no-browser", "only print the address"),
			objectFlag(),
		}},
		{name: "watch", short: "follow events as they happen", action: c.watch, flags: append([]cli.Flag{linesFlag()}, exabgpFlags()...)},
		{name: "audit", args: "[ADDR]", short: "show who changed what, when and why", action: c.audit, flags: []cli.Flag{
			text("since", "`WHEN` only what came since: a time (2026-11-22T11:02:11Z) or how long ago (2h, 3d)"),
			linesFlag(),
		}},
		{name: "held", args: "list | release ADDR... | drop ADDR...", short: "decide about bans of peers that are held back", action: c.held, flags: []cli.Flag{
			toggle("all", "release or drop all that is held"),
			text("from", "`NODE` only what this node, a name or an id, has said"),
			toggle("json", "print JSON"),
		}},
	}
}

// otherVerbs move lists, and set up the machine and the shell.
func (c *command) otherVerbs() []*verb {
	return []*verb{
		{name: "import", args: "FILE|-", short: "ban a list of addresses", action: c.importList, flags: []cli.Flag{
			forFlag(), reasonFlag(),
			text("list", "`NAME` the file replaces what the list of this name has brought before"),
			toggle("force", "replace the list even by an empty one, or one of less than half of it"),
			toggle("skip-bad", "leave out lines that are not understood"),
			toggle("dry-run", "say what would become of it, and change nothing"),
			objectFlag(),
		}},
		{name: "export", short: "print what is banned now, for other programs", action: c.export, flags: []cli.Flag{
			text("format", "`F` plain, json, csv, ipset or nft (default: plain)"),
			toggle("json", "the same as --format json"),
		}},
		{name: "key", args: "add NAME | list | delete NAME", short: "decide who may use the api listener", action: c.key, flags: []cli.Flag{
			text("may", "`RIGHTS` of a key to add: one or more of read,ban,unban,allow,look,operate (default: read)"),
			text("rate", fmt.Sprintf("`N` addresses a minute that it may ban, unban or allow, 1 to %d (default: %d)", apikey.MaxRate, apikey.DefaultRate)),
			text("sources", "`LIST` it reads only bans from these: cli, line:sshd, line:* (default: all)"),
			text("family", "`F` it reads only IPv4 or only IPv6: 4 or 6 (default: both)"),
			objectFlag(),
		}},
		{name: "setup", args: strings.Join(setUps, "|"), short: "install the files that this machine needs", action: c.setup, flags: []cli.Flag{
			toggle("print", "print the files instead of installing them"),
			toggle("remove", "take away what setup has installed"),
			toggle("yes", "do not ask before fail2ban's jails are started anew, or a unit is removed"),
			objectFlag(),
		}},
		{name: "hook", args: "test NAME", short: "send a test message by a hook of the config", action: c.hook, flags: []cli.Flag{objectFlag()}},
		{name: "teardown", short: "take everything of ours out of the kernel", action: c.teardown, flags: []cli.Flag{objectFlag()}},
		{name: "demo", short: "show on this machine what a mesh does", local: true, action: c.demo, flags: []cli.Flag{objectFlag()}},
		{name: "completion", args: "bash|zsh|fish", short: "print a script that completes commands in your shell", local: true, action: c.completion, flags: []cli.Flag{objectFlag()}},
		{name: "version", short: "print the version", local: true, action: c.version, flags: []cli.Flag{objectFlag()}},
		{name: "help", args: "[COMMAND|TOPIC]", short: "print help", local: true, action: c.help, flags: []cli.Flag{objectFlag()}},
		{name: "__words", args: "-- WORD...", short: "print candidates for completion", hidden: true, local: true, action: c.words},
	}
}
