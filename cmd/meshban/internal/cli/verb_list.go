package cli

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) listVerb() *verb {
	return &verb{
		name: "list", short: "show what is banned now",
		long: `A table of address, ports, time left, the nodes that ban it, state, source and
reason. States: enforced (this node drops it), not enforced (the kernel did not take it: the
reason says why), pending (too few nodes have seen it), held (kept back until an operator
decides), allowed (the never-ban list wins).

A node goes by the name in its certificate, followed by its short id where several nodes
have that name.

With --json one object a line: prefix, ports ("" is all), until (RFC 3339),
origins (names), reason, source, state, origin_ids, not_enforced (why, where the state is
that), leaves_out (networks that this machine is in, which a wider ban leaves out).`,
		flags: []cli.Flag{jsonFlag("one object a line")},
		examples: `meshban list
meshban list --json | jq -r 'select(.state=="enforced") | .prefix'`,
		action: c.list,
	}
}

func (c *command) list(ctx *cli.Context) error {
	if err := noArgs(ctx); err != nil {
		return err
	}
	if ctx.Bool("json") {
		return c.listJSON(ctx)
	}
	now := c.now()
	t := newTable(c.out, "ADDRESS", "PORTS", "LEFT", "BY", "STATE", "SOURCE", "REASON")
	return show(c, ctx, t, "nothing is banned", func(e control.ListEntry) []string {
		if e.NotEnforced != "" {
			e.Reason = strings.TrimSuffix("not enforced: "+e.NotEnforced+"; "+e.Reason, "; ")
		}
		if len(e.LeavesOut) > 0 && e.NotEnforced == "" {
			e.Reason = strings.TrimSuffix("leaves out "+joined(e.LeavesOut)+"; "+e.Reason, "; ")
		}
		return []string{e.Prefix.String(), or(e.Ports, "all"), span(e.Until.Sub(now)),
			or(strings.Join(e.Origins, ","), "-"), e.State, or(e.Source, "-"), e.Reason}
	}, c.client().List)
}

// joined returns prefixes separated by commas.
func joined(list []netip.Prefix) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = control.FormatPrefix(p)
	}
	return strings.Join(texts, ", ")
}

// listJSON passes on the agent's lines unchanged.
func (c *command) listJSON(ctx *cli.Context) error {
	return c.client().ListRaw(ctx.Context, func(line []byte) error {
		c.out.Write(line)
		return c.out.WriteByte('\n') // an earlier error stays in the writer
	})
}

func (c *command) whyVerb() *verb {
	return &verb{
		name: "why", args: "ADDR", short: "explain what this node does about an address",
		long: `Says whether this node drops packets from the address (or CIDR), then names every
record that bears on it: who said it, when, why, until when, and what became of it; also what
this node has refused, and by which rule, and bans that ended or were lifted within a day. Of a
CIDR it counts the bans inside, and lists up to 1,000 records.
It asks the other nodes as well, and names one that does not answer as unknown; where the
fail2ban of a node still bans the address, it says what to type there.

With --json one object: address, verdict, summary, findings (kind, prefix, ports,
origin, issued, until, reason, source, status, origin_id), nodes (name, id, verdict, why,
fail2ban).`,
		flags: []cli.Flag{jsonFlag("one object")},
		examples: `meshban why 203.0.113.7
meshban why 203.0.113.7 --json | jq -r .verdict`,
		action: c.why,
	}
}

func (c *command) why(ctx *cli.Context) error {
	arg, err := oneArg(ctx, "an address", "meshban why 203.0.113.7")
	if err != nil {
		return err
	}
	p, err := parseAddr(arg)
	if err != nil {
		return err
	}
	rep, err := c.client().Why(ctx.Context, p)
	if err != nil {
		return err
	}
	if ctx.Bool("json") {
		return writeObject(c.out, rep)
	}
	addr := rep.Address.String()
	fmt.Fprintf(c.out, "%s: %s\n", addr, clean(rep.Verdict))
	if rep.Summary != "" {
		fmt.Fprintln(c.out, clean(rep.Summary))
	}
	for _, f := range rep.Findings {
		fmt.Fprintf(c.out, "- %s\n", clean(c.finding(f)))
	}
	for _, n := range rep.Nodes {
		fmt.Fprintln(c.out, clean(nodeAnswer(n)))
	}
	return nil
}

