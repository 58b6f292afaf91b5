package doctor

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// certSoon is how long before its end a certificate is reported.
const certSoon = 14 * 24 * time.Hour

// ports reports peers to or from which UDP or TCP does not pass.
func (m *machine) ports(ctx context.Context) finding {
	peers := m.others()
	if len(peers) == 0 {
		return ok("this node has no peers")
	}
	some := peers[:min(len(peers), maxDials)]
	errs := make([]error, len(some))
	var wait sync.WaitGroup
	for i, p := range some {
		if p.Addr != "" {
			wait.Go(func() { errs[i] = m.dial(ctx, p.Addr) })
		}
	}
	wait.Wait()
	var lost []string
	heard := 0
	for i, p := range peers {
		if at := slices.IndexFunc(m.reach, func(r control.Reach) bool { return r.ID == p.ID }); at >= 0 && m.reach[at].TCP != nil {
			if heard++; !*m.reach[at].TCP {
				lost = append(lost, "TCP from "+p.Name+" does not arrive")
			}
		}
		if i < len(errs) && errs[i] != nil {
			lost = append(lost, "TCP to "+p.Name+" does not arrive ("+lastPart(errs[i])+")")
		}
		if p.UDP != "" && p.UDP != control.UDPFine && !strings.HasPrefix(p.UDP, "large ") {
			lost = append(lost, strings.ReplaceAll(p.UDP, " it ", " "+p.Name+" "))
		}
	}
	switch {
	case len(lost) > 0:
		_, port, _ := net.SplitHostPort(m.status.Addr)
		return bad(m.openPort(ctx, port)+" # on both machines", "%s", strings.Join(lost, "; "))
	case len(peers) > len(some):
		return ok("UDP passes both ways for %s, TCP to the first %d, and from %d that have said so", peersText(peers), len(some), heard)
	case heard < len(peers):
		return ok("UDP passes both ways and TCP goes out, for %s; TCP comes in from %d, the others do not say", peersText(peers), heard)
	}
	return ok("UDP and TCP pass both ways, for %s", peersText(peers))
}

func peersText(peers []control.Member) string {
	if len(peers) == 1 {
		return "1 peer"
	}
	return fmt.Sprintf("%d peers", len(peers))
}

// openPort returns what to type to let a port's packets in, in the words of the firewall that this machine has.
func (m *machine) openPort(ctx context.Context, port string) string {
	switch {
	case m.find("ufw") == nil:
		return "ufw allow " + port
	case m.find("firewall-cmd") == nil:
		return fmt.Sprintf("firewall-cmd --permanent --add-port=%s/tcp --add-port=%[1]s/udp && firewall-cmd --reload", port)
	}
	if _, err := m.run(ctx, "nft", "list", "chain", "inet", "filter", "input"); err == nil {
		return fmt.Sprintf("nft insert rule inet filter input meta l4proto { tcp, udp } th dport %s accept", port)
	}
	return fmt.Sprintf("iptables -I INPUT -p tcp --dport %s -j ACCEPT; iptables -I INPUT -p udp --dport %[1]s -j ACCEPT", port)
}

// lastPart returns what an error of the network ends with: the cause.
func lastPart(err error) string {
	text := err.Error()
	return text[strings.LastIndex(text, ": ")+1:][min(1, len(text)):]
}

func (m *machine) address(context.Context) finding {
	if f, is := m.known(Warn, "advertise", "address"); is {
		return f
	}
	return ok("peers reach this node at %s", m.status.Addr)
}

func (m *machine) datagrams(context.Context) finding {
	for _, p := range m.others() {
		if strings.HasPrefix(p.UDP, "large ") {
			return warn("ping -M do -s 1272 "+host(p.Addr)+" # a smaller size that passes tells the MTU to set", "%s", strings.ReplaceAll(p.UDP, " it ", " "+p.Name+" "))
		}
	}
	return ok("no large datagram is known to be lost")
}

func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}

func (m *machine) clocks(context.Context) finding {
	if f, is := m.known(Warn, "clock"); is {
		return f
	}
	return ok("the clocks agree with this one")
}

func (m *machine) joinList(ctx context.Context) finding {
	for _, j := range m.config.Join {
		if err := m.resolve(ctx, host(j)); err != nil {
			return warn("editor "+m.configFile()+" && systemctl reload meshban # correct join", "%s of the join list has no address: %s", host(j), lastPart(err))
		}
	}
	if m.status != nil {
		if f, is := m.known(Bad, "join"); is {
			return f
		}
	}
	if len(m.config.Join) == 0 {
		return ok("the join list is empty")
	}
	return ok("all %d names of the join list have addresses", len(m.config.Join))
}

func (m *machine) versions(context.Context) finding {
	if f, is := m.known(Bad, "clone"); is {
		return f
	}
	for _, p := range m.others() {
		if p.Version != "" && p.Version != m.status.Version {
			return warn("install -m 755 meshban /usr/local/sbin/ && systemctl restart meshban # on the older one, with the newer program",
				"%s runs version %s, this node %s", p.Name, p.Version, m.status.Version)
		}
	}
	return ok("every node runs %s, and no key is used twice", m.status.Version)
}

func (m *machine) certificates(context.Context) finding {
	if f, is := m.known(Bad, "certificate", "trust", "authority"); is {
		return f
	}
	holder := false
	soonest := control.Member{}
	for _, p := range m.members {
		holder = holder || p.HoldsCA != nil && *p.HoldsCA && p.State == control.MemberAlive
		asked := m.peer == "" && p.Self || slices.ContainsFunc(m.others(), func(o control.Member) bool { return o.ID == p.ID })
		if asked && p.CertUntil != nil && (soonest.CertUntil == nil || p.CertUntil.Before(*soonest.CertUntil)) {
			soonest = p
		}
	}
	text := "every certificate is good"
	if soonest.CertUntil != nil {
		text = fmt.Sprintf("the first certificate to end is %s's, %s", soonest.Name, control.FormatTime(*soonest.CertUntil))
		if time.Until(*soonest.CertUntil) < certSoon {
			return warn("meshban rotate node-key TOKEN # on "+soonest.Name+", with what meshban invite prints on a node with ca.key", "%s", text)
		}
	}
	for _, r := range m.status.Reminders {
		if strings.Contains(r, "ca.key") || strings.Contains(r, "ca export") {
			return finding{OK, text + "; the authority's key has not been exported yet", "meshban ca export FILE"}
		}
	}
	if !holder {
		text += "; no node that is alive reports to hold the authority's key"
	}
	return ok("%s", text)
}
