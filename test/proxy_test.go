//go:build linux && netns

package test

import (
	"bufio"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

// listing makes a mesh of two nodes; the second drops nothing itself, but keeps lists.
func listing(t *testing.T, config string) (m *mesh, first, proxy *node) {
	t.Helper()
	m = newMesh(t, setup{nodes: 2, before: func(n *node) {
		if n.Index == 2 {
			n.configure(t, config)
		}
	}})
	return m, m.nodes[0], m.nodes[1]
}

// listHas waits until a list of n has an address, or has it no more.
func (n *node) listHas(t *testing.T, name string, addr netip.Addr, want bool) {
	t.Helper()
	eventually(t, banLimit, func() error {
		text, err := n.ReadFile(stateDir + "/feeds/" + name)
		if err == nil && strings.Contains(text, addr.String()) != want {
			err = fmt.Errorf("%s has %q", name, text)
		}
		return err
	})
}

// Behind a CDN, Debian's nginx and HAProxy refuse the clients that were banned on another node, and believe nobody else,
// with the examples of `meshban help proxies`.
func TestProxiesRefuseWhatIsBannedBehindACDN(t *testing.T) {
	t.Parallel()
	m, first, proxy := listing(t, listedFiles)
	src, other, cdn, cdnNet := fresh(), fresh(), fresh(), "192.0.2.0/24"
	forwarded := func(addr netip.Addr) string { return "X-Forwarded-For: 203.0.113.99, " + addr.String() } // the first is made up
	realIP := replaced(t, example(t, proxy, "proxies", "set_real_ip_from"), cdnNet, cdn.String())
	server := replaced(t, example(t, proxy, "proxies", "geo $banned"), "listen 80;", realIP+"listen 80; location / { return 200; }")
	check(t, proxy.WriteFile("/etc/rig/nginx.conf", "error_log stderr;\npid /run/nginx.pid;\nevents {}\nhttp {\naccess_log off;\n"+server+"}\n"))
	deny := replaced(t, example(t, proxy, "proxies", "http-request deny if !"), cdnNet, cdn.String())
	frontend := replaced(t, example(t, proxy, "proxies", "frontend web"), "http-request deny if { src -f "+stateDir+"/feeds/haproxy.acl }", deny)
	check(t, proxy.WriteFile("/etc/rig/haproxy.cfg", "defaults\n    timeout client 30s\n    timeout connect 30s\n    timeout server 30s\n"+frontend))
	proxy.listHas(t, "nginx.conf", src, false)
	proxy.listHas(t, "haproxy.acl", src, false)
	serves := func(port uint16) func(*rig.Proc) error {
		return func(*rig.Proc) error { return m.answers(proxy, cdn, port, "200", forwarded(other)) }
	}
	nginx := must(proxy.StartDaemon(rig.Cmd{Argv: []string{"nginx", "-c", "/etc/rig/nginx.conf", "-g", "daemon off;"}}, startLimit, serves(80)))(t)
	haproxy := must(proxy.StartDaemon(rig.Cmd{Argv: []string{"haproxy", "-W", "-db", "-f", "/etc/rig/haproxy.cfg"}}, startLimit, serves(81)))(t)
	// through waits until each program answers the client so when it comes through the CDN, and others as before.
	through := func(status string) {
		t.Helper()
		check(t, nginx.Signal(unix.SIGHUP))
		check(t, haproxy.Signal(unix.SIGUSR2))
		for _, port := range []uint16{80, 81} {
			eventually(t, banLimit, func() error { return m.answers(proxy, cdn, port, status, forwarded(src)) })
			eventually(t, banLimit, func() error { return m.answers(proxy, cdn, port, "200", forwarded(other)) })
		}
		eventually(t, banLimit, func() error { return m.answers(proxy, other, 80, "200", forwarded(src)) })
		eventually(t, banLimit, func() error { return m.answers(proxy, other, 81, "403", forwarded(other)) })
	}
	through("200")
	first.run(t, "ban", src.String())
	proxy.listHas(t, "nginx.conf", src, true)
	proxy.listHas(t, "haproxy.acl", src, true)
	through("403")
	first.run(t, "unban", src.String())
	proxy.listHas(t, "nginx.conf", src, false)
	proxy.listHas(t, "haproxy.acl", src, false)
	through("200")
}

// A Postfix of its own, whose files are below /run.
const (
	postfixMain = `compatibility_level = 3.6
queue_directory = /run/postfix/queue
data_directory = /run/postfix/data
mydestination = localhost
local_recipient_maps =
alias_maps =
maillog_file = /var/log/mail.log
`
	postfixMaster = `smtp inet n - n - - smtpd
rewrite unix - - n - - trivial-rewrite
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`
)

// takesMail returns an error unless the mail server of n answers RCPT TO from src with this code.
func (m *mesh) takesMail(n *node, src netip.Addr, code string) error {
	conn, err := m.dial(n, src, 25)
	if err != nil {
		return err
	}
	defer conn.Close()
	from := bufio.NewReader(conn)
	for _, step := range []struct{ say, code string }{{"", "220"}, {"HELO mail", "250"}, {"MAIL FROM:<>", "250"}, {"RCPT TO:<root@localhost>", code}} {
		if step.say != "" {
			if _, err := fmt.Fprint(conn, step.say+"\r\n"); err != nil {
				return err
			}
		}
		line, err := from.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, step.code+" ") {
			return fmt.Errorf("%v: %q is answered %q, want %s", src, step.say, line, step.code)
		}
	}
	return nil
}

