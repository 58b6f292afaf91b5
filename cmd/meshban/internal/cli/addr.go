package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/banlist"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// maxListed bounds the addresses of a list on stdin if all are checked before the first is sent. import has no such
// bound.
const maxListed = 100_000

// parseAddr reads an address or CIDR as a person types it.
func parseAddr(s string) (netip.Prefix, error) {
	p, err := config.ParsePrefix(s)
	if err == nil {
		return p, nil
	}
	bad, ok := errors.AsType[*config.Error](err)
	if !ok {
		return p, usagef("", "%v", err)
	}
	return p, usagef(addrHint(s, bad.Remedy), "%s", bad.Problem)
}

// addrHint returns a hint for the usual mistakes.
func addrHint(s, hint string) string {
	if _, err := netip.ParseAddrPort(s); err == nil {
		return "ports go into --port"
	}
	if bare, ok := strings.CutPrefix(s, "["); ok {
		if _, err := netip.ParseAddr(strings.TrimSuffix(bare, "]")); err == nil {
			return "write it without the brackets"
		}
	}
	if first, last, ok := strings.Cut(s, "-"); ok {
		_, err1 := netip.ParseAddr(first)
		_, err2 := netip.ParseAddr(last)
		if err1 == nil && err2 == nil {
			return "a range has to be written as CIDRs"
		}
	}
	if strings.Contains(s, ".") && strings.ContainsAny(s, "ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ") && !strings.Contains(s, ":") {
		return "names are never looked up: write the address itself"
	}
	return hint
}

// addrs reads the arguments of a verb; "-" stands for a list on stdin. All are checked before any is used. An empty
// list on stdin yields none and no error.
func (c *command) addrs(ctx *cli.Context) ([]netip.Prefix, error) {
	name := ctx.Command.Name
	if !ctx.Args().Present() {
		return nil, usagef(fmt.Sprintf("for example: meshban %s 192.0.2.7", name), "%s needs an address", name)
	}
	return c.parseAddrs(ctx.Args().Slice())
}

// parseAddrs is addrs for the given arguments.
func (c *command) parseAddrs(args []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	stdin := false
	for _, arg := range args {
		if arg == "-" {
			if stdin {
				return nil, usagef("", `"-" can stand there once`)
			}
			stdin = true
			listed, err := c.listed()
			if err != nil {
				return nil, err
			}
			all = append(all, listed...)
			continue
		}
		p, err := parseAddr(arg)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(args) > 0 && len(all) == 0 {
		fmt.Fprintln(c.err, "meshban: the list on stdin is empty")
	}
	return all, nil
}

// listed reads the list on stdin.
func (c *command) listed() ([]netip.Prefix, error) {
	list, err := banlist.Read(c.in, nil)
	if e, ok := errors.AsType[*banlist.Error](err); ok {
		return nil, usagef(e.Remedy, "%s%s", placeIn("stdin", e), e.Problem)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("read stdin: %w", err)
	case len(list.Entries) > maxListed:
		return nil, usagef("use `meshban import -`", "the list on stdin has more than %s addresses", control.Count(maxListed))
	case list.Masked > 0:
		return nil, usagef("write the network, or the one address", "stdin: host bits are set: %s", list.Example)
	}
	all := make([]netip.Prefix, len(list.Entries))
	for i, e := range list.Entries {
		if e.Ports != "" {
			return nil, usagef("use `meshban import -`", "stdin: the ban of %s is limited to ports %s", control.FormatPrefix(e.Prefix), e.Ports)
		}
		all[i] = e.Prefix
	}
	return all, nil
}

// placeIn returns where an error is, as the start of a message.
func placeIn(file string, e *banlist.Error) string {
	if e.Line == 0 {
		return file + ": "
	}
	return fmt.Sprintf("%s:%d: ", file, e.Line)
}
