//go:build linux && netns

package rig

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// The process's first thread, which never ends, once stayed in a node's
// namespace and kept it alive.
func TestThreadsComeHome(t *testing.T) {
	before := must(os.Readlink("/proc/self/ns/net"))(t)
	f := New(t, Options{Nodes: 1})
	for range 200 {
		check(t, f.Nodes[0].InNet(func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("on the first thread")
			}
			return nil
		}))
	}
	if after := must(os.Readlink("/proc/self/ns/net"))(t); after != before {
		t.Errorf("the process was in %s and is in %s", before, after)
	}
}
