package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) pause(ctx *cli.Context) error {
	const example = "`meshban pause 10m`, or `meshban pause off`"
	arg, err := oneArg(ctx, "a length of time, or off", example)
	if err != nil {
		return err
	}
	v := values{ctx: ctx}
	req := control.PauseRequest{Off: arg == "off", All: ctx.Bool("all"), Reason: v.reason(), DryRun: true}
	if v.err != nil {
		return v.err
	}
	if !req.Off {
		if req.For, err = pauseLength(arg, req.All); err != nil {
			return err
		}
	}
	dry := ctx.Bool("dry-run")
	if dry || req.All {
		preview, err := c.client().Pause(ctx.Context, req)
		switch {
		case err != nil:
			return err
		case dry && ctx.Bool("json"):
			return writeObject(c.out, preview)
		case dry:
			fmt.Fprintf(c.out, "meshban: %s\n", pausePreview(preview))
			return nil
		}
		fmt.Fprintf(c.err, "meshban: %s\n", pausePreview(preview))
		if err := c.ask("go on?", ctx.Bool("yes")); err != nil {
			return err
		}
	}
	req.DryRun = false
	rep, err := c.client().Pause(ctx.Context, req)
	if err != nil {
		return err
	}
	return c.pauseReply(ctx, rep)
}

func pauseLength(arg string, all bool) (control.Duration, error) {
	length, most := time.Duration(0), control.MaxPause
	if all {
		most = control.MaxPauseAll
	}
	remedy := "write 10m, or another length of up to " + config.FormatDuration(most) + ", or off"
	length, err := config.ParseDuration(arg)
	if err != nil {
		return 0, usagef(remedy, "%q is neither a length of time nor off", arg)
	}
	if length > most {
		return 0, usagef(remedy, "%s is too long for a pause", config.FormatDuration(length))
	}
	return control.Duration(length), nil
}

// pausePreview returns what a pause or its end does.
func pausePreview(rep control.PauseReply) string {
	where := "this node"
	if rep.All {
		where = "every node (" + plural(rep.Nodes, "lives", "live") + ")"
	}
	if rep.Until.IsZero() {
		return fmt.Sprintf("%s drops again what is banned, here %s", where, plural(rep.Bans, "ban", "bans"))
	}
	return fmt.Sprintf("%s drops nothing until %s: it lets through what is banned, here %s", where, rep.Until, plural(rep.Bans, "ban", "bans"))
}

// pauseReply prints what was done.
func (c *command) pauseReply(ctx *cli.Context, rep control.PauseReply) error {
	switch {
	case ctx.Bool("json"):
		if err := writeObject(c.out, rep); err != nil {
			return err
		}
	case rep.Until.IsZero():
		fmt.Fprintln(c.out, "not paused")
	default:
		fmt.Fprintf(c.out, "paused until %s\n", rep.Until)
	}
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	if rep.Note != "" {
		fmt.Fprintf(c.err, "meshban: %s\n", control.Printable(rep.Note))
	}
	if len(rep.Waiting) > 0 {
		fmt.Fprintf(c.err, "meshban: not confirmed by %s; they follow when they hear of it\n", control.Printable(strings.Join(rep.Waiting, ", ")))
	}
	if !rep.Until.IsZero() {
		off := "meshban pause off"
		if rep.All {
			off += " --all"
		}
		tellHint(c.err, "`"+off+"` ends it sooner; what fail2ban and others drop by themselves is still dropped")
	}
	return nil
}
