//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// The recipe's files, as fail2ban 1.0 needs them: an action in every jail that
// writes a line with logger beside the jail's own ban, and a jail that reads the
// line file and, having the same action, logs again every line that it reads.
const (
	recipeAction = `[Definition]
actionban = logger -s -i "HOST <ip> PORT <port>" 2>> ` + lineFile + `
`
	// shown replaces the jail's own ban, so that only meshban drops anything here.
	shownAction = `[Definition]
actionban = true
actionunban = true
`
	recipeFilter = `[Definition]
failregex = HOST <HOST> PORT
`
	recipeJails = `[DEFAULT]
banaction = shown
action = %(action_)s
         newbans[port="%(port)s"]

[newbans]
enabled = true
backend = polling
filter = newbans
logpath = ` + lineFile + `
port = 0:65535
maxretry = 1
`
)

// A fleet that runs the recipe keeps working with meshban in place of the shared
// file, without a change to its fail2ban.
func TestDropIn(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	first := m.nodes[0]
	for _, n := range m.nodes {
		check(t, n.WriteFile("/etc/fail2ban/action.d/newbans.conf", recipeAction))
		check(t, n.WriteFile("/etc/fail2ban/action.d/shown.conf", shownAction))
		check(t, n.WriteFile("/etc/fail2ban/filter.d/newbans.conf", recipeFilter))
		must(n.AppendFile(lineFile, ""))(t) // its jail needs the file
	}
	m.services(t, recipeJails+"\n"+sshdJail)
	src := fresh()
	pairs, other := m.watch(t, src), m.watch(t, fresh())
	for _, n := range m.nodes[1:] {
		check(t, m.FailLogin(src, n.Probe))
	}
	last := m.attack(t, src, first)
	at := rig.Last(must(pairs.Enforced(fail2banLimit))(t))
	t.Logf("from the last failed login to the last kernel: %v", at.Sub(last).Round(time.Millisecond))
	answering(t, other)

	// Every node's own jail reads the line and logs it again. That echo is not
	// forwarded, extends no ban, and counts as no sighting.
	var until []time.Time
	for _, n := range m.nodes {
		eventually(t, fail2banLimit, func() error {
			jails, err := n.Fail2banJails()
			if err == nil && !slices.Contains(jails["newbans"], src.String()) {
				err = fmt.Errorf("%s: the jail has not seen %v: %v", n.Name, src, jails)
			}
			return err
		})
		e, ok := n.entry(t, src.String())
		if !ok || !slices.Equal(e.Origins, []string{first.Name}) {
			t.Errorf("%s lists %+v, %v", n.Name, e, ok)
		}
		until = append(until, e.Until)
	}
	for i, got := range m.quietFiles(t, src) {
		// The line itself, and one echo by the node's own jail.
		if got != 2 {
			t.Errorf("%s has %d lines: %q", m.nodes[i].Name, got, m.nodes[i].lines(t, src))
		}
	}
	for i, n := range m.nodes {
		e, ok := n.entry(t, src.String())
		if !ok || !slices.Equal(e.Origins, []string{first.Name}) {
			t.Errorf("after the echoes, %s lists %+v, %v", n.Name, e, ok)
		}
		if s := n.status(t); i > 0 && (e.Until.After(until[i].Add(time.Second)) || s.Lines.Emitted != 1 || s.Lines.Echoes != 1) {
			t.Errorf("%s: the end moved from %v to %v; lines %+v", n.Name, until[i], e.Until, s.Lines)
		}
	}
}

// If another program logs a line that the agent emitted, that is an echo.
func TestEchoIsNoSighting(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	a, b := m.nodes[0], m.nodes[1]
	src := fresh()
	pairs := m.watch(t, src)
	enforced(t, pairs, a.write(t, src, "22 bantime=600"))
	oneLineEach(t, b, a, src)
	before, ok := b.entry(t, src.String())
	if !ok {
		t.Fatalf("%s does not list %v", b.Name, src)
	}
	for i := range 3 {
		b.write(t, src, "0:65535")
		eventually(t, banLimit, func() error {
			if s := b.status(t); s.Lines.Echoes != i+1 || s.Lines.Accepted != 0 {
				return fmt.Errorf("lines %+v", s.Lines)
			}
			return nil
		})
	}
	for _, n := range m.nodes {
		e, ok := n.entry(t, src.String())
		if !ok || !e.Until.Equal(before.Until) || !slices.Equal(e.Origins, []string{a.Name}) {
			t.Errorf("%s lists %+v, %v", n.Name, e, ok)
		}
	}
	if got := len(m.nodes[2].lines(t, src)); got != 1 {
		t.Errorf("%s has %d lines", m.nodes[2].Name, got)
	}

	// A line about another address is a sighting, whoever logs it.
	seen := netip.MustParseAddr("192.0.2.44")
	enforced(t, m.watch(t, seen), b.write(t, seen, "22"))
}
