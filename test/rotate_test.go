//go:build linux && netns

package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	// turnLimit bounds how long a rotation may take until all live nodes have dropped the old key.
	turnLimit = 4 * time.Minute
	// pauseBetween is the time between two bans during a rotation.
	pauseBetween = 250 * time.Millisecond
)

// turned waits until nodes have dropped every key before a generation.
func turned(t *testing.T, generation int, nodes ...*node) {
	t.Helper()
	want := fmt.Sprintf("generation %d: the former ones are gone", generation)
	eventually(t, turnLimit, func() error {
		for _, n := range nodes {
			if !strings.Contains(n.run(t, "audit"), want) {
				return fmt.Errorf("%s does not tell %q\n%s", n.Name, want, n.run(t, "status"))
			}
		}
		return nil
	})
}

// The mesh's key is rotated twice, after a node was revoked and while another is down.
// Bans still work meanwhile. Afterwards, the revoked machine, which has the old key,
// neither hears nor reaches any node, and the one that was down comes back by itself,
// with all bans.
func TestRotateMeshKey(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 4})
	web1, web2, bad, away := m.nodes[0], m.nodes[1], m.nodes[2], m.nodes[3]
	heard, harm, secret, missed, after := fresh(), fresh(), fresh(), fresh(), fresh()
	watched := map[netip.Addr]rig.Pairs{}
	for _, src := range []netip.Addr{heard, harm, secret, missed, after} {
		watched[src] = m.watch(t, src)
	}
	if r := web2.exit(t, exitFailed, "rotate", "mesh-key"); !strings.Contains(r.Stderr, "ca.key") {
		t.Errorf("rotate without the authority's key: %s", r.Stderr)
	}
	away.stop(t)

	// After the revocation alone, the node still hears the mesh.
	web1.run(t, "revoke", bad.Name)
	start := time.Now()
	web1.run(t, "ban", heard.String(), "--for", "1h")
	enforced(t, watched[heard][:3], start)

	var turning []rig.Pairs
	for range 16 {
		turning = append(turning, m.watch(t, fresh()))
	}
	rotated := make(chan error, 1)
	go func() {
		for generation := range 2 {
			r, err := web1.Run("meshban", "rotate", "mesh-key")
			if err == nil && (r.Code != exitDone || strings.TrimSpace(r.Stdout) != fmt.Sprint(generation+1)) {
				err = fmt.Errorf("rotate: exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
			}
			if err != nil {
				rotated <- err
				return
			}
		}
		rotated <- nil
	}()
	worst := time.Duration(0)
	for i, pairs := range turning {
		n := []*node{web1, web2}[i%2]
		worst = max(worst, enforced(t, pairs[:2], n.write(t, pairs[0].Src, "22")))
		during(pauseBetween)
	}
	check(t, <-rotated)
	t.Logf("while the key turned, a ban took at most %.1f ms", ms(worst))
	// A node is killed while its mesh.key has three keys.
	web2.kill(t)
	web2.start(t)
	turned(t, 2, web1, web2)
	for _, n := range []*node{web1, web2} {
		if s := n.status(t); s.Mesh.KeyGeneration != 2 || len(s.Problems) > 0 {
			t.Errorf("%s: %+v", n.Name, s)
		}
	}

	shutOut := func(when string, src, own netip.Addr) {
		t.Helper()
		t.Log(when)
		start := time.Now()
		bad.exit(t, exitPolicy, "ban", own.String(), "--for", "1h") // it has effect on the revoked node alone
		enforced(t, watched[own][2:3], start)
		start = time.Now()
		web2.run(t, "ban", src.String(), "--for", "1h")
		enforced(t, watched[src][:2], start)
		during(3 * time.Second)
		answering(t, watched[own][:2])
		answering(t, watched[src][2:3])
	}
	shutOut("the revoked node neither hears nor is heard", secret, harm)
	bad.stop(t)
	bad.start(t)
	during(10 * time.Second)
	if s := bad.status(t); s.Mesh.Alive != 1 || s.Mesh.KeyGeneration != 0 || !strings.Contains(strings.Join(s.Problems, "\n"), "revoked") {
		t.Errorf("the revoked node after a restart: %+v", s)
	}
	answering(t, watched[secret][2:3])

	start = time.Now()
	web1.run(t, "ban", missed.String(), "--for", "1h")
	enforced(t, watched[missed][:2], start)
	away.start(t)
	start = time.Now()
	m.nodes = []*node{web1, web2, away}
	m.inSync(t, syncLimit)
	t.Logf("in step %.1f s after its start", time.Since(start).Seconds())
	for _, src := range []netip.Addr{heard, secret, missed} {
		enforced(t, watched[src][3:], time.Now())
	}
	if s := away.status(t); s.Mesh.KeyGeneration != 2 {
		t.Errorf("the node that was away uses key generation %d", s.Mesh.KeyGeneration)
	}
	start = time.Now()
	away.run(t, "ban", after.String(), "--for", "1h")
	enforced(t, append(watched[after][:2:2], watched[after][3]), start)
	answering(t, watched[after][2:3])
}

