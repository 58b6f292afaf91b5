package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/enrol"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

func TestEnrol(t *testing.T) {
	t.Parallel()
	var saved []byte
	var mu sync.Mutex
	secrets, inviterID := newSecrets(t), newIdentity(t)
	persist := func(c *Config) {
		c.SaveInvites = func(b []byte) error {
			mu.Lock()
			defer mu.Unlock()
			saved = slices.Clone(b)
			return nil
		}
		c.LoadInvites = func() ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			return saved, nil
		}
	}
	inviter := newNode(t, secrets, inviterID, persist).run(t)
	text, err := inviter.NewInvite(2, time.Hour, pki.DefaultCaps())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, "mb1-") {
		t.Errorf("token %q", text)
	}
	ctx := t.Context()
	first := newIdentity(t)
	got, err := Enrol(ctx, text, first, "web1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Secrets != secrets {
		t.Error("other secrets")
	}
	if len(got.Join) == 0 || got.Join[0] != inviter.Addr().String() {
		t.Errorf("join list %q, want %v first", got.Join, inviter.Addr())
	}
	// A node with the secrets it was given is a member.
	member := newNode(t, got.Secrets, first, func(c *Config) { c.Join = got.Join }).run(t)
	eventually(t, 10*time.Second, "the new node is a member", func() bool {
		return inviter.aliveCount() == 2 && member.aliveCount() == 2
	})

	// Enrolling again with the same key does not use up the token; a second machine does.
	for range 2 {
		if _, err := Enrol(ctx, text, first, "web1"); err != nil {
			t.Errorf("again: %v", err)
		}
	}
	if _, err := Enrol(ctx, text, newIdentity(t), "web2"); err != nil {
		t.Errorf("second: %v", err)
	}
	if _, err := Enrol(ctx, text, newIdentity(t), "web3"); !errors.Is(err, ErrInviteUsed) {
		t.Errorf("third: %v, want %v", err, ErrInviteUsed)
	}

	// Invitations survive a restart of the inviter, which may then have another port.
	open, err := inviter.NewInvite(1, time.Hour, pki.DefaultCaps())
	if err != nil {
		t.Fatal(err)
	}
	if err := inviter.stop(); err != nil {
		t.Fatal(err)
	}
	again := newNode(t, secrets, inviterID, func(c *Config) { persist(c); c.Epoch = 2 }).run(t)
	moved, err := pki.ParseToken(open)
	if err != nil {
		t.Fatal(err)
	}
	moved.Addrs = []netip.AddrPort{again.Addr()}
	if _, err := Enrol(ctx, moved.Encode(), newIdentity(t), ""); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestEnrolRefusals(t *testing.T) {
	inviter := newNode(t, newSecrets(t), newIdentity(t), nil).run(t)
	other := newNode(t, newSecrets(t), newIdentity(t), nil).run(t)
	text, err := inviter.NewInvite(1, time.Hour, pki.DefaultCaps())
	if err != nil {
		t.Fatal(err)
	}
	good, err := pki.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(*pki.Token)) string {
		tok := good
		f(&tok)
		return tok.Encode()
	}
	// The inviter decides by its own clock when the token expires.
	if err := inviter.invites.Add(time.Now(), [16]byte{1}, time.Now().Add(-time.Minute), 1, pki.DefaultCaps()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, text string
		want       error
		mentions   string
	}{
		{"bad: no token", "hello", pki.ErrBadToken, "mb1-"},
		{"bad: cut short", text[:len(text)-5], pki.ErrBadToken, ""},
		{"bad: long over", edit(func(k *pki.Token) { k.Expires = time.Now().Add(-time.Hour) }), ErrInviteExpired, ""},
		{"bad: another secret", edit(func(k *pki.Token) { k.Secret[0]++ }), ErrInviteUnknown, ""},
		{"bad: another mesh's node", edit(func(k *pki.Token) { k.Addrs = []netip.AddrPort{other.Addr()} }), ErrNotInviter, other.Addr().String()},
		{"bad: nobody there", edit(func(k *pki.Token) {
			k.Addrs = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.2:1")}
		}), ErrUnreachable, "127.0.0.1:1 (connect: connection refused), 127.0.0.2:1"},
		{"ok: the second address answers", edit(func(k *pki.Token) {
			k.Addrs = []netip.AddrPort{other.Addr(), inviter.Addr()}
		}), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Enrol(t.Context(), tt.text, newIdentity(t), "x")
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), tt.mentions) {
				t.Errorf("%q does not mention %q", err, tt.mentions)
			}
		})
	}
	if _, err := Enrol(t.Context(), text, newIdentity(t), "a\nb"); err == nil {
		t.Error("a name with a line break was accepted")
	}
	if _, err := Enrol(t.Context(), text, pki.Identity{}, "x"); err == nil {
		t.Error("no identity was accepted")
	}
}