// Debian's Postfix takes no mail from who was banned on another node, with the example of `meshban help proxies`.
func TestPostfixRefusesWhatIsBanned(t *testing.T) {
	t.Parallel()
	m, first, mail := listing(t, "firewall: {backends: [none]}\nfiles:\n- {name: postfix.cidr, format: postfix-cidr, every: 1s}\n")
	src, src6, other := fresh(), fresh6(), fresh()
	must(mail.Shell("mkdir -p /run/postfix/queue /run/postfix/data && chown postfix /run/postfix/data"))(t)
	check(t, mail.WriteFile("/etc/rig/postfix/main.cf", postfixMain+example(t, mail, "proxies", "smtpd_client_restrictions")))
	check(t, mail.WriteFile("/etc/rig/postfix/master.cf", postfixMaster))
	mail.listHas(t, "postfix.cidr", src, false)
	defer func() {
		if log, _ := mail.ReadFile("/var/log/mail.log"); t.Failed() {
			t.Log(log)
		}
	}()
	must(mail.StartDaemon(rig.Cmd{Argv: []string{"postfix", "-c", "/etc/rig/postfix", "start-fg"}}, startLimit, func(*rig.Proc) error { return m.takesMail(mail, other, "250") }))(t)
	defer func() {
		_, err := mail.Do("postfix", "-c", "/etc/rig/postfix", "stop")
		check(t, err)
	}()
	all := func(code string) {
		t.Helper()
		must(mail.Do("postfix", "-c", "/etc/rig/postfix", "reload"))(t) // as the unit of `meshban setup systemd` does
		for _, addr := range []netip.Addr{src, src6} {
			eventually(t, banLimit, func() error { return m.takesMail(mail, addr, code) })
		}
		eventually(t, banLimit, func() error { return m.takesMail(mail, other, "250") })
	}
	all("250")
	first.run(t, "ban", src.String(), src6.String())
	mail.listHas(t, "postfix.cidr", src, true)
	mail.listHas(t, "postfix.cidr", src6, true)
	all("554")
	first.run(t, "unban", src.String(), src6.String())
	mail.listHas(t, "postfix.cidr", src, false)
	mail.listHas(t, "postfix.cidr", src6, false)
	all("250")
}
