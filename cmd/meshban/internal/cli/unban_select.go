package cli

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

const (
	// minIDDigits is how many digits of an id identify a node.
	minIDDigits = 8
	// shownLifts is how many addresses are listed before the question.
	shownLifts = 5
)

var errEmptySelection = usagef("meshban list shows nodes and sources", "--by and --source need a text")

// selection says which bans are meant: those to lift, if no addresses are given, or to list.
type selection struct{ by, source string }

// readSelection returns what unban's flags select, or nil without such flags.
func readSelection(ctx *cli.Context) (*selection, error) {
	s := &selection{by: ctx.String("by"), source: ctx.String("source")}
	all, narrow := ctx.Bool("all"), ctx.IsSet("by") || ctx.IsSet("source")
	switch {
	case !all && !narrow:
		return nil, nil
	case all && narrow:
		return nil, usagef("leave out --all", "--all lifts what --by and --source select, and all the rest")
	case ctx.Args().Present():
		return nil, usagef("give addresses, or flags that select", "addresses do not go with --all, --by and --source")
	case ctx.IsSet("by") && s.by == "" || ctx.IsSet("source") && s.source == "":
		return nil, errEmptySelection
	}
	return s, nil
}

// matches reports whether a ban is selected. A source such as line also selects line:sshd.
func (s *selection) matches(e control.ListEntry) bool {
	isID := func(id string) bool { return len(s.by) >= minIDDigits && strings.HasPrefix(id, s.by) }
	return (s.by == "" || slices.Contains(e.Origins, s.by) || slices.ContainsFunc(e.OriginIDs, isID)) &&
		(s.source == "" || fromSource(e.Source, s.source))
}

// fromSource reports whether a ban's source is want or belongs to it: line:sshd belongs to line, and import:a,b to
// import:b.
func fromSource(source, want string) bool {
	if source == want || strings.HasPrefix(source, want+":") {
		return true
	}
	lists, ok1 := strings.CutPrefix(source, sourceList)
	name, ok2 := strings.CutPrefix(want, sourceList)
	return ok1 && ok2 && slices.Contains(strings.Split(lists, ","), name)
}

// selected returns the addresses to lift, after showing them and asking.
func (c *command) selected(ctx *cli.Context, s *selection) ([]netip.Prefix, error) {
	all, err := c.matching(ctx.Context, s)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &control.Error{Code: control.CodeNotFound, Message: "no ban matches", Hint: "`meshban list` shows what is banned, by whom and from which source"}
	}
	if ctx.Bool("dry-run") {
		if ctx.Bool("json") {
			for _, p := range all {
				if err := writeObject(c.out, control.Result{Prefix: control.PrefixOf(p)}); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}
		showLifts(c.out, all, len(all))
		return nil, nil
	}
	showLifts(c.err, all, shownLifts)
	return all, c.ask("lift "+plural(len(all), "ban", "bans")+" on every node?", ctx.Bool("yes"))
}

// matching returns the addresses of the bans that s selects.
func (c *command) matching(ctx context.Context, s *selection) ([]netip.Prefix, error) {
	var all []netip.Prefix
	err := c.client().List(ctx, false, func(e control.ListEntry) error {
		if s.matches(e) {
			all = append(all, e.Prefix.Prefix)
		}
		return nil
	})
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all), err // a list entry exists for each set of ports
}

// showLifts lists up to most of the addresses.
func showLifts(out io.Writer, all []netip.Prefix, most int) {
	fmt.Fprintf(out, "meshban: this lifts %s, and whatever is banned inside them, on every node:\n", plural(len(all), "address", "addresses"))
	for _, p := range all[:min(len(all), most)] {
		fmt.Fprintf(out, "  %s\n", control.FormatPrefix(p))
	}
	if more := len(all) - most; more > 0 {
		fmt.Fprintf(out, "  and %s more\n", control.Count(more))
	}
}
