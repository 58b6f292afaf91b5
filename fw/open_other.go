//go:build !linux

package fw

import "context"

// openers is empty: only Linux has the firewalls that this package speaks to.
var openers = map[string]opener{}

// Teardown takes everything of ours out of the kernel, whichever backend made it, and says what it removed. Here there
// is nothing.
func Teardown(context.Context, Options) (removed []string, err error) { return nil, nil }

// Found finds nothing: here is nothing.
func Found(context.Context, Options) ([]string, error) { return nil, nil }

// EmptySets gives no commands: here are no sets.
func EmptySets() []string { return nil }

// Claim claims nothing: here nothing is dropped.
func Claim() (release func() error, squatter string, err error) {
	return func() error { return nil }, "", nil
}