// A node gets a new key of its own by the steps of `meshban help trust`: its bans stay
// enforced everywhere, including its own kernel, its new bans count, and its old key no
// longer does.
func TestNewNodeKey(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3})
	web1, web2, web3 := m.nodes[0], m.nodes[1], m.nodes[2]
	banned, lifted, others, local, later, stolen := fresh(), fresh(), fresh(), fresh(), fresh(), fresh()
	watched := map[netip.Addr]rig.Pairs{}
	for _, src := range []netip.Addr{banned, lifted, others, local, later, stolen} {
		watched[src] = m.watch(t, src)
	}
	before := web3.status(t).ID
	start := time.Now()
	web3.run(t, "ban", banned.String(), lifted.String(), "--for", "1h")
	web2.run(t, "ban", others.String(), "--for", "1h")
	for _, src := range []netip.Addr{banned, lifted, others} {
		enforced(t, watched[src], start)
	}
	silent := time.Now()

	token := strings.TrimSpace(web1.run(t, "invite"))
	web3.stop(t)
	for _, file := range []string{"node.key", "node.cert", "mesh.key"} {
		shell(t, web3, "cp", stateDir+"/"+file, "/root/"+file)
	}
	if said := web3.run(t, "rotate", "node-key", token); !strings.Contains(said, before) {
		t.Errorf("rotate does not say the former id %s: %s", before, said)
	}
	web3.start(t)
	m.inSync(t, syncLimit)
	web1.run(t, "revoke", before, "--since", "1s", "--reason", "new key")
	m.inSync(t, syncLimit)
	if id := web3.status(t).ID; id == before {
		t.Fatal("the node has its old key")
	}
	during(time.Second)
	for _, src := range []netip.Addr{banned, lifted, others} {
		check(t, watched[src].Silent(silent))
	}
	start = time.Now()
	web3.run(t, "ban", later.String(), "--for", "1h")
	enforced(t, watched[later], start)
	start = time.Now()
	web3.run(t, "unban", lifted.String())
	open(t, watched[lifted], start, banLimit)

	// Ops signed with the old key have no effect.
	web3.stop(t)
	for _, file := range []string{"node.key", "node.cert", "mesh.key"} {
		shell(t, web3, "cp", "/root/"+file, stateDir+"/"+file)
	}
	web3.start(t)
	start = time.Now()
	web3.exit(t, exitPolicy, "ban", stolen.String(), "--for", "1h")
	web3.exit(t, exitPolicy, "unban", banned.String())
	enforced(t, watched[stolen][2:], start)
	during(3 * time.Second)
	answering(t, watched[stolen][:2])
	check(t, watched[banned][:2].Silent(silent))
}

// shell runs a program on the node, which must succeed.
func shell(t *testing.T, n *node, argv ...string) {
	t.Helper()
	if r := must(n.Run(argv...))(t); r.Code != exitDone {
		t.Fatalf("%s: %q: exit code %d: %s", n.Name, argv, r.Code, r.Stderr)
	}
}
