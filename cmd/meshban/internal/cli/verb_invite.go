package cli

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// maxToken bounds a token read from stdin, in bytes.
const maxToken = 4_096

func (c *command) invite(ctx *cli.Context) error {
	v := values{ctx: ctx}
	req := control.InviteRequest{Uses: v.number("uses", 1, control.MaxInviteUses), For: v.duration("for"), Caps: v.caps()}
	if v.err != nil {
		return v.err
	}
	if list, cancel := ctx.Bool("list"), ctx.IsSet("cancel"); list || cancel {
		switch {
		case list && cancel || ctx.IsSet("uses") || ctx.IsSet("for") || req.Caps != (control.Caps{}):
			return usagef("meshban invite --list, then meshban invite --cancel ID", "--list and --cancel go with no other flag")
		case list:
			return c.inviteList(ctx)
		}
		return c.inviteCancel(ctx, ctx.String("cancel"))
	}
	rep, err := c.client().Invite(ctx.Context, req)
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	fmt.Fprintln(c.out, rep.Token)
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	tellHint(c.err, fmt.Sprintf("good for %s until %s; on the other machine: sudo meshban join TOKEN",
		plural(rep.Uses, "machine", "machines"), rep.Expires.String()))
	return nil
}

// inviteList shows the tokens that can still be used.
func (c *command) inviteList(ctx *cli.Context) error {
	list, err := c.client().Invitations(ctx.Context)
	if err != nil {
		return err
	}
	if ctx.Bool("json") {
		for _, i := range list {
			if err := writeObject(c.out, i); err != nil {
				return err
			}
		}
		return nil
	}
	now := c.now()
	t := c.newTable("ID", "USED", "LEFT", "CAPS")
	for _, i := range list {
		if err := t.row(i.ID, fmt.Sprintf("%d of %d", i.Used, i.Uses), span(i.Expires.Sub(now)), i.Caps.String()); err != nil {
			return err
		}
	}
	if err := t.close(); err != nil {
		return err
	}
	if len(list) == 0 {
		tellHint(c.err, "no token of this node can be used: `meshban invite` makes one")
	}
	return nil
}

// inviteCancel ends a token.
func (c *command) inviteCancel(ctx *cli.Context, id string) error {
	rep, err := c.client().CancelInvite(ctx.Context, control.CancelInviteRequest{ID: id})
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	fmt.Fprintln(c.out, rep.ID)
	tellHint(c.err, "it lets in nobody any more; whom it has let in, stays: `meshban revoke NODE` excludes one")
	return nil
}

// firstLine reads a token from stdin.
func (c *command) firstLine() (string, error) {
	line, err := bufio.NewReader(io.LimitReader(c.in, maxToken)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read stdin: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", usagef("meshban invite prints one, on a node of the mesh", "there is no token on stdin")
	}
	return line, nil
}
