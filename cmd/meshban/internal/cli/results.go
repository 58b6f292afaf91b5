package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// each asks in batches that the socket accepts. It prints a line for each address that was done and an error for each
// that was not; with --json, it prints an object for each address, done or not.
func (c *command) each(
	ctx *cli.Context, all []netip.Prefix, ask func(context.Context, []netip.Prefix) ([]control.Result, error),
	done func(control.Result) string,
) error {
	asJSON := ctx.Bool("json")
	var worst control.Code
	var hints []string
	for some := range slices.Chunk(all, control.MaxAddrs) {
		results, err := ask(ctx.Context, some)
		if err != nil {
			return err
		}
		for _, r := range results {
			if asJSON {
				if err := writeObject(c.out, r); err != nil {
					return err
				}
			}
			if r.Err == nil {
				if !asJSON {
					fmt.Fprintln(c.out, done(r))
				}
				if r.Note != "" {
					fmt.Fprintf(c.err, "meshban: %s: %s\n", r.Prefix.String(), clean(r.Note))
					if r.Hint != "" && !slices.Contains(hints, r.Hint) && len(hints) < maxHints {
						hints = append(hints, r.Hint)
					}
				}
				continue
			}
			worst = worse(worst, r.Err.Code)
			fmt.Fprintf(c.err, "meshban: error: %s\n", refusal(r))
			if h := r.Err.Hint; h != "" && !slices.Contains(hints, h) && len(hints) < maxHints {
				hints = append(hints, h)
			}
		}
		if err := c.out.Flush(); err != nil {
			return fmt.Errorf("write to stdout: %w", err)
		}
	}
	for _, h := range hints {
		tellHint(c.err, h)
	}
	if worst != "" {
		return reported{worst}
	}
	return nil
}

// maxHints bounds the different hints after the refusals of one command.
const maxHints = 3

// refusal returns the address, what is wrong, and by which rule.
func refusal(r control.Result) string {
	text := byRule(r.Err.Message, r.Err)
	if addr := r.Prefix.String(); !strings.Contains(text, addr) {
		text = addr + ": " + text
	}
	return clean(text)
}

// worse returns whichever of two codes decides the exit code: failure outranks misuse, misuse a refusal, and a
// refusal nothing found.
func worse(a, b control.Code) control.Code {
	order := []control.Code{"", control.CodeNotFound, control.CodePolicy, control.CodeUsage, control.CodeFailed}
	rank := func(c control.Code) int {
		if i := slices.Index(order, c); i >= 0 {
			return i
		}
		return len(order)
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// untilText returns the end of a ban or an allow entry as text.
func untilText(r control.Result, instead string) string {
	if r.Until.IsZero() {
		return instead
	}
	return "until " + r.Until.String()
}
