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
	ctx *cli.Context, all []netip.Prefix, ask func(context.Context, []netip.Prefix) (control.ResultsReply, error),
	done func(control.Result) string,
) error {
	asJSON := ctx.Bool("json")
	var worst control.Code
	var hints []string
	for some := range slices.Chunk(all, control.MaxAddrs) {
		rep, err := ask(ctx.Context, some)
		if err != nil {
			return err
		}
		for _, r := range rep.Results {
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
					fmt.Fprintf(c.err, "meshban: %s: %s\n", r.Prefix.String(), control.Printable(r.Note))
					hints = addHint(hints, r.Hint)
				}
				continue
			}
			worst = worse(worst, r.Err.Code)
			fmt.Fprintf(c.err, "meshban: error: %s\n", refusal(r))
			hints = addHint(hints, r.Err.Hint)
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

// addHint adds a hint, unless it is there or there are many.
func addHint(hints []string, hint string) []string {
	if hint == "" || slices.Contains(hints, hint) || len(hints) >= maxHints {
		return hints
	}
	return append(hints, hint)
}

// answered reports whether a verb ends with an answer: with its error, or since it was printed as JSON.
func (c *command) answered(ctx *cli.Context, answer any, err error) (done bool, _ error) {
	if err != nil || !ctx.Bool("json") {
		return err != nil, err
	}
	return true, writeObject(c.out, answer)
}

// maxHints bounds the different hints after the refusals of one command.
const maxHints = 3

// refusal returns the address, what is wrong, and by which rule.
func refusal(r control.Result) string {
	text := byRule(r.Err.Message, r.Err)
	if addr := r.Prefix.String(); !strings.Contains(text, addr) {
		text = addr + ": " + text
	}
	return control.Printable(text)
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
