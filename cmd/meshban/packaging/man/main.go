// Command man writes the manual pages, meshban(1) and meshban.yaml(5), into a folder: man FOLDER VERSION DATE. It is run
// when a package is built, not installed.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cpuguy83/go-md2man/v2/md2man"

	"github.com/meshban/meshban/cmd/meshban/internal/cli"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: man FOLDER VERSION DATE")
	}
	for name, text := range cli.ManPages(args[1], args[2]) {
		if err := os.WriteFile(filepath.Join(args[0], name), md2man.Render([]byte(text)), 0o644); err != nil {
			return err
		}
	}
	return nil
}
