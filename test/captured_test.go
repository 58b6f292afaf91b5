//go:build linux && netns

package test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostileID waits until every honest node with a running agent sees the hostile member, and returns its id. A suspect is as
// much of a member: on a busy machine the hostile program is slow to answer by TCP, and a mute one cannot prove an answer by UDP.
func (s *siege) hostileID(t *testing.T) string {
	t.Helper()
	var id string
	for _, n := range s.honest {
		if !n.agent.Running() {
			continue
		}
		eventually(t, syncLimit, func() error {
			members := n.members(t)
			for _, m := range members {
				if m.Name == s.attacker() && (m.State == "alive" || m.State == "suspect") {
					id = m.ID
					return nil
				}
			}
			return fmt.Errorf("%s: %s is not among the members %+v", n.Name, s.attacker(), members)
		})
	}
	return id
}

// A member that replays a node's frames has no effect: not after an unban, and not after a ban's end.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := besiege(t, 3)
	p := s.attack(t, "replay", "-for", untilEnded) // from now on it receives the bans
	lifted, ended := fresh(), fresh()
	a, b := s.watchHonest(t, lifted), s.watchHonest(t, ended)
	before := s.honest[0].metrics(t)
	start := time.Now()
	s.honest[1].run(t, "ban", lifted.String(), "--for", "1h")
	s.honest[1].run(t, "ban", ended.String(), "--for", "8s")
	enforced(t, a, start)
	silent := start.Add(enforced(t, b, start))
	start = time.Now()
	s.honest[0].run(t, "unban", lifted.String())
	open(t, a, start, banLimit)
	open(t, b, silent, 2*banLimit)
	for _, name := range []string{"meshban_frames_duplicate_total", `meshban_frames_refused_total{reason="expired"}`} {
		eventually(t, afterwards, func() error {
			if now := s.honest[0].metrics(t); now[name] < before[name]+10 {
				return fmt.Errorf("%s was %.0f, is %.0f, want at least 10 more", name, before[name], now[name])
			}
			return nil
		})
	}
	during(attackLasts)
	s.spared(t, a)
	s.spared(t, b)
	finish(t, p)
	s.agree(t)
}

// Certificates by another authority, for another mesh, expired or not yet valid are worthless. A member that was trusted
// until its revocation has no effect afterwards.
func TestWorthlessCertificates(t *testing.T) {
	t.Parallel()
	s := besiege(t, 3)
	check(t, s.host.WriteFile("/root/ca.key", must(s.honest[0].ReadFile(stateDir+"/ca.key"))(t)))
	victim := fresh()
	pairs := s.watchHonest(t, victim)
	p := s.attack(t, "certificates", "-ca", "/root/ca.key", "-ban", victim.String()+"/32", "-for", untilEnded)
	eventually(t, afterwards, func() error {
		m := s.honest[1].metrics(t)
		for _, reason := range []string{"expired", "future", "mesh"} {
			if name := fmt.Sprintf("meshban_frames_refused_total{reason=%q}", reason); m[name] == 0 {
				return fmt.Errorf("%s is 0", name)
			}
		}
		if m["meshban_frames_waiting"] == 0 {
			return errors.New("no frame waits for a certificate that counts")
		}
		return nil
	})
	finish(t, p)
	s.spared(t, pairs)

	start := time.Now()
	p = s.attack(t, "bans", "-ban", victim.String()+"/32", "-for", untilEnded)
	enforced(t, pairs, start) // a certified member's bans count
	id := s.hostileID(t)
	start = time.Now()
	s.honest[0].run(t, "revoke", id, "--reason", "captured")
	open(t, pairs, start, banLimit)
	during(attackLasts)
	s.spared(t, pairs)
	for _, n := range s.honest {
		eventually(t, afterwards, func() error {
			if n.metrics(t)[`meshban_frames_refused_total{reason="revoked"}`] == 0 {
				return fmt.Errorf("%s has refused nothing of the revoked member", n.Name)
			}
			return nil
		})
		if r := n.run(t, "members"); !strings.Contains(r, "revoked") {
			t.Errorf("%s: members does not tell:\n%s", n.Name, r)
		}
	}
	finish(t, p)
	s.agree(t)
}

