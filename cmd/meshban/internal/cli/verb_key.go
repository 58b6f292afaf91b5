package cli

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func (c *command) key(ctx *cli.Context) error {
	action, rest := ctx.Args().First(), ctx.Args().Tail()
	switch {
	case action == "list" && len(rest) == 0:
		return c.keyList(ctx)
	case action == "list":
		return usagef("meshban key list", "list takes no name")
	case action != "add" && action != "delete":
		return usagef("meshban key list", "write add, list or delete after key")
	case len(rest) != 1:
		return usagef("meshban key "+action+" web1", "%s takes one name", action)
	case action == "add":
		return c.keyAdd(ctx, rest[0])
	}
	rep, err := c.client().DeleteKey(ctx.Context, control.DeleteKeyRequest{Name: rest[0]})
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	fmt.Fprintln(c.out, rep.Name)
	return nil
}

func (c *command) keyAdd(ctx *cli.Context, name string) error {
	v := values{ctx: ctx}
	k := apikey.Key{Name: name, May: words(cmp.Or(ctx.String("may"), apikey.Read)), Rate: v.number("rate", 1, apikey.MaxRate), Sources: words(ctx.String("sources"))}
	switch family := ctx.String("family"); family {
	case "":
	case "4", "6":
		k.Family = int(family[0] - '0')
	default:
		return usagef("write --family 4 or --family 6", "%q is not a family of addresses", family)
	}
	if v.err != nil {
		return v.err
	}
	if err := k.Check(); err != nil {
		return usagef("", "%v", err)
	}
	rep, err := c.client().AddKey(ctx.Context, control.AddKeyRequest{Key: k})
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	fmt.Fprintln(c.out, rep.Key)
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	if rep.Listen == "" {
		tellHint(c.err, `nothing listens yet: write `+"`api: {listen: \"127.0.0.1:8080\"}`"+` into meshban.yaml and restart the agent`)
		return nil
	}
	tellHint(c.err, "shown only now; the listener is at "+rep.Listen+", see `meshban help api`")
	return nil
}

// words returns the items of a comma list.
func words(list string) (all []string) {
	for word := range strings.SplitSeq(list, ",") {
		if word = strings.TrimSpace(word); word != "" {
			all = append(all, word)
		}
	}
	return all
}

func (c *command) keyList(ctx *cli.Context) error {
	rep, err := c.client().Keys(ctx.Context)
	if done, err := c.answered(ctx, rep, err); done {
		return err
	}
	now := c.now()
	t := c.newTable("NAME", "MAY", "RATE", "READS", "LAST USE", "FROM", "AGENT", "VERSION")
	for _, k := range rep.Keys {
		used, from := "never", "-"
		if !k.Use.At.IsZero() {
			used, from = span(now.Sub(k.Use.At))+" ago", k.Use.Addr.String()
		}
		if err := t.row(k.Name, strings.Join(k.May, ","), strconv.Itoa(k.Rate), readsOf(k), used, from, cmp.Or(k.Use.Agent, "-"), cmp.Or(k.Use.Version, "-")); err != nil {
			return err
		}
	}
	if err := t.close(); err != nil {
		return err
	}
	switch {
	case len(rep.Keys) == 0:
		tellHint(c.err, "there is no key: `meshban key add NAME` makes one")
	case rep.Listen == "":
		tellHint(c.err, "the listener is off: `api: {listen: \"127.0.0.1:8080\"}` in meshban.yaml turns it on at the next start")
	}
	if text := control.NotTold(rep.LeftOut, rep.RangesLeftOut); text != "" {
		fmt.Fprintf(c.err, "meshban: %s\n", text)
	}
	return nil
}

// readsOf returns what a key reads, as its flags say it.
func readsOf(k apikey.Key) string {
	if !k.Can(apikey.Read) {
		return "-"
	}
	var parts []string
	if len(k.Sources) > 0 {
		parts = append(parts, strings.Join(k.Sources, ","))
	}
	if k.Family != 0 {
		parts = append(parts, fmt.Sprintf("IPv%d", k.Family))
	}
	return cmp.Or(strings.Join(parts, " "), "all")
}
