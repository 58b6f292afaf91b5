//go:build !linux

package fw

import "context"

// openers is empty: only Linux has the firewalls that this package supports.
var openers = map[string]opener{}

// Teardown removes everything of ours from the kernel, whichever backend made it, and returns what it removed. On this
// system there is nothing.
func Teardown(context.Context, Options) (removed []string, err error) { return nil, nil }

// Found finds nothing on this system.
func Found(context.Context, Options) ([]string, error) { return nil, nil }

// EmptySets returns no commands: there are no sets on this system.
func EmptySets() []string { return nil }

// Claim claims nothing: nothing is dropped on this system.
func Claim() (release func() error, squatter string, err error) {
	return func() error { return nil }, "", nil
}
