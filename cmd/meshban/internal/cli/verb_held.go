package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) held(ctx *cli.Context) error {
	all, from := ctx.Bool("all"), ctx.String("from")
	action, addrs := ctx.Args().First(), ctx.Args().Tail()
	switch {
	case action == "list" && len(addrs) == 0 && !all:
		return c.heldList(ctx, from)
	case action == "list":
		return usagef("meshban held list", "list takes neither addresses nor --all")
	case action != control.ActionRelease && action != control.ActionDrop:
		return usagef("meshban held list", "write list, release or drop after held")
	case all && len(addrs) > 0:
		return usagef("meshban held "+action+" --all", "--all takes no addresses")
	case !all && len(addrs) == 0 && from == "":
		return usagef("meshban held "+action+" --all", "%s needs addresses, --from NODE or --all", action)
	}
	prefixes, err := c.parseAddrs(addrs)
	switch {
	case err != nil:
		return err
	case len(addrs) > 0 && len(prefixes) == 0:
		return nil // an empty list on stdin must not mean all
	case len(prefixes) > control.MaxAddrs:
		return usagef("decide about CIDRs, --from NODE or --all", "%s takes at most %s addresses", action, control.Count(control.MaxAddrs))
	}
	rep, err := c.client().Decide(ctx.Context, control.DecideRequest{Action: action, Prefixes: prefixes, Origin: from})
	if err != nil {
		return err
	}
	if ctx.Bool("json") {
		return writeObject(c.out, map[string]any{"action": action, "decided": rep.Decided})
	}
	fmt.Fprintf(c.out, "%s %s\n", plural(rep.Decided, "ban", "bans"), map[string]string{control.ActionRelease: "released", control.ActionDrop: "dropped"}[action])
	return nil
}

// saidBy reports whether from, a name or an id, means the node that published e; "" means every node.
func saidBy(e control.HeldEntry, from string) bool {
	name, _, _ := strings.Cut(e.Origin, " (") // a name that is not unique is followed by an id
	return from == "" || from == e.Origin || from == name || len(from) >= control.MinNodeID && strings.HasPrefix(e.ID, from)
}

func (c *command) heldList(ctx *cli.Context, from string) error {
	now := c.now()
	t := c.newTable("ADDRESS", "PORTS", "LEFT", "FROM", "HELD BY", "SOURCE", "REASON")
	return show(c, ctx, t, "nothing is held", func(e control.HeldEntry) []string {
		address := e.Prefix.String()
		if e.Kind != "" && e.Kind != "ban" {
			address = e.Kind + " " + address
		}
		return []string{address, cmp.Or(e.Ports, "all"), span(e.Until.Sub(now)), e.Origin, e.By, cmp.Or(e.Source, "-"), e.Reason}
	}, func(ctx context.Context, yield func(control.HeldEntry) error) error {
		return c.client().Held(ctx, func(e control.HeldEntry) error {
			if !saidBy(e, from) {
				return nil
			}
			return yield(e)
		})
	})
}
