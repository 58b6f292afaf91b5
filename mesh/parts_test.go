package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// memberlist's texts used to reach the log, and anybody could fill it with them.
func TestLogAdapter(t *testing.T) {
	var out strings.Builder
	var suspected []frame.ID
	id, self := signers[0].ID(), signers[1].ID()
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	suspect := func(id frame.ID) { suspected = append(suspected, id) }
	const debug = "level=DEBUG msg=membership text="
	for _, tt := range []struct{ line, want string }{
		{"[ERR] memberlist: Failed to send gossip to 10.0.0.1:7946: write udp: sendto: network is unreachable", `level=INFO msg="could not send to another node" err="network is unreachable"`},
		{"[ERR] memberlist: Push/Pull with " + id.String() + " failed: dial tcp 10.0.0.1:7946: connect: connection refused", `level=INFO msg="could not compare the list of members with another node" id=` + id.Short() + ` err="connection refused"`},
		{"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=10.0.0.1:7946", `level=INFO msg="ignored a message in the key of another mesh, or in one that was rotated away" from=10.0.0.1:7946` + "\n"},
		{"[ERR] memberlist: failed to receive: EOF from=10.0.0.1:7946", `level=INFO msg="a connection of another node broke off" from=10.0.0.1:7946 err=EOF`},
		{"[ERR] memberlist: msg type (99) not supported from=\x1b[2J\nlevel=ERROR", `level=INFO msg="ignored a message that cannot be read" from="\\x1b[2J\\nlevel=ERROR"`},
		{"[WARN] memberlist: Refuting a suspect message (from: " + id.String() + ")", `level=INFO msg="another node took this one for unreachable; told it otherwise" id=` + id.Short() + "\n"},
		{"[WARN] memberlist: Refuting a suspect message (from: " + self.String() + ")", debug},
		{"[WARN] memberlist: handler queue full, dropping message (3) from=10.0.0.1:7946", "level=WARN msg=\"news of members come faster"},
		{"[ERR] memberlist: Failed fallback TCP ping: timeout 2s: read tcp: i/o timeout", debug},
		{"[WARN] memberlist: Was able to connect to " + id.String() + " over TCP but UDP probes failed, network may be misconfigured", debug + `"Was able to connect to ` + id.Short()},
		{"[DEBUG] memberlist: Stream connection", debug + `"Stream connection"`},
		{"no level", debug + `"no level"`},
		{"[WARN] memberlist: ping for '\x1b[2J\nlevel=ERROR'", debug + `"ping for '\\x1b[2J\\nlevel=ERROR'"`},
		{"[INFO] memberlist: Suspect " + id.String() + " has failed, no acks received", debug + `"Suspect ` + id.Short()},
		{"[INFO] memberlist: Suspect ../../x has failed, no acks received", debug},
		{"[ERR] memberlist: " + strings.Repeat("x", 5000), debug},
	} {
		out.Reset()
		a := newLogAdapter(logger, self, suspect)
		if _, err := a.Write([]byte(tt.line + "\n")); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); !strings.Contains(got, tt.want) || strings.Count(got, "\n") != 1 || len(got) > 2*maxLogText || strings.Contains(got, id.String()) {
			t.Errorf("%q logged as %q, want %q", tt.line, got, tt.want)
		}
	}
	if !slices.Equal(suspected, []frame.ID{id}) {
		t.Errorf("suspected %v", suspected)
	}
}

// Each event is logged once a minute, with the number of repeats left out before.
func TestLogAdapterIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		a := newLogAdapter(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), frame.ID{}, nil)
		for range 1000 {
			for _, line := range []string{"[ERR] memberlist: failed to receive: EOF from=10.0.0.1:1", "[ERR] memberlist: Failed to send ack: x", "[ERR] memberlist: y"} {
				_, _ = a.Write([]byte(line + "\n"))
			}
		}
		if n := strings.Count(out.String(), "level=INFO"); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
		if n := strings.Count(out.String(), "level=DEBUG"); n != logBurst {
			t.Errorf("%d other lines, want %d", n, logBurst)
		}
		<-time.After(eventEvery)
		out.Reset()
		_, _ = a.Write([]byte("[ERR] memberlist: failed to receive: EOF from=10.0.0.1:1\n"))
		if !strings.Contains(out.String(), "muted=999") {
			t.Errorf("after a minute: %q", out.String())
		}
	})
}

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
