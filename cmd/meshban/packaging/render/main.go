// Command render writes what a package has besides the program and the files of this folder, into a folder: the manual
// pages, meshban(1) and meshban.yaml(5), and the units of systemd. It is run when a package is built, not installed:
// render FOLDER VERSION DATE.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cpuguy83/go-md2man/v2/md2man"

	"github.com/meshban/meshban/cmd/meshban/internal/cli"
	"github.com/meshban/meshban/cmd/meshban/internal/setup"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: render FOLDER VERSION DATE")
	}
	for name, text := range cli.ManPages(args[1], args[2]) {
		if err := os.WriteFile(filepath.Join(args[0], name), md2man.Render([]byte(text)), 0o644); err != nil {
			return err
		}
	}
	units, err := setup.PackageUnits()
	if err != nil {
		return err
	}
	for _, f := range units {
		if err := os.WriteFile(filepath.Join(args[0], filepath.Base(f.Path)), f.Content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
