//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshban/meshban/test/rig"
)

// told is what a hook gives to a program.
type told struct {
	Node   string
	Kind   string
	Counts map[string]int
	Events []event
	More   int
}

const toldFile = "/var/log/told.jsonl"

// told returns what the hook of a node has told.
func (n *node) told(t testing.TB) []told {
	t.Helper()
	text, err := n.ReadFile(toldFile)
	if err != nil {
		return nil // nothing yet
	}
	return must(jsonLines[told](text))(t)
}

// With the same hook on each node, what happens is told once: 5,000 bans by the node that made them, in one message, and a
// member that has left by one of the others.
func TestHooks(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3, config: `
hooks:
- name: program
  on: [ban, leave]
  every: 20s
  exec: [/bin/sh, -c, "cat >>` + toldFile + `"]
- {name: chat, on: [revoke], webhook: {url_file: /etc/chat.url, preset: slack, tries: 1}}
`})
	a, b, c := m.nodes[0], m.nodes[1], m.nodes[2]

	var list strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&list, "%v\n", netip.AddrFrom4([4]byte{203, 0, byte(i / 250), byte(i%250 + 1)}))
	}
	r := must(a.RunCmd(rig.Cmd{Argv: []string{"meshban", "ban", "-", "--for", "1h"}, Stdin: list.String()}))(t)
	if r.Code != exitDone {
		t.Fatalf("ban: %s", r.Stderr)
	}
	own := fresh().String()
	b.run(t, "ban", own, "--for", "1h")
	eventually(t, startLimit, func() error {
		for _, n := range m.nodes {
			if got := len(n.told(t)); got == 0 && n != c {
				return fmt.Errorf("%s has told nothing", n.Name)
			}
		}
		return nil
	})
	got := a.told(t)
	if len(got) != 1 || got[0].Node != a.Name || got[0].Counts["ban"] != 5000 || len(got[0].Events) != 20 || got[0].More != 4980 {
		t.Errorf("%s told %+v", a.Name, got)
	}
	if got := b.told(t); len(got) != 1 || got[0].Counts["ban"] != 1 || canonical(got[0].Events[0].Prefix) != canonical(own) {
		t.Errorf("%s told %+v", b.Name, got)
	}
	if got := c.told(t); len(got) != 0 {
		t.Errorf("%s told what began elsewhere: %+v", c.Name, got)
	}

	c.stop(t)
	left := func() (all []told) {
		for _, n := range []*node{a, b} {
			all = append(all, n.told(t)[1:]...)
		}
		return all
	}
	eventually(t, startLimit, func() error {
		if len(left()) == 0 {
			return fmt.Errorf("no hook has reported that %s left", c.Name)
		}
		return nil
	})
	if all := left(); len(all) != 1 || all[0].Counts["leave"] != 1 || all[0].Events[0].Origin != c.Name {
		t.Errorf("told of the member that left: %+v", all)
	}
	testHook(t, a)
}

// testHook tries both hooks of a node by hand.
func testHook(t *testing.T, n *node) {
	n.run(t, "hook", "test", "program")
	if all := n.told(t); all[len(all)-1].Kind != "test" {
		t.Errorf("the test has told %+v", all[len(all)-1])
	}
	if r := n.exit(t, exitFailed, "hook", "test", "chat"); !strings.Contains(r.Stderr, "/etc/chat.url") {
		t.Errorf("%s", r.Stderr)
	}
	check(t, n.WriteFile("/etc/chat.url", "http://127.0.0.1:9/SECRET\n"))
	if r := n.exit(t, exitFailed, "hook", "test", "chat"); !strings.Contains(r.Stderr, "connection refused") || strings.Contains(r.Stderr, "SECRET") {
		t.Errorf("%s", r.Stderr)
	}
	n.exit(t, exitNotFound, "hook", "test", "nosuch")
	if problems := n.status(t).Problems; slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, "SECRET") }) {
		t.Errorf("%q", problems)
	}
}
