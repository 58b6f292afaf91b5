package cli

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) revoke(ctx *cli.Context) error {
	if ctx.Args().Len() != 1 {
		return usagef("meshban revoke web3", "name one node")
	}
	v := values{ctx: ctx}
	req := control.RevokeRequest{Node: ctx.Args().First(), DryRun: true, Reason: v.reason(), Since: get(&v, "since", c.readTime)}
	if v.err != nil {
		return v.err
	}
	preview, err := c.client().Revoke(ctx.Context, req)
	if err != nil {
		return err
	}
	asJSON := ctx.Bool("json")
	switch dry := ctx.Bool("dry-run"); {
	case dry && asJSON:
		return writeObject(c.out, preview)
	case dry:
		c.revokePreview(c.out, preview, !req.Since.IsZero())
		return nil
	}
	c.revokePreview(c.err, preview, !req.Since.IsZero())
	if err := c.ask("revoke "+nodeText(preview)+"?", ctx.Bool("yes")); err != nil {
		return err
	}
	req.Node, req.DryRun = preview.ID, false // by now the name may mean another node
	rep, err := c.client().Revoke(ctx.Context, req)
	if err != nil {
		return err
	}
	if asJSON {
		return writeObject(c.out, rep)
	}
	fmt.Fprintln(c.out, rep.ID)
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	said := fmt.Sprintf("%s was revoked at %s", nodeText(rep), control.FormatPast(rep.Revoked))
	if rep.Kept > 0 {
		said += fmt.Sprintf("; %s from before stay, under this node's name", plural(rep.Kept, "ban", "bans"))
	}
	fmt.Fprintf(c.err, "meshban: %s\n", said)
	return nil
}

func nodeText(rep control.RevokeReply) string {
	return fmt.Sprintf("%s (%s)", cmp.Or(control.Printable(rep.Name), "a node without a certified name"), short(rep.ID))
}

// revokePreview writes what a revocation takes back.
func (c *command) revokePreview(out io.Writer, rep control.RevokeReply, since bool) {
	if !rep.Revoked.IsZero() {
		fmt.Fprintf(out, "meshban: %s was revoked at %s; nothing is left to take back\n", nodeText(rep), control.FormatPast(rep.Revoked))
		return
	}
	fmt.Fprintf(out, "meshban: this takes back what %s has said, on every node: %s, %s, %s\n", nodeText(rep),
		plural(rep.Live.Bans, "ban", "bans"), plural(rep.Live.Allows, "allow", "allows"), plural(rep.Live.Unbans, "unban", "unbans"))
	now := c.now()
	for _, b := range rep.Last {
		line := b.Prefix.String()
		if b.Ports != "" {
			line += " on ports " + b.Ports
		}
		line += ", came " + span(now.Sub(b.Arrived)) + " ago"
		if b.Reason != "" {
			line += fmt.Sprintf(", %q", b.Reason)
		}
		fmt.Fprintf(out, "  %s\n", control.Printable(line))
	}
	if more := rep.Live.Bans - len(rep.Last); more > 0 {
		fmt.Fprintf(out, "  and %s that came before\n", plural(more, "ban", "bans"))
	}
	if since {
		fmt.Fprintf(out, "meshban: %s that came before --since stay, under this node's name\n", plural(rep.Kept, "ban", "bans"))
	}
}

// readTime reads a time, or how long ago it was.
func (c *command) readTime(s string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	ago, err := config.ParseDuration(s)
	if err != nil {
		return time.Time{}, &config.Error{
			Problem: fmt.Sprintf("%q is neither a time nor how long ago", s), Remedy: "write it as 2026-11-22T11:02:11Z, 2h or 3d",
		}
	}
	return c.now().Add(-ago), nil
}
