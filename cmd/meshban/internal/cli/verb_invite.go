package cli

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// maxToken bounds a token read from stdin, in bytes.
const maxToken = 4_096

func (c *command) inviteVerb() *verb {
	return &verb{
		name: "invite", short: "print a token with which a machine can join",
		long: `Prints one token on stdout. Whoever has it gets the key of the mesh and a certificate:
treat it like a password, and keep its time short. It needs the key of the mesh's
authority (ca.key, where the mesh began).

The other flags are caps: what others take from the machines that it lets in, at most.
They are part of the certificate. Where a node's config is stricter, that counts there.`,
		flags: slices.Concat([]cli.Flag{
			text("uses", fmt.Sprintf("`N` how many machines may use it, 1 to %d (default: 1)", control.MaxInviteUses)),
			text("for", "`D` how long it is good: 10m, 1h, 7d (default: 1h)"),
		}, capsFlags()),
		examples: `meshban invite
meshban invite --uses 20 --for 24h
meshban invite --rate 60 --active 10000 --widest-ipv4 32 --no-unban-any --no-import
meshban invite | ssh web2 sudo meshban join -`,
		action: c.invite,
	}
}

func (c *command) invite(ctx *cli.Context) error {
	if err := noArgs(ctx); err != nil {
		return err
	}
	v := values{ctx: ctx}
	req := control.InviteRequest{Uses: v.number("uses", 1, control.MaxInviteUses), For: v.duration("for"), Caps: v.caps()}
	if v.err != nil {
		return v.err
	}
	rep, err := c.client().Invite(ctx.Context, req)
	if err != nil {
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
