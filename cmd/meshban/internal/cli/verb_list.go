package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// hitsColumn is the place of the column HITS.
const hitsColumn = 3

func (c *command) list(ctx *cli.Context) error {
	l, err := readListing(ctx)
	switch {
	case err != nil:
		return err
	case ctx.Bool("json") && l.all():
		return c.listJSON(ctx)
	}
	none := "nothing is banned"
	if !l.all() {
		none = "no ban matches"
	}
	more, now := false, c.now()
	head := []string{"ADDRESS", "PORTS", "LEFT", "BY", "STATE", "SOURCE", "REASON"}
	if l.hits {
		head = slices.Insert(head, hitsColumn, "HITS")
	}
	t := c.newTable(head...)
	err = show(c, ctx, t, none, func(e control.ListEntry) []string {
		if e.NotEnforced != "" {
			e.Reason = strings.TrimSuffix("not enforced: "+e.NotEnforced+"; "+e.Reason, "; ")
		}
		if len(e.LeavesOut) > 0 && e.NotEnforced == "" {
			e.Reason = strings.TrimSuffix("leaves out "+joined(e.LeavesOut)+"; "+e.Reason, "; ")
		}
		row := []string{e.Prefix.String(), cmp.Or(e.Ports, "all"), span(e.Until.Sub(now)),
			cmp.Or(strings.Join(e.Origins, ","), "-"), e.State, cmp.Or(e.Source, "-"), e.Reason}
		if l.hits {
			count := "-"
			if e.Dropped != nil {
				count = strconv.FormatUint(e.Packets, 10)
			}
			row = slices.Insert(row, hitsColumn, count)
		}
		return row
	}, func(ctx context.Context, yield func(control.ListEntry) error) (err error) {
		more, err = c.entries(ctx, l, yield)
		return err
	})
	if err == nil && more {
		fmt.Fprintf(c.err, "meshban: only %s shown; --limit sets how many\n", plural(l.limit, "ban is", "bans are"))
	}
	return err
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
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	addr := rep.Address.String()
	fmt.Fprintf(c.out, "%s: %s\n", addr, control.Printable(rep.Verdict))
	if rep.Summary != "" {
		fmt.Fprintln(c.out, control.Printable(rep.Summary))
	}
	for _, f := range rep.Findings {
		fmt.Fprintln(c.out, c.screen.paint(findingStyle(f), "- "+control.Printable(c.finding(f))))
	}
	for _, n := range rep.Nodes {
		fmt.Fprintln(c.out, control.Printable(nodeAnswer(n)))
	}
	return nil
}

// findingStyle returns the colour of a record.
func findingStyle(f control.Finding) string {
	for start, style := range map[string]string{"held": styleWaits, "not enforced": styleBad, "lifted": styleLifted, "cancelled": styleLifted} {
		if strings.HasPrefix(f.Status, start) {
			return style
		}
	}
	return ""
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
	if f.Dropped != nil {
		fmt.Fprintf(&b, "; has dropped %s, %s", plural(int(f.Packets), "packet", "packets"), plural(int(f.Bytes), "byte", "bytes"))
	}
	return b.String()
}

func (c *command) watch(ctx *cli.Context) error {
	routes, ok, err := exabgpOptions(ctx)
	if err != nil {
		return err
	}
	if ok {
		return c.watchExaBGP(ctx.Context, routes)
	}
	asJSON := ctx.Bool("json")
	return c.client().Watch(ctx.Context, func(e control.Event) error {
		if asJSON {
			if err := writeObject(c.out, e); err != nil {
				return err
			}
		} else {
			c.out.WriteString(c.screen.paint(eventStyles[e.Name], eventLine(e)) + "\n")
		}
		return c.out.Flush() // followers do not want to wait
	})
}

// eventStyles are the colours of events.
var eventStyles = map[string]string{
	control.StateNotEnforced: styleBad, control.StateHeld: styleWaits, "unban": styleLifted, "allow": styleLifted,
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
	return control.Printable(b.String())
}

// ago returns a past duration as text for people.
func ago(seconds float64) string { return span(time.Duration(seconds * float64(time.Second))) }
