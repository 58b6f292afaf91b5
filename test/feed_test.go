//go:build linux && netns

package test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

// example returns the example under a heading of a help topic: its last block of lines that are set in by two blanks and
// begin at the line that starts with start.
func example(t *testing.T, n *node, topic, start string) string {
	t.Helper()
	_, text, ok := strings.Cut(n.run(t, "help", topic), "\n  "+start)
	if !ok {
		t.Fatalf("help %s has no example %q", topic, start)
	}
	var b strings.Builder
	b.WriteString(start)
	for line := range strings.Lines(text) {
		if b.Len() > len(start) && !strings.HasPrefix(line, "  ") {
			break
		}
		b.WriteString(strings.TrimPrefix(line, "  "))
	}
	return b.String()
}

// replaced replaces pairs in text; each must be there.
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("no %q in %q", pairs[i], text)
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

const listedFiles = `firewall: {backends: [none]}
files:
- {name: nginx.conf, format: nginx, every: 1s}
- {name: haproxy.acl, format: haproxy, every: 1s}
- {name: hosts.deny, format: hosts.deny, every: 1s}
`

// dial connects from an attacker's address to a port of n.
func (m *mesh) dial(n *node, src netip.Addr, port uint16) (net.Conn, error) {
	to := n.Probe
	if src.Is6() {
		to = n.Probe6
	}
	conn, err := m.Attacker.Dial(src, netip.AddrPortFrom(to, port))
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(banLimit)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// answers returns an error unless an HTTP server of n answers src with this status, if it sends these header lines.
func (m *mesh) answers(n *node, src netip.Addr, port uint16, status string, header ...string) error {
	conn, err := m.dial(n, src, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, strings.Join(append([]string{"GET / HTTP/1.0", "Host: web"}, header...), "\r\n")+"\r\n\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if got := strings.Fields(line); err == nil && (len(got) < 2 || got[1] != status) {
		err = fmt.Errorf("port %d of %s answers %v with %q, want %s", port, n.Name, src, line, status)
	}
	return err
}

// Debian's nginx, HAProxy and TCP wrappers refuse who was banned on another node, with the examples of `meshban help
// proxies`, on a node whose kernel drops nothing.
func TestProxiesRefuseWhatIsBanned(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, before: func(n *node) {
		if n.Index == 2 {
			n.configure(t, listedFiles)
		}
	}})
	first, proxy := m.nodes[0], m.nodes[1]
	feeds := stateDir + "/feeds/"
	server := replaced(t, example(t, proxy, "proxies", "geo $banned"), "listen 80;", "listen 80; listen [::]:80; location / { return 200; }")
	check(t, proxy.WriteFile("/etc/rig/nginx.conf", "error_log stderr;\npid /run/nginx.pid;\nevents {}\nhttp {\naccess_log off;\n"+server+"}\n"))
	frontend := replaced(t, example(t, proxy, "proxies", "frontend web"), "bind :81", "bind :::81 v4v6")
	check(t, proxy.WriteFile("/etc/rig/haproxy.cfg", "defaults\n    timeout client 30s\n    timeout connect 30s\n    timeout server 30s\n"+frontend))
	must(proxy.Shell(example(t, proxy, "proxies", "ln -sf")))(t)
	eventually(t, banLimit, func() error {
		_, err := proxy.Do("ls", feeds+"nginx.conf", feeds+"haproxy.acl", feeds+"hosts.deny")
		return err
	})

	src, src6, wide, other := fresh(), fresh6(), freshNet(), fresh()
	serves := func(port uint16) func(*rig.Proc) error {
		return func(*rig.Proc) error { return m.answers(proxy, other, port, "200") }
	}
	nginx := must(proxy.StartDaemon(rig.Cmd{Argv: []string{"nginx", "-c", "/etc/rig/nginx.conf", "-g", "daemon off;"}}, startLimit, serves(80)))(t)
	haproxy := must(proxy.StartDaemon(rig.Cmd{Argv: []string{"haproxy", "-W", "-db", "-f", "/etc/rig/haproxy.cfg"}}, startLimit, serves(81)))(t)
	inWide := wide.Addr().Next()
	// all waits until each program treats the attackers so, and others as before.
	all := func(status, verdict string) {
		t.Helper()
		check(t, nginx.Signal(unix.SIGHUP))
		check(t, haproxy.Signal(unix.SIGUSR2))
		for _, addr := range []netip.Addr{src, src6, inWide} {
			for _, port := range []uint16{80, 81} {
				eventually(t, banLimit, func() error { return m.answers(proxy, addr, port, status) })
			}
			if said := must(proxy.Do("tcpdmatch", "sshd", addr.String()))(t); !strings.Contains(said, "access:   "+verdict) {
				t.Errorf("tcpdmatch of %v: %s", addr, said)
			}
		}
		check(t, m.answers(proxy, other, 80, "200"))
		check(t, m.answers(proxy, other, 81, "200"))
	}
	all("200", "granted")

	first.run(t, "ban", src.String(), src6.String(), wide.String())
	first.run(t, "ban", other.String(), "--port", "22")
	lists := func(lines int) {
		t.Helper()
		eventually(t, banLimit, func() error {
			for _, name := range []string{"nginx.conf", "haproxy.acl", "hosts.deny"} {
				if text, err := proxy.ReadFile(feeds + name); err != nil || strings.Count(text, "\n") != lines {
					return fmt.Errorf("%s has %q, %v", name, text, err)
				}
			}
			return nil
		})
	}
	lists(3)
	all("403", "denied")

	first.run(t, "unban", src.String(), src6.String())
	lists(1)
	first.run(t, "allow", inWide.String()) // the rest of the network stays banned
	lists(3)
	inWide = inWide.Prev()
	check(t, nginx.Signal(unix.SIGHUP))
	eventually(t, banLimit, func() error { return m.answers(proxy, src, 80, "200") })
	eventually(t, banLimit, func() error { // a worker with the former list may answer for a moment
		return errors.Join(m.answers(proxy, inWide, 80, "403"), m.answers(proxy, inWide.Next(), 80, "200"))
	})
	first.run(t, "unban", wide.String())
	lists(0)
	all("200", "granted")
}