// nodeAnswer returns what another node does about an address, in one line.
func nodeAnswer(n control.NodeAnswer) string {
	text := n.Name + ": " + n.Verdict
	switch {
	case n.Why == "":
	case n.Verdict == control.VerdictUnknown:
		text += " (" + n.Why + ")"
	default:
		text += ": " + n.Why
	}
	if n.Fail2ban != "" {
		text += "; " + n.Fail2ban
	}
	return text
}

// finding returns one record as a sentence.
func (c *command) finding(f control.Finding) string {
	now := c.now()
	var b strings.Builder
	b.WriteString(f.Kind + " " + f.Prefix.String())
	if f.Ports != "" {
		b.WriteString(" on ports " + f.Ports)
	}
	if f.Origin != "" {
		b.WriteString(" by " + f.Origin)
	}
	if !f.Issued.IsZero() {
		b.WriteString(", " + span(now.Sub(f.Issued.Time)) + " ago")
	}
	if !f.Until.IsZero() {
		b.WriteString(", until " + f.Until.String())
		if left := f.Until.Sub(now); left > 0 {
			b.WriteString(" (" + span(left) + " left)")
		}
	}
	if f.Reason != "" {
		fmt.Fprintf(&b, ", %q", f.Reason)
	}
	if f.Source != "" {
		b.WriteString(", from " + f.Source)
	}
	if f.Status != "" {
		b.WriteString(": " + f.Status)
	}
	return b.String()
}

func (c *command) watchVerb() *verb {
	return &verb{
		name: "watch", short: "follow events as they happen",
		long: `One event a line: time, event (ban, refresh, unban, expire, pending, held, allow,
unallow, join, leave, fail, not enforced), address, the node it came from, and how long it took from
that node's decision to this node's kernel. Runs until it is interrupted, or until the
agent ends (exit code 3).

With --json one object a line: time, event, prefix, ports, until, origin, origin_id,
reason, source, latency_ms (null where nothing reached the kernel), not_enforced
(why the kernel did not take it).`,
		flags: []cli.Flag{jsonFlag("one object a line")},
		examples: `meshban watch
meshban watch --json | jq -r 'select(.event=="ban") | .prefix'`,
		action: c.watch,
	}
}

func (c *command) watch(ctx *cli.Context) error {
	if err := noArgs(ctx); err != nil {
		return err
	}
	asJSON := ctx.Bool("json")
	return c.client().Watch(ctx.Context, func(e control.Event) error {
		if asJSON {
			if err := writeObject(c.out, e); err != nil {
				return err
			}
		} else {
			c.out.WriteString(eventLine(e) + "\n")
		}
		return c.out.Flush() // followers do not want to wait
	})
}

// eventLine returns an event as a line for people.
func eventLine(e control.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-7s", control.FormatPast(e.Time), e.Name)
	if e.Prefix.IsValid() {
		b.WriteString("  " + e.Prefix.String())
		if e.Ports != "" {
			b.WriteString(" on ports " + e.Ports)
		}
	}
	if e.Origin != "" {
		b.WriteString("  by " + e.Origin)
	}
	if !e.Until.IsZero() && e.Until.After(e.Time) {
		b.WriteString("  for " + span(e.Until.Sub(e.Time)))
	}
	if e.LatencyMS != nil {
		fmt.Fprintf(&b, "  in %.1f ms", *e.LatencyMS)
	}
	if e.Reason != "" {
		b.WriteString("  " + e.Reason)
	}
	if e.NotEnforced != "" {
		b.WriteString("  because " + e.NotEnforced)
	}
	return clean(b.String())
}

// ago returns a past duration as text for people.
func ago(seconds float64) string { return span(time.Duration(seconds * float64(time.Second))) }
