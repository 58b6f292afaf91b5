// Command meshban shares bans of IP addresses among a fleet of servers.
package main

import (
	"os"

	"github.com/meshban/meshban/cmd/meshban/internal/cli"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version string

func main() { os.Exit(cli.Main(version)) }
