// Package cli turns argv into a request to the agent or an action on this machine, and prints the answer as text.
package cli

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"github.com/meshban/meshban/mesh/pki"
)

// Main does what os.Args ask for and returns the exit code. build is the version set by the build; if it is "", the
// version of the sources is used.
func Main(build string) int {
	version = build
	return run(wire())
}

// run does what the process was asked for and returns its exit code. It owns the signals: the first SIGINT or SIGTERM
// ends the context, the second ends the process.
func run(acts actions) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	c := newCommand(acts, os.Stdin, os.Stdout, os.Stderr)
	c.hangup = func() <-chan os.Signal {
		reload := make(chan os.Signal, 1) // the runtime sends; full = a reload is due anyway
		signal.Notify(reload, syscall.SIGHUP)
		return reload
	}
	return c.run(ctx, hideTokens(os.Args[1:]))
}

// hideTokens returns a copy of argv and blanks the tokens in argv itself, which every user of this machine can read in
// the process list: a token enrols whoever uses it first.
func hideTokens(argv []string) []string {
	args := slices.Clone(argv)
	for i, arg := range argv {
		if !strings.HasPrefix(arg, pki.TokenPrefix) {
			continue
		}
		args[i] = strings.Clone(arg)
		shown := unsafe.Slice(unsafe.StringData(arg), len(arg)) // the kernel's copy: Go's arguments share that memory
		for j := range shown[len(pki.TokenPrefix):] {
			shown[len(pki.TokenPrefix)+j] = '.'
		}
	}
	return args
}
