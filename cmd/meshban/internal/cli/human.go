package cli

import (
	"fmt"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// span formats a duration by its two largest units, rounded down: 6d23h, 1h30m, 45s. (Ends are rounded up instead.)
func span(d time.Duration) string {
	if d < time.Second {
		return "0s"
	}
	unit := time.Second // the smaller of the two
	switch {
	case d >= 24*time.Hour:
		unit = time.Hour
	case d >= time.Hour:
		unit = time.Minute
	}
	return config.FormatDuration(d.Truncate(unit))
}

// size writes a number of bytes with its largest unit, rounded down.
func size(bytes uint64) string {
	for i, unit := range [...]string{"TiB", "GiB", "MiB", "KiB"} {
		if one := uint64(1) << (40 - 10*i); bytes >= one {
			return control.Count(bytes/one) + " " + unit
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}

// plural writes a count and its noun: 1 address, 2 addresses.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return control.Count(n) + " " + many
}
