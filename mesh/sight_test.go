package mesh

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/pki"
)

// behindNAT is a transport whose node advertises an address at which nobody can reach it.
type behindNAT struct {
	*hubPort
	told netip.AddrPort
}

func (p behindNAT) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return p.told.Addr().AsSlice(), int(p.told.Port()), nil
}

// A node that advertises an unreachable address hears nothing, and used to look healthy to itself. It says who sees it
// where, and which config line fixes it.
func TestClusterAdvertisesWhereNobodyReachesIt(t *testing.T) {
	for _, tt := range []struct {
		name, told string
		mends      string // the address in the remedy; "": only its port must be opened
	}{
		{"behind NAT", "192.168.7.7:7946", "10.0.0.2:7946"},
		{"a wrong port", "10.0.0.2:7999", "10.0.0.2:7946"},
		{"another family", "[fd00::7]:7946", "10.0.0.2:7946"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a := meshtest.Authority(t)
				told := netip.MustParseAddrPort(tt.told)
				id := newIdentity(t)
				edit := func(i int, c *Config) {
					copy(c.Secrets.Authority[:], a.Public())
					if i == 2 {
						c.Identity = id
					}
					cert, err := a.Certify(pki.Certificate{
						MeshID: c.Secrets.MeshID, Serial: 1, Node: c.Identity.Public(), Name: fmt.Sprint("n", i), Caps: pki.DefaultCaps(),
						NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
					})
					if err != nil {
						t.Fatal(err)
					}
					c.Certificate = cert
					c.Bind = netip.MustParseAddrPort("0.0.0.0:7946")
					if open := c.newTransport; i == 2 {
						c.newTransport = func() (memberlist.Transport, error) {
							p, err := open()
							if err != nil {
								return nil, err
							}
							return behindNAT{p.(*hubPort), told}, nil
						}
					}
				}
				c := newCluster(t, 3, edit)
				eventually(t, time.Minute, "the fault is told", func() bool { return c.nodes[2].fault(ProblemSeen) != "" })
				text := c.nodes[2].fault(ProblemSeen)
				remedy := regexp.MustCompile("`advertise: (.+)`").FindStringSubmatch(text)
				if !strings.Contains(text, " gets no answer at "+told.String()+", which it advertises") || remedy == nil || remedy[1] != tt.mends {
					t.Fatalf("it says %q, want the remedy %q", text, tt.mends)
				}
				for i, n := range c.nodes[:2] {
					if text := n.fault(ProblemSeen); text != "" {
						t.Errorf("node %d, which is reached, says %q", i, text)
					}
				}
				if err := c.nodes[2].stop(); err != nil {
					t.Fatal(err)
				}
				told = netip.MustParseAddrPort(remedy[1])
				back := newNode(t, c.secrets, id, c.config(2, func(i int, cfg *Config) {
					cfg.Epoch = 2
					edit(i, cfg)
				})).run(t)
				eventually(t, time.Minute, "all are alive", func() bool { return back.aliveCount() == 3 && c.nodes[0].aliveCount() == 3 })
				<-time.After(time.Minute)
				if text := back.fault(ProblemSeen); text != "" {
					t.Errorf("with the remedy it says %q", text)
				}
			})
		})
	}
}

// One member that says that it does not reach a node neither alarms it nor says what to write into its configuration.
func TestOneMemberDoesNotSayWhereANodeIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := meshtest.Authority(t)
		c := newCluster(t, 4, func(i int, cfg *Config) {
			copy(cfg.Secrets.Authority[:], a.Public())
			if i == 0 {
				cfg.Authority = a
			}
		})
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		for _, n := range c.nodes[1:] {
			if _, err := c.nodes[0].Certify(n.id.Public(), "name", pki.DefaultCaps()); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 30*time.Second, "all addresses are proved", c.allProved)
		victim, liar := c.nodes[3], c.nodes[0].id.ID()
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == c.addrs[0] && to == c.addrs[3] })
		c.nodes[0].peers.update(victim.id.ID(), func(p *peer) { p.proofs = nil })
		asked := func() bool { return len(victim.paths.Unanswered(victim.now(), sightQuiet)) > 0 }
		eventually(t, 2*time.Minute, "it does not answer reports", asked)
		if s, ok := victim.sightBy(t.Context(), liar); !ok || s.Reached {
			t.Fatalf("it says %+v, %v", s, ok)
		}
		for range 60 {
			<-time.After(time.Second)
			if text := victim.fault(ProblemSeen); text != "" || victim.place.unreached.Load() {
				t.Fatalf("it alone has the node say %q", text)
			}
		}
	})
}