func TestNewInviteBounds(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	for name, err := range map[string]error{
		"uses 0":      second(n.NewInvite(0, time.Hour, pki.DefaultCaps())),
		"uses 10000":  second(n.NewInvite(10000, time.Hour, pki.DefaultCaps())),
		"life 0":      second(n.NewInvite(1, 0, pki.DefaultCaps())),
		"life a year": second(n.NewInvite(1, 365*24*time.Hour, pki.DefaultCaps())),
		"before Run":  second(n.NewInvite(1, time.Hour, pki.DefaultCaps())),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func second[A any](_ A, err error) error { return err }

// Strangers on the mesh port: silence, garbage, TLS without a token, TLS of another kind. None disturbs the mesh, and
// none keeps Run from ending in time.
func TestStrangersOnThePort(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil).run(t)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", n.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	dial() // stays silent
	if _, err := dial().Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := dial().Write([]byte{0x16, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	plain := tls.Client(dial(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err := plain.Handshake(); err == nil {
		// The refusal of a client without a certificate arrives with the first read.
		if _, err := plain.Read(make([]byte, 1)); err == nil {
			t.Error("a joiner without a certificate was served")
		}
	}
	conf, err := enrol.TLS(newIdentity(t), func(ed25519.PublicKey) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	joiner := tls.Client(dial(), conf)
	if err := enrol.WriteMessage(joiner, []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if _, err := enrol.ReadMessage(joiner); err == nil {
		t.Error("nonsense was answered")
	}
	u, err := net.Dial("udp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }()
	for range 100 {
		if _, err := u.Write([]byte("nonsense of some length that cannot be decrypted")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.NewInvite(1, time.Hour, pki.DefaultCaps()); err != nil {
		t.Error(err)
	}
	start := time.Now()
	if err := n.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took >= filter.StreamTimeout {
		t.Errorf("Run took %v to end", took)
	}
}

func TestEnrolGivesUpWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	tok := pki.Token{Addrs: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}, Expires: time.Now().Add(time.Hour)}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := Enrol(ctx, tok.Encode(), newIdentity(t), "x"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v, want %v", err, ErrUnreachable)
	}
	if took := time.Since(start); took >= enrolTimeout {
		t.Errorf("took %v", took)
	}
}

// A token names every address that a newcomer may need, and no others.
func TestTokenAddrs(t *testing.T) {
	local := []netip.Addr{
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("10.0.0.5"),
		netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7"),
	}
	for _, tt := range []struct{ name, bind, advertise, own, want string }{
		{"ok: loopback", "127.0.0.1:0", "", "127.0.0.1:7", "[127.0.0.1:7]"},
		{"ok: one address", "10.0.0.5:7", "", "10.0.0.5:7", "[10.0.0.5:7]"},
		{"ok: all of v4", "0.0.0.0:7", "", "10.0.0.5:7", "[10.0.0.5:7 198.51.100.7:7]"},
		{"ok: all", "[::]:7", "", "10.0.0.5:7", "[10.0.0.5:7 198.51.100.7:7 [2001:db8::7]:7]"},
		{"ok: advertised", "0.0.0.0:7", "203.0.113.1:9", "203.0.113.1:9", "[203.0.113.1:9]"},
	} {
		m := &Mesh{cfg: Config{Bind: netip.MustParseAddrPort(tt.bind)}}
		if tt.advertise != "" {
			m.cfg.Advertise = netip.MustParseAddrPort(tt.advertise)
		}
		own := netip.MustParseAddrPort(tt.own)
		m.addr.Store(&own)
		if got := fmt.Sprint(m.tokenAddrs(local)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// In a mesh with an authority, a node that enrols gets a certificate, and only from a node with the authority's key.
func TestEnrolCertificate(t *testing.T) {
	t.Parallel()
	a := meshtest.Authority(t)
	secrets := newSecrets(t)
	copy(secrets.Authority[:], a.Public())
	inviter := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Authority = a }).run(t)
	text, err := inviter.NewInvite(5, time.Hour, pki.DefaultCaps())
	if err != nil {
		t.Fatal(err)
	}
	id := newIdentity(t)
	got, err := Enrol(t.Context(), text, id, "web1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Secrets != secrets || got.Certificate.ID() != id.ID() || got.Certificate.Name != "web1" {
		t.Errorf("enrolled with %+v", got)
	}
	if err := got.Certificate.Verify(a.Public(), secrets.MeshID, time.Now()); err != nil {
		t.Error(err)
	}
	if s := inviter.Standing(id.ID()); s.Certificate == nil || s.Certificate.Serial != got.Certificate.Serial {
		t.Errorf("the inviter knows %+v", s)
	}
	member := newNode(t, got.Secrets, id, func(c *Config) { c.Join, c.Certificate = got.Join, got.Certificate }).run(t)
	publish(t, member, "hello", time.Hour)
	eventually(t, 30*time.Second, "the newcomer is believed", func() bool { return inviter.deliveredCount() == 1 })
	if _, err := member.NewInvite(1, time.Hour, pki.DefaultCaps()); !errors.Is(err, pki.ErrNoAuthority) {
		t.Errorf("an invitation without the authority's key: %v, want %v", err, pki.ErrNoAuthority)
	}

	// A revoked node cannot come back with another token.
	if _, err := inviter.Revoke(id.ID(), "web1", time.Time{}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Enrol(t.Context(), text, id, "web1"); !errors.Is(err, pki.ErrRevoked) {
		t.Errorf("a revoked node enrols: %v, want %v", err, pki.ErrRevoked)
	}

	// A certificate for another node or another mesh is refused.
	other := certify(t, a, pki.Certificate{MeshID: secrets.MeshID, Serial: 1, Node: inviter.id.Public(), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
	foreign := certify(t, a, pki.Certificate{Serial: 1, Node: id.Public(), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
	for name, raw := range map[string][]byte{"of another node": other.Frame.Raw, "another mesh": foreign.Frame.Raw, "not a certificate": {1}} {
		if _, err := accepted(enrol.Answer{Code: enrol.OK, Secrets: secrets, Certificate: raw}, id); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a certificate that is %s: %v", name, err)
		}
	}
}

// An invitation keeps the caps of the nodes that it admits, even over a restart. A node that enrols again gets no more
// than its current caps.
func TestInviteCaps(t *testing.T) {
	a := meshtest.Authority(t)
	secrets, founder := newSecrets(t), newIdentity(t)
	copy(secrets.Authority[:], a.Public())
	var saved []byte
	inviterOf := func(epoch uint64) *testNode {
		return newNode(t, secrets, founder, func(c *Config) {
			c.Authority, c.Epoch = a, epoch
			c.SaveInvites = func(b []byte) error { saved = slices.Clone(b); return nil }
			c.LoadInvites = func() ([]byte, error) { return saved, nil }
		}).run(t)
	}
	inviter := inviterOf(1)
	caps := pki.Caps{Rate: 60, MinBits4: 28, MaxTTL: time.Hour}
	for _, bad := range []pki.Caps{{MinBits4: 33}, {MinBits6: 129}, {MaxTTL: time.Millisecond}, {MaxTTL: -time.Second}, {MaxTTL: frame.MaxLife + time.Second}} {
		if _, err := inviter.NewInvite(1, time.Hour, bad); err == nil {
			t.Errorf("invited with %+v", bad)
		}
	}
	text, err := inviter.NewInvite(2, time.Hour, caps)
	if err != nil {
		t.Fatal(err)
	}
	if err := inviter.stop(); err != nil {
		t.Fatal(err)
	}
	inviter = inviterOf(2)
	moved, err := pki.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	moved.Addrs = []netip.AddrPort{inviter.Addr()}
	id := newIdentity(t)
	enrol := func(want pki.Caps) {
		t.Helper()
		if e, err := Enrol(t.Context(), moved.Encode(), id, "web1"); err != nil || e.Certificate.Caps != want {
			t.Errorf("enrolled with %+v, %v; want %+v", e.Certificate.Caps, err, want)
		}
	}
	enrol(caps)
	narrow := pki.Caps{Rate: 1}
	if _, err := inviter.Certify(id.Public(), "web1", narrow); err != nil {
		t.Fatal(err)
	}
	enrol(narrow)
}

// stall opens streams from the addresses of a block. Each begins like a hello or announces a large message, then stays
// silent. A stream that ends is replaced by a new one until the test ends.
func stall(t *testing.T, block byte, to netip.AddrPort, begin []byte, addresses int) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	begun := make(chan struct{}, addresses)
	for i := range addresses {
		from := net.TCPAddr{IP: net.IPv4(127, block, byte(i>>8), byte(1+i))}
		all.Go(func() {
			for first := true; ctx.Err() == nil; first = false {
				conn, err := (&net.Dialer{LocalAddr: &from, Timeout: time.Second}).DialContext(ctx, "tcp", to.String())
				if err == nil {
					_, _ = conn.Write(begin)
				}
				if first {
					begun <- struct{}{}
				}
				if err != nil {
					continue
				}
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				_, _ = conn.Read(make([]byte, 1))
				stop()
				_ = conn.Close()
			}
		})
	}
	for range addresses {
		<-begun
	}
}

// A joiner with a token can make its handshake however many addresses without one have used up theirs. Strangers of one
// network leave most handshakes to others.
func TestHellosOfNewcomers(t *testing.T) {
	m, now := newNode(t, newSecrets(t), newIdentity(t), nil), simStart
	if err := m.loadInvites(); err != nil {
		t.Fatal(err)
	}
	invited := func(expires time.Time) string {
		secret := [16]byte{byte(expires.Second())}
		if err := m.invites.Add(now, secret, expires, 1, pki.DefaultCaps()); err != nil {
			t.Fatal(err)
		}
		return enrol.Knock(secret)
	}
	open, ended := invited(now.Add(time.Hour)), invited(now.Add(-time.Second))
	hello := func(from netip.Addr, knock string) bool {
		return m.allowHello(now, &tls.ClientHelloInfo{Conn: meshtest.StreamFrom(from.String()), ServerName: knock})
	}
	newcomer := netip.MustParseAddr("192.0.2.1")
	for i := range 250 {
		hello(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}), "")
		hello(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(i)}), "")
	}
	if !hello(newcomer, "") {
		t.Error("two networks use up the share of all")
	}
	for i := range 250 {
		hello(netip.AddrFrom4([4]byte{198, 19, byte(i), 1}), "")
	}
	for name, knock := range map[string]string{"no knock": "", "a made-up knock": strings.Repeat("0", len(open)), "the knock of an ended token": ended} {
		if hello(newcomer, knock) {
			t.Errorf("%s lets in", name)
		}
	}
	if !hello(newcomer, open) {
		t.Error("a newcomer with a token has to pay for strangers")
	}
	for range enrolBurst {
		hello(newcomer, open)
	}
	if hello(newcomer, open) {
		t.Error("an address may knock without end")
	}
}

// Four hundred addresses of a hundred networks make handshakes as fast as they may.
func TestHandshakesKeepNobodyOut(t *testing.T) {
	inviter := newNode(t, newSecrets(t), newIdentity(t), nil).run(t)
	const joiners, tries, attackers = 10, 3, 400
	text, err := inviter.NewInvite(joiners, time.Hour, pki.DefaultCaps())
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}).Handshake()
	}()
	hello := make([]byte, 2048)
	n, err := far.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	var all sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer all.Wait()
	defer stop()
	for i := range attackers {
		from := net.TCPAddr{IP: net.IPv4(127, 9, byte(i%100), byte(1+i/100))}
		all.Go(func() {
			for ctx.Err() == nil {
				<-time.After(250 * time.Millisecond)
				if conn, err := (&net.Dialer{LocalAddr: &from}).DialContext(ctx, "tcp", inviter.Addr().String()); err == nil {
					_ = conn.SetDeadline(time.Now().Add(time.Second))
					_, _ = conn.Write(hello[:n])
					_, _ = conn.Read(make([]byte, 1))
					_ = conn.Close()
				}
			}
		})
	}
	for inviter.hellos.Allow() { // until they have used up what strangers get
		<-time.After(time.Millisecond)
	}
	for i := range joiners {
		for try := 1; ; try++ {
			if _, err = Enrol(t.Context(), text, newIdentity(t), fmt.Sprint("web", i)); err == nil {
				break
			}
			if try == tries {
				t.Fatalf("joiner %d cannot enrol: %v", i, err)
			}
		}
	}
}

// Hundreds of addresses with stalled hellos and announced messages do not keep anybody from enrolling, asking for a key, or
// syncing.
func TestOutsidersKeepNobodyOut(t *testing.T) {
	secrets, inviterID := newSecrets(t), newIdentity(t)
	inviter := newNode(t, secrets, inviterID, nil).run(t)
	text, err := inviter.NewInvite(10, time.Hour, pki.DefaultCaps())
	if err != nil {
		t.Fatal(err)
	}
	member := newNode(t, secrets, newIdentity(t), func(c *Config) {
		c.Bind = netip.MustParseAddrPort("127.0.0.2:0")
		c.Join = []string{inviter.Addr().String()}
	}).run(t)
	eventually(t, 10*time.Second, "the member has proved its address", func() bool { return proves(inviter, member.id.ID(), member.Addr()) })
	hello := append([]byte{0x16, 3, 1, 2, 0}, make([]byte, 100)...)
	large := append(binary.BigEndian.AppendUint32([]byte{mlwire.Encrypt}, filter.MaxStreamMessage), make([]byte, 1<<20)...)
	stall(t, 1, inviter.Addr(), hello, 2*filter.MaxStrangerStreams)
	stall(t, 2, inviter.Addr(), large, 20)
	const tries = 5
	for range 3 {
		for try := 1; ; try++ {
			_, err := Enrol(t.Context(), text, newIdentity(t), "web1")
			if err == nil {
				break
			}
			if try == tries {
				t.Errorf("cannot enrol: %v", err)
				break
			}
		}
	}
	dial := &net.Dialer{LocalAddr: &net.TCPAddr{IP: member.Addr().Addr().AsSlice()}}
	for range 3 { // each asks for a key, like a member that missed a rotation
		conn, err := dial.Dial("tcp", inviter.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conf, err := enrol.TLS(member.id, func(ed25519.PublicKey) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if err := tls.Client(conn, conf).Handshake(); err != nil {
			t.Errorf("a member finds no ear: %v", err)
		}
		_ = conn.Close()
	}
	strangers, strange := inviter.tr.Load().Strangers()
	if strangers > filter.MaxStrangerStreams || strange > filter.StrangerBytes {
		t.Errorf("%d strangers are there, with %d bytes", strangers, strange)
	}
	node := &memberlist.Node{Name: inviter.id.ID().String(), Addr: inviter.Addr().Addr().AsSlice(), Port: inviter.Addr().Port()}
	before := inviter.Stats().Refused["format"]
	for i := range uint64(3) { // empty messages of the largest size
		if err := member.ml.Load().SendReliable(node, append([]byte{wire.KindSync}, make([]byte, replica.MaxMessage)...)); err != nil {
			t.Errorf("a large message of a member: %v", err)
		}
		eventually(t, 10*time.Second, "it arrives", func() bool { return inviter.Stats().Refused["format"] == before+i+1 })
	}
}

// A joiner is told if another certified node has its name; its own earlier enrolment does not count.
func TestEnrolTellsOfATakenName(t *testing.T) {
	a, secrets := meshtest.Authority(t), newSecrets(t)
	copy(secrets.Authority[:], a.Public())
	inviter := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Authority = a }).run(t)
	token, err := inviter.NewInvite(5, time.Hour, pki.DefaultCaps())
	if err != nil {
		t.Fatal(err)
	}
	first, second := newIdentity(t), newIdentity(t)
	for _, tt := range []struct {
		id    pki.Identity
		name  string
		taken bool
	}{{first, "web1", false}, {first, "web1", false}, {second, "web1", true}, {second, "web2", false}, {newIdentity(t), inviter.cfg.Name, true}} {
		e, err := Enrol(t.Context(), token, tt.id, tt.name)
		if err != nil {
			t.Fatal(err)
		}
		if e.NameTaken != tt.taken {
			t.Errorf("%s of %s: taken %v, want %v", tt.name, tt.id.ID().Short(), e.NameTaken, tt.taken)
		}
	}
}
