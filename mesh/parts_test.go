package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

func TestResolve(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), func(c *Config) {
		c.Bind = netip.MustParseAddrPort("127.0.0.1:7946")
		c.Lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "mesh.example" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, nil
		}
	})
	for _, tt := range []struct{ entry, want string }{
		{"192.0.2.9", "[192.0.2.9:7946]"},
		{"192.0.2.9:1", "[192.0.2.9:1]"},
		{"2001:db8::1", "[[2001:db8::1]:7946]"},
		{"[2001:db8::1]", "[[2001:db8::1]:7946]"},
		{"[2001:db8::1]:1", "[[2001:db8::1]:1]"},
		{"mesh.example", "[192.0.2.1:7946 [2001:db8::1]:7946]"},
		{"mesh.example:80", "[192.0.2.1:80 [2001:db8::1]:80]"},
		{"other.example", "error"},
		{"mesh.example:http", "error"},
		{"mesh.example:0", "error"},
	} {
		got, err := n.resolve(t.Context(), tt.entry)
		if s := fmt.Sprint(got); (err == nil && s != tt.want) || (err != nil && tt.want != "error") {
			t.Errorf("%q: %s, %v; want %s", tt.entry, s, err, tt.want)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	good := Config{
		Identity: signers[0], Secrets: newSecrets(t), Name: "web1", Epoch: 1, Bind: netip.MustParseAddrPort("127.0.0.1:0"),
	}
	if _, err := New(good); err != nil {
		t.Fatalf("ok: %v", err)
	}
	for name, edit := range map[string]func(*Config){
		"bad: no identity":   func(c *Config) { c.Identity = pki.Identity{} },
		"bad: no secrets":    func(c *Config) { c.Secrets = pki.Secrets{} },
		"bad: name":          func(c *Config) { c.Name = "a\tb" },
		"bad: long name":     func(c *Config) { c.Name = strings.Repeat("x", pki.MaxName+1) },
		"bad: version":       func(c *Config) { c.Version = strings.Repeat("x", meta.MaxVersion+1) },
		"bad: no address":    func(c *Config) { c.Bind = netip.AddrPort{} },
		"bad: zone":          func(c *Config) { c.Bind = netip.MustParseAddrPort("[fe80::1%eth0]:1") },
		"bad: epoch 0":       func(c *Config) { c.Epoch = 0 },
		"bad: long joinlist": func(c *Config) { c.Join = make([]string, maxJoin+1) },
	} {
		c := good
		edit(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A taken port causes an error that names it, and leaves nothing behind.
func TestRunNeedsItsPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := netip.MustParseAddrPort(l.Addr().String())
	n := newNode(t, newSecrets(t), newIdentity(t), func(c *Config) { c.Bind = taken })
	if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), taken.String()) {
		t.Errorf("Run: %v, want an error that names %v", err, taken)
	}
	if err := n.Run(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("Run again: %v", err)
	}
	if err := n.Restore(func(func([]byte) bool) {}); !errors.Is(err, ErrStopped) {
		t.Errorf("Restore after Run: %v", err)
	}
}

func TestPeerTableBounds(t *testing.T) {
	var remembered []Peer
	for i := range maxPeers + 50 {
		remembered = append(remembered, Peer{
			ID: frame.IDOf([]byte(fmt.Sprint(i))), Name: "x\x1b", Addr: netip.MustParseAddrPort("192.0.2.1:1"), Seen: simStart.Add(-time.Duration(i) * time.Second),
		})
	}
	table := newPeerTable(frame.ID{}, remembered, func(frame.ID) bool { return true })
	if n := len(table.members(simStart)); n != maxPeers {
		t.Errorf("%d peers, want %d", n, maxPeers)
	}
	if name := table.members(simStart)[0].Name; !wire.IsText(name) {
		t.Errorf("name %q", name)
	}
	id := signers[0]
	n := (&peer{Member: Member{ID: id.ID(), Addr: netip.MustParseAddrPort("192.0.2.2:1")}}).node()
	n.Meta = meta.Data{Protocol: meta.Protocol, Key: id.Public(), Name: "new", Version: "1"}.Encode()
	if _, ok := table.joined(simStart.Add(time.Second), n, memberJoin); !ok {
		t.Fatal("a new member found no room")
	}
	table.addressProved(simStart.Add(time.Second), id.ID(), netip.MustParseAddrPort("192.0.2.2:1"))
	if got := table.remember(simStart); len(got) != maxPeers || got[0].ID != id.ID() {
		t.Errorf("%d remembered, first %v", len(got), got[0])
	}
	for _, p := range table.members(simStart) {
		if p.ID == remembered[0].ID && p.State != StateDead {
			t.Errorf("a remembered peer is %v", p.State)
		}
	}
	table.goodbye(simStart, id.ID(), simStart)
	table.gone(simStart, n)
	if got := len(table.members(simStart.Add(2 * hideLeft))); got != maxPeers {
		t.Errorf("%d members after a goodbye a while ago, want %d", got, maxPeers)
	}
	if got := table.remember(simStart); len(got) != maxPeers {
		t.Errorf("%d remembered after a goodbye, want %d", len(got), maxPeers)
	}
	if got := table.known(simStart); !slices.ContainsFunc(got, func(p Peer) bool { return p.ID == id.ID() }) {
		t.Error("not known any more after a goodbye")
	}
	table.forget(simStart.Add(2 * forgetLeft))
	if got := table.remember(simStart); got[0].ID == id.ID() {
		t.Error("remembered after a goodbye long ago")
	}
	for i := range MaxMembers {
		table.peers[frame.ID{1, byte(i), byte(i >> 8)}] = &peer{seen: simStart, Member: Member{ID: frame.ID{1, byte(i), byte(i >> 8)}, State: StateDead}}
	}
	before := len(table.peers)
	if _, ok := table.joined(simStart.Add(time.Second), n, memberJoin); !ok || len(table.peers) != before {
		t.Errorf("%d members, want %d: the one that was gone longest makes room", len(table.peers), before)
	}
}

// A member is told from others by its address only while it is trusted.
func TestOnlyTrustedMembersHaveAnAddress(t *testing.T) {
	trusted, id, at := true, signers[0].ID(), netip.MustParseAddrPort("192.0.2.1:7946")
	table := newPeerTable(signers[1].ID(), nil, func(frame.ID) bool { return trusted })
	table.peers[id] = &peer{Member: Member{ID: id, Addr: at, State: StateAlive}, proofs: []AddrProof{{at, simStart}}}
	if table.retarget(simStart); !slices.Equal(table.At(at.Addr()), []frame.ID{id}) {
		t.Errorf("at its address is %v", table.At(at.Addr()))
	}
	trusted = false
	if table.retarget(simStart); len(table.At(at.Addr())) != 0 {
		t.Errorf("at its address is %v though it is not trusted", table.At(at.Addr()))
	}
}

// This node says what the filter takes from others.
func TestOwnVersions(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil).run(t)
	self := n.ml.Load().LocalNode()
	if got := []byte{self.PMin, self.PMax, self.PCur, self.DMin, self.DMax, self.DCur}; !bytes.Equal(got, mlwire.Versions[:]) {
		t.Errorf("says %v, takes %v", got, mlwire.Versions)
	}
}
