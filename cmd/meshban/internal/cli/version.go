package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// version is the value given to Main.
var version string

// versionText returns the version shown to peers and people.
func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "dev-" + s.Value[:min(len(s.Value), 12)]
		}
	}
	return "dev"
}

func (c *command) versionVerb() *verb {
	return &verb{
		name: "version", short: "print the version", local: true,
		long:     `Prints the version of this program, and what it was built with and for.`,
		examples: `meshban version`,
		action:   c.version,
	}
}

func (c *command) version(*cli.Context) error {
	_, err := fmt.Fprintf(c.out, "meshban %s (%s %s/%s)\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
