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
	rep, err := c.client().Invite(ctx.Context, req)
	if err != nil {
		return err
	}
	if ctx.Bool("json") {
		return writeObject(c.out, rep)
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
