package cli

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// capsFlags say what a node's certificate allows. They have the names of the config keys.
func capsFlags() []cli.Flag {
	return []cli.Flag{
		text("rate", "`N` new bans a minute, and at once, that others take from the node"),
		text("active", "`N` bans that it may have in force"),
		text("widest-ipv4", fmt.Sprintf("`N` the widest IPv4 prefix that it may ban, %d to %d bits", config.MinWidest4, config.MaxWidest4)),
		text("widest-ipv6", fmt.Sprintf("`N` the widest IPv6 prefix, %d to %d bits", config.MinWidest6, config.MaxWidest6)),
		text("max-for", "`D` the longest ban: 10m, 1h, 7d"),
		toggle("no-unban-any", "it may not lift what others banned: unban, allow"),
		toggle("no-import", "its imports count like other bans"),
		toggle("no-drill", "other nodes take no part in its drills"),
	}
}

func parseMaxFor(s string) (control.Duration, error) {
	d, err := config.ParseDuration(s)
	if err == nil && (d < config.MinFor || d > config.MaxMaxFor || d%time.Second != 0) {
		err = &config.Error{
			Problem: fmt.Sprintf("%q is out of bounds", s),
			Remedy:  fmt.Sprintf("write whole seconds of %s to %s", config.FormatDuration(config.MinFor), config.FormatDuration(config.MaxMaxFor)),
		}
	}
	return control.Duration(d), err
}