// A device that asks again gets the list only if it has changed, with the example of `meshban help routers` and Debian's
// curl.
func TestListsAreFetchedWhenTheyChange(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, config: `api: {listen: "127.0.0.1:8080"}`})
	first, n := m.nodes[0], m.nodes[1]
	key, _, _ := strings.Cut(n.run(t, "key", "add", "router", "--may", "read"), "\n")
	command := replaced(t, example(t, n, "routers", "curl"), "KEY", key, "https://web1.example.net:8443", "http://127.0.0.1:8080", "list.", "/root/list.")
	fetched := func(code, list string) {
		t.Helper()
		if got := must(n.Shell(command))(t); got != code {
			t.Errorf("status %s, want %s", got, code)
		}
		if got := must(n.ReadFile("/root/list.txt"))(t); got != list {
			t.Errorf("the list is %q, want %q", got, list)
		}
	}
	src := fresh()
	first.run(t, "ban", src.String(), fresh6().String())
	eventually(t, banLimit, func() error {
		if len(n.list(t)) != 2 {
			return errors.New("the bans have not come")
		}
		return nil
	})
	fetched("200", src.String()+"\n")
	fetched("304", src.String()+"\n")
	n.run(t, "unban", src.String())
	fetched("200", "")
	fetched("304", "")
}

// bird is a router that takes what an ExaBGP on the same machine announces.
const bird = `router id 192.0.2.254;
log stderr all;
flow4 table f4;
flow6 table f6;
protocol device {}
protocol bgp exabgp {
	local 127.0.0.2 as 65001;
	neighbor 127.0.0.1 as 65001;
	multihop;
	passive;
	flow4 { table f4; import all; };
	flow6 { table f6; import all; };
}
`

// A router has the routes of what another node has banned: by Debian's ExaBGP, as the user as whom Debian runs it, with
// the example of `meshban help bgp`, and BIRD.
func TestRoutersDropWhatIsBanned(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, before: func(n *node) {
		if n.Index == 2 {
			n.passable(t)
			n.configure(t, example(t, n, "bgp", "control:"))
		}
	}})
	first, edge := m.nodes[0], m.nodes[1]
	check(t, edge.WriteFile("/etc/rig/bird.conf", bird))
	must(edge.StartDaemon(rig.Cmd{Argv: []string{"bird", "-f", "-c", "/etc/rig/bird.conf", "-s", "/run/bird.ctl"}}, startLimit, func(*rig.Proc) error {
		_, err := edge.Do("birdc", "-s", "/run/bird.ctl", "show", "status")
		return err
	}))(t)
	conf := replaced(t, example(t, edge, "bgp", "process meshban"), "/usr/local/sbin/meshban", "/usr/local/bin/meshban",
		"192.0.2.254", "127.0.0.2", "local-address 192.0.2.10", "local-address 127.0.0.1")
	check(t, edge.WriteFile("/etc/rig/exabgp.conf", conf))
	must(edge.Shell("chmod 755 /etc/rig && chmod 644 /etc/rig/exabgp.conf"))(t)
	src, src6, brief := fresh(), fresh6(), fresh()
	first.run(t, "ban", src.String(), "--for", "2h")
	exabgp := must(edge.Start(rig.Cmd{Argv: []string{"setpriv", "--reuid", "exabgp", "--regid", "exabgp", "--init-groups", "env", "exabgp.daemon.user=exabgp",
		"exabgp.api.cli=false", "exabgp.log.destination=stderr", "exabgp", "/etc/rig/exabgp.conf"}}))(t)

	routes := func(want ...string) {
		t.Helper()
		defer func() {
			if t.Failed() {
				t.Log(exabgp.Tail(30))
			}
		}()
		eventually(t, startLimit, func() error {
			said, err := edge.Do("birdc", "-s", "/run/bird.ctl", "show", "route", "table", "all", "all")
			if err != nil || strings.Count(said, "{ src ") != len(want) || strings.Count(said, "BGP.community: (65535,65281)") != len(want) {
				return fmt.Errorf("want %q, %v:\n%s", want, err, said)
			}
			for _, addr := range want {
				if !strings.Contains(said, "{ src "+addr+"; }") {
					return fmt.Errorf("no %s:\n%s", addr, said)
				}
			}
			return nil
		})
	}
	routes(src.String() + "/32")
	first.run(t, "ban", brief.String(), "--for", "30m") // too short for a route
	first.run(t, "ban", src6.String(), "--for", "2h")
	routes(src.String()+"/32", src6.String()+"/128")
	first.run(t, "unban", src.String())
	routes(src6.String() + "/128")
	edge.stop(t)
	edge.start(t)
	first.run(t, "ban", src.String(), "--for", "3h") // the watch has found the agent again
	routes(src.String()+"/32", src6.String()+"/128")
	first.run(t, "allow", src.String(), src6.String())
	routes()
}
