package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// drill prints what each node made of a drill. It fails if one did not drop, or did not say.
func (c *command) drill(ctx *cli.Context) error {
	if err := noArgs(ctx); err != nil {
		return err
	}
	rep, err := c.client().Drill(ctx.Context, control.DrillRequest{})
	if err != nil {
		return err
	}
	if ctx.Bool("json") {
		if err := writeObject(c.out, rep); err != nil {
			return err
		}
	} else {
		t := c.newTable("NODE", "ID", "VERDICT", "IN ITS KERNEL AFTER", "WHY")
		for _, n := range rep.Nodes {
			if err := t.row(n.Name, short(n.ID), n.Verdict, milliseconds(n.LatencyMS), n.Why); err != nil {
				return err
			}
		}
		if err := t.close(); err != nil {
			return err
		}
		fmt.Fprintf(c.out, "%d of %s dropped %s", rep.Dropped, plural(len(rep.Nodes), "node", "nodes"), rep.Addr)
		if rep.MaxMS != nil {
			fmt.Fprintf(c.out, ": half had it in the kernel after %s, 95 %% after %s, the last after %s",
				milliseconds(rep.P50MS), milliseconds(rep.P95MS), milliseconds(rep.MaxMS))
		}
		fmt.Fprintln(c.out)
	}
	if rep.Failed > 0 {
		return reported{control.CodeFailed}
	}
	return nil
}

func milliseconds(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", *ms)
}

// drillText says what became of the last drill.
func drillText(d control.DrillStatus) string {
	text := fmt.Sprintf("%s, by %s: %s here", control.FormatPast(d.At), d.By, d.Verdict)
	if d.Why != "" {
		text += " (" + d.Why + ")"
	}
	if d.Nodes > 0 {
		text += fmt.Sprintf("; %d of %s dropped", d.Dropped, plural(d.Nodes, "node", "nodes"))
	}
	if d.Failed > 0 {
		text += fmt.Sprintf(", %d failed", d.Failed)
	}
	return text
}
