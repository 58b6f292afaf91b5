//go:build linux && netns

package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
	"golang.org/x/sys/unix"
)

// auditEntry is a line of audit --json.
type auditEntry struct {
	Time     time.Time
	What     string
	Prefixes []string
	Via      string
	User     string
	UID      *uint32
	PID      int
	Node     string
	NodeID   string `json:"node_id"`
	Reason   string
	Source   string
}

// audit returns the node's audit entries about addr, or all if addr is "".
func (n *node) audit(t testing.TB, addr string) []auditEntry {
	t.Helper()
	all := must(jsonLines[auditEntry](n.run(t, "audit", "--json")))(t)
	return slices.DeleteFunc(all, func(e auditEntry) bool { return addr != "" && !slices.Contains(e.Prefixes, addr) })
}

// Every change is logged with who, what, when and why, on the node that decided it and on the others.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, config: "control: {write_group: changers}", before: func(n *node) { n.passable(t) }})
	a, b := m.nodes[0], m.nodes[1]
	id := a.status(t).ID
	uid := func(n uint32) *uint32 { return &n }
	for _, c := range []struct {
		name string
		do   func(addr string)
		want auditEntry // on a
	}{
		{"ok: root bans", func(addr string) { a.run(t, "ban", addr, "--reason", "scans") },
			auditEntry{What: "ban", Via: "socket", User: "root", UID: uid(0), Reason: "scans", Source: "cli"}},
		{"ok: a member of the write group bans", func(addr string) { a.mayOrNot(t, exitDone, []int{changers}, "ban", addr, "--reason", "mine") },
			auditEntry{What: "ban", Via: "socket", User: "nobody", UID: uid(nobody), Reason: "mine", Source: "cli"}},
		{"ok: a line bans", func(addr string) { must(a.AppendFile(lineFile, "HOST "+addr+" PORT 22 jail=sshd\n"))(t) },
			auditEntry{What: "ban", Via: "lines"}},
		{"ok: root allows", func(addr string) { a.run(t, "allow", addr, "--reason", "office") },
			auditEntry{What: "allow", Via: "socket", User: "root", UID: uid(0), Reason: "office", Source: "cli"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, begin := fresh().String(), time.Now()
			c.do(addr)
			for _, n := range m.nodes {
				var got []auditEntry
				eventually(t, banLimit, func() error {
					if got = n.audit(t, addr); len(got) != 1 {
						return fmt.Errorf("%s has %d entries about %s: %+v", n.Name, len(got), addr, got)
					}
					return nil
				})
				e, want := got[0], c.want
				if e.What != want.What || e.Node != a.Name || e.NodeID != id || want.Reason != "" && e.Reason != want.Reason ||
					want.Source != "" && e.Source != want.Source {
					t.Errorf("%s: %+v, want %+v", n.Name, e, want)
				}
				if e.Time.Before(begin.Add(-time.Second)) || e.Time.After(time.Now().Add(time.Second)) {
					t.Errorf("%s: at %v, begun at %v", n.Name, e.Time, begin)
				}
				if n == b {
					want = auditEntry{Via: "mesh"} // a user of one machine means nothing on another
				}
				if e.Via != want.Via || e.User != want.User || (e.UID == nil) != (want.UID == nil) || e.UID != nil && *e.UID != *want.UID ||
					(e.PID == 0) != (want.UID == nil) {
					t.Errorf("%s: by %+v, want %+v", n.Name, e, want)
				}
			}
		})
	}

	// A refused command changes nothing and is not logged.
	before := len(a.audit(t, ""))
	a.exit(t, exitPolicy, "ban", "127.0.0.1")
	a.mayOrNot(t, exitPolicy, nil, "ban", "203.0.113.9")
	if got := a.audit(t, ""); len(got) != before {
		t.Errorf("something refused was written down: %+v", got[before:])
	}
	// An unban, a token and a new config are changes.
	src := fresh().String()
	a.run(t, "ban", src)
	b.run(t, "unban", src, "--reason", "our scanner")
	token := strings.TrimSpace(a.run(t, "invite", "--uses", "3"))
	check(t, a.agent.Signal(unix.SIGHUP))
	eventually(t, banLimit, func() error {
		var whats []string
		for _, e := range a.audit(t, "")[before:] {
			whats = append(whats, e.What+" "+e.Via+" "+e.Node)
		}
		slices.Sort(whats)
		if want := []string{"ban socket n1", "invite socket n1", "reload signal n1", "unban mesh n2"}; !slices.Equal(whats, want) {
			return fmt.Errorf("entries %q, want %q", whats, want)
		}
		return nil
	})
	if text := must(a.ReadFile(stateDir + "/audit.jsonl"))(t); strings.Contains(text, token) {
		t.Error("the token is written down")
	}
	if mode := strings.TrimSpace(must(a.Do("stat", "-c", "%a %U", stateDir+"/audit.jsonl"))(t)); mode != "640 root" {
		t.Errorf("the audit log is %s", mode)
	}
	// The log survives the agent, even if killed, and has nothing twice.
	all := a.audit(t, "")
	a.kill(t)
	a.start(t)
	if got := a.audit(t, ""); len(got) != len(all) {
		t.Errorf("%d entries after a kill, %d before", len(got), len(all))
	}
	if out := a.run(t, "audit", "--since", "1h"); !strings.Contains(out, "nobody (65534)") || !strings.Contains(out, "node "+b.Name) {
		t.Errorf("audit prints:\n%s", out)
	}
}

// A full disk delays no ban.
func TestAuditLogOnAFullDisk(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, before: func(n *node) {
		must(n.Do("sh", "-ec", `mkdir /run/full && mount -t tmpfs -o size=4k,mode=755 full /run/full
			touch /run/full/audit.jsonl `+stateDir+`/audit.jsonl && chmod 600 /run/full/audit.jsonl
			head -c 4096 /dev/zero >/run/full/all
			mount --bind /run/full/audit.jsonl `+stateDir+`/audit.jsonl`))(t)
	}})
	a, src := m.nodes[0], fresh()
	pairs := m.watch(t, src)
	start := time.Now()
	a.run(t, "ban", src.String())
	enforced(t, pairs, start)
	eventually(t, banLimit, func() error {
		if got := strings.Join(a.status(t).Problems, "\n"); !strings.Contains(got, "not recorded") {
			return fmt.Errorf("status does not tell: %q", got)
		}
		return nil
	})
	check(t, pairs.Silent(time.Now().Add(-rig.Settle)))
}