// The holder of the authority's key decides who is a member, and such members may ban. Even then, what a node needs stays
// reachable.
func TestCapturedAuthority(t *testing.T) {
	t.Parallel()
	s := besiege(t, 3)
	check(t, s.host.WriteFile("/root/ca.key", must(s.honest[0].ReadFile(stateDir+"/ca.key"))(t)))
	victim := fresh()
	pairs := s.watchHonest(t, victim)
	list := victim.String() + "/32"
	for _, n := range s.honest {
		list += fmt.Sprintf(",%v/32,%v/32", n.Mesh, n.Probe)
	}
	start := time.Now()
	p := s.attack(t, "authority", "-ca", "/root/ca.key", "-ban", list)
	enforced(t, pairs, start)
	for _, n := range s.honest {
		for _, other := range s.honest {
			if why := n.run(t, "why", other.Mesh.String()); !strings.Contains(why, other.Mesh.String()+": not dropped") {
				t.Errorf("%s: %s", n.Name, why)
			}
		}
	}
	must(p.Wait(afterwards))(t)
	s.agree(t)
	conn := must(s.honest[0].Dial(s.honest[0].Mesh, netip.AddrPortFrom(s.honest[1].Mesh, meshPort)))(t)
	check(t, conn.Close())
	// The only remedy is a new mesh; until then, bans by the real nodes still work.
	src := fresh()
	honest := s.watchHonest(t, src)
	start = time.Now()
	s.honest[1].run(t, "ban", src.String())
	enforced(t, honest, start)
}

// An outsider without the mesh's key sends all kinds of messages to its port. No node bans, crashes or becomes slow, others
// can still enrol, and the operator sees the outsider's packets in a counter.
func TestOutsider(t *testing.T) {
	s := besiege(t, 4)
	newcomer := s.honest[3]
	s.honest = s.honest[:3]
	newcomer.stop(t)
	must(newcomer.Shell("rm -rf " + stateDir + "/*"))(t)
	for _, name := range []string{"garbage", "enrol"} {
		s.calm = s.measure(t, calmBans/2)
		p := s.attackAs(t, name)
		under := s.measure(t, attackBans)
		if name == "enrol" {
			begin := time.Now()
			newcomer.run(t, "join", s.token, "--name", "newcomer", "--bind", s.bind(newcomer))
			t.Logf("a newcomer enrolled in %v meanwhile", time.Since(begin).Round(time.Millisecond))
		}
		if e := must(p.Wait(afterwards))(t); e.Code != exitDone {
			t.Errorf("the attack ended with %+v: %s", e, p.Stderr())
		}
		t.Logf("%s: %v, before: %v; %s", name, under, s.calm, p.Stdout())
		if err := s.slower(under, figures{}); err != nil {
			s.calm = s.measure(t, calmBans/2)
			p := s.attackAs(t, name)
			if err := s.slower(s.measure(t, attackBans), figures{}); err != nil {
				t.Error(err)
			}
			must(p.Wait(afterwards))(t)
		}
	}
	for _, n := range s.honest {
		if got := n.metrics(t)["meshban_stranger_packets_total"]; got < 100 {
			t.Errorf("%s counts %.0f packets and streams of strangers", n.Name, got)
		}
		if peak := n.peakRSS(t); peak > attackedRSS {
			t.Errorf("%s: %d KiB resident at most, want %d", n.Name, peak, attackedRSS)
		}
		for _, m := range n.members(t) {
			if strings.HasPrefix(m.Name, hostileName) || m.Name == claimedName {
				t.Errorf("%s has the outsider as a member: %+v", n.Name, m)
			}
		}
	}
	s.agree(t)
}

// An eavesdropper learns neither what is banned, nor why, nor the nodes' ids.
func TestOutsiderReadsNothing(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2})
	a, b := m.nodes[0], m.nodes[1]
	fd := -1
	check(t, a.InNet(func() error {
		link, err := net.InterfaceByName("mesh0")
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all>>8|all<<8)); err != nil {
			return os.NewSyscallError("packet socket", err)
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: all>>8 | all<<8})
	}))
	defer unix.Close(fd)
	src := fresh()
	start := time.Now()
	pairs := m.watch(t, src)
	b.run(t, "ban", src.String(), "--reason", "what-nobody-may-read")
	enforced(t, pairs, start)
	during(3 * time.Second) // pings, gossip, anti-entropy
	var seen []byte
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			break
		}
		seen = append(seen, buf[:n]...)
	}
	if len(seen) < 1000 {
		t.Fatalf("%d bytes were seen on the wire", len(seen))
	}
	addr := src.As4()
	for _, secret := range [][]byte{[]byte("what-nobody-may-read"), addr[:], []byte(b.status(t).ID[:16])} {
		if bytes.Contains(seen, secret) {
			t.Errorf("%q can be read on the wire", secret)
		}
	}
}
