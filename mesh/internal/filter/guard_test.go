package filter

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

var guardKey = bytes.Repeat([]byte{7}, 32)

func testGuard(flooded func(netip.Addr)) (*guard, *Count) {
	count := &Count{}
	return newGuard(func() [][]byte { return [][]byte{make([]byte, 32), guardKey} }, func() time.Time { return meshtest.Start }, count,
		func(a netip.Addr, _ bool) { flooded(a) }), count
}

func TestGuardPackets(t *testing.T) {
	user := append([]byte{mlwire.User}, wire.Pack(wire.KindPush, [][]byte{{1, 2, 3}, {4}})[0]...)
	compound := func(parts ...[]byte) []byte {
		b := []byte{mlwire.Compound, byte(len(parts))}
		for _, p := range parts {
			b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		}
		return append(b, bytes.Join(parts, nil)...)
	}
	padding := bytes.Repeat([]byte{0xff}, 32)
	other := bytes.Repeat([]byte{9}, 32)
	for _, tt := range []struct {
		name   string
		packet []byte
		ok     bool
	}{
		{"ok: a message of ours", meshtest.Sealed(t, guardKey, 1, user, nil), true},
		{"ok: a ping", meshtest.Sealed(t, guardKey, 1, []byte{mlwire.Ping, 0x80}, nil), true},
		{"ok: with a checksum", meshtest.Sealed(t, guardKey, 1, append([]byte{mlwire.CRC, 1, 2, 3, 4}, user...), nil), true},
		{"ok: several", meshtest.Sealed(t, guardKey, 1, compound(user, []byte{mlwire.Ping, 0x80}), nil), true},
		{"bad: nothing", nil, false},
		{"bad: nothing in it", meshtest.Sealed(t, guardKey, 1, nil, nil), false},
		{"bad: the old version, whose padding memberlist does not check", meshtest.Sealed(t, guardKey, 0, padding, nil), false},
		{"bad: another key", meshtest.Sealed(t, other, 1, user, nil), false},
		{"bad: not encrypted", user, false},
		{"bad: compressed", meshtest.Sealed(t, guardKey, 1, []byte{9, 1, 2, 3}, nil), false},
		{"bad: compressed among others", meshtest.Sealed(t, guardKey, 1, compound(user, []byte{9, 1}), nil), false},
		{"bad: several in several", meshtest.Sealed(t, guardKey, 1, compound(compound(user)), nil), false},
		{"bad: a part longer than the packet", meshtest.Sealed(t, guardKey, 1, []byte{mlwire.Compound, 1, 0, 9, mlwire.Ping}, nil), false},
		{"bad: a membership by packet", meshtest.Sealed(t, guardKey, 1, []byte{mlwire.PushPull, 0x80}, nil), false},
		{"bad: longer than any", meshtest.Sealed(t, guardKey, 1, append(user, make([]byte, maxDatagram)...), nil), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, count := testGuard(func(netip.Addr) {})
			if got := g.packet(tt.packet, netip.MustParseAddr("192.0.2.1")); got != tt.ok {
				t.Errorf("passed: %v", got)
			}
			if n := count.Strangers.Load() + count.Refused.Load(); (n == 0) != tt.ok {
				t.Errorf("%d were counted", n)
			}
		})
	}
}

// aliveOf returns the news that a member has come.
func aliveOf(id pki.Identity) mlwire.AliveMessage {
	m := meta.Data{Protocol: meta.Protocol, Key: id.Public(), Name: "web1", Version: "1", Place: make([]byte, ed25519.SignatureSize)}
	return mlwire.AliveMessage{Incarnation: 7, Node: id.ID().String(), Addr: []byte{192, 0, 2, 1}, Port: 7946, Meta: m.Encode(), Vsn: mlwire.Versions[:]}
}

// News of a member that would break memberlist's table, or that it would refuse later, goes no further, even in a compound
// packet.
func TestGuardRefusesOddMembers(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*mlwire.AliveMessage)
		ok   bool
	}{
		{"ok", func(*mlwire.AliveMessage) {}, true},
		{"ok: IPv6", func(a *mlwire.AliveMessage) { a.Addr = append([]byte{0x20}, make([]byte, 15)...) }, true},
		{"bad: no versions", func(a *mlwire.AliveMessage) { a.Vsn = nil }, false},
		{"bad: five versions", func(a *mlwire.AliveMessage) { a.Vsn = a.Vsn[:5] }, false},
		{"bad: seven versions", func(a *mlwire.AliveMessage) { a.Vsn = append(slices.Clone(a.Vsn), 0) }, false},
		{"bad: a later version alone", func(a *mlwire.AliveMessage) { a.Vsn = []byte{5, 5, 5, 0, 0, 0} }, false},
		{"bad: the first version alone", func(a *mlwire.AliveMessage) { a.Vsn = []byte{1, 1, 1, 0, 0, 0} }, false},
		{"bad: it can no more than it speaks", func(a *mlwire.AliveMessage) { a.Vsn = []byte{1, 2, 2, 0, 0, 0} }, false},
		{"bad: another version of what is inside", func(a *mlwire.AliveMessage) { a.Vsn = []byte{1, 5, 2, 1, 1, 1} }, false},
		{"bad: a name that is no id", func(a *mlwire.AliveMessage) { a.Node = "web1" }, false},
		{"bad: another node's name", func(a *mlwire.AliveMessage) { a.Node = meshtest.Signers[1].ID().String() }, false},
		{"bad: no port", func(a *mlwire.AliveMessage) { a.Port = 0 }, false},
		{"bad: no address", func(a *mlwire.AliveMessage) { a.Addr = nil }, false},
		{"bad: an address of five bytes", func(a *mlwire.AliveMessage) { a.Addr = make([]byte, 5) }, false},
		{"bad: address 0", func(a *mlwire.AliveMessage) { a.Addr = make([]byte, 4) }, false},
		{"bad: no metadata", func(a *mlwire.AliveMessage) { a.Meta = nil }, false},
		{"bad: metadata cut short", func(a *mlwire.AliveMessage) { a.Meta = a.Meta[:40] }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := aliveOf(meshtest.Signers[0])
			tt.edit(&a)
			b := meshtest.OfMemberlist(t, mlwire.Alive, a)
			both := []byte{mlwire.Compound, 2, 0, 2, byte(len(b) >> 8), byte(len(b)), mlwire.Ping, 0x80}
			for _, plain := range [][]byte{b, append(both, b...)} {
				g, _ := testGuard(func(netip.Addr) {})
				if got := g.packet(meshtest.Sealed(t, guardKey, 1, plain, nil), netip.MustParseAddr("192.0.2.1")); got != tt.ok {
					t.Errorf("passed: %v", got)
				}
			}
		})
	}
}

// One address gets no more than its share, and others still get theirs.
func TestGuardHoldsSourcesToTheirRate(t *testing.T) {
	var told []netip.Addr
	g, count := testGuard(func(a netip.Addr) { told = append(told, a) })
	now := meshtest.Start
	g.now = func() time.Time { return now }
	origins := 0
	frames := func(n int) []byte { // each of another origin
		b := []byte{mlwire.User, wire.KindPush}
		for range n {
			origins++
			b = wire.AppendPacked(b, meshtest.RawOf(origins, 100))
		}
		return meshtest.Sealed(t, guardKey, 1, b, nil)
	}
	bad, good := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	pass := func(n int) (passed int) {
		for range n {
			if g.packet(frames(10), bad) {
				passed += 10 * frameCost
			}
		}
		return passed
	}
	if got := pass(accuseFactor * sourceBurst / frameCost / 10); got != sourceBurst || len(told) != 0 || count.Limited.Load() == 0 {
		t.Errorf("%d units passed, want %d; told of %v, %d dropped", got, sourceBurst, told, count.Limited.Load())
	}
	if got := pass(1); got != 0 || len(told) != 1 || told[0] != bad {
		t.Errorf("%d units passed, want %d; told of %v, %d dropped", got, sourceBurst, told, count.Limited.Load())
	}
	if !g.packet(frames(10), good) {
		t.Error("another address has to pay for it")
	}
	now = now.Add(time.Second / 4)
	if got := pass(sourceBurst / frameCost / 10); got != sourceRate/4/(10*frameCost)*(10*frameCost) {
		t.Errorf("%d units passed after a quarter of a second, want %d", got, sourceRate/4)
	}
	for i := range 2 * maxSources {
		g.packets.Take(now, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
	}
	if n := len(g.packets.of); n > maxSources {
		t.Errorf("%d addresses have an account, want at most %d", n, maxSources)
	}
}

// A member that sent from many addresses used to have a share for each of them. Now all addresses at which no member
// has answered have one share together, apart from the members'.
func TestGuardHoldsAllOtherAddressesToOneRate(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	now := meshtest.Start
	g.now = func() time.Time { return now }
	member := netip.MustParseAddr("192.0.2.1")
	g.isMember = func(a netip.Addr) bool { return a == member }
	from, origins := netip.MustParseAddr("198.18.0.0"), 0
	push := func() []byte {
		origins++
		return meshtest.Sealed(t, guardKey, 1, wire.AppendPacked([]byte{mlwire.User, wire.KindPush}, meshtest.RawOf(origins, 100)), nil)
	}
	pass := func() (passed int) {
		for range 2 * elsewhereRate {
			if from = from.Next(); g.packet(push(), from) {
				passed++
			}
		}
		return passed
	}
	if got := pass(); got != elsewhereRate {
		t.Errorf("%d frames passed, want %d", got, elsewhereRate)
	}
	if !g.packet(push(), member) {
		t.Error("a member has to pay for them")
	}
	ping := meshtest.Sealed(t, guardKey, 1, meshtest.OfMemberlist(t, mlwire.Ping, struct {
		SeqNo uint32
		Node  string
	}{1, "x"}), nil)
	if !g.packet(ping, from.Next()) {
		t.Error("a ping from elsewhere is dropped, so that no newcomer could answer")
	}
	now = now.Add(time.Second / 2)
	if got := pass(); got != elsewhereRate/2 {
		t.Errorf("%d frames passed half a second later, want %d", got, elsewhereRate/2)
	}
}

// Packets from more made-up addresses than there are accounts use up no member's share. Members used to share an
// account with such packets, and one that had been quiet for half a second was hardly heard.
func TestMadeUpAddressesTakeNoMembersPlace(t *testing.T) {
	member := netip.MustParseAddr("192.0.2.1")
	const each = 20 // packets in a millisecond
	for _, tt := range []struct {
		name  string
		plain []byte
	}{
		{"answers to pings", meshtest.OfMemberlist(t, mlwire.Ack, mlwire.AckMessage{SeqNo: 1})},
		{"accusations", meshtest.OfMemberlist(t, mlwire.Suspect, mlwire.Accusation{Node: meshtest.Signers[1].ID().String()})},
		{"frames", wire.AppendPacked([]byte{mlwire.User, wire.KindPush}, meshtest.RawOf(1, 100))},
	} {
		g, _ := testGuard(func(netip.Addr) {})
		now := meshtest.Start
		g.now = func() time.Time { return now }
		g.isMember = func(a netip.Addr) bool { return a == member }
		bad, good := meshtest.Sealed(t, guardKey, 1, tt.plain, nil), meshtest.Sealed(t, guardKey, 1, wire.AppendPacked([]byte{mlwire.User, wire.KindPush}, meshtest.RawOf(2, 100)), nil)
		from := netip.MustParseAddr("198.18.0.0")
		for ms := 1; ms <= 3000; ms++ {
			now = now.Add(time.Millisecond)
			for range each {
				from = from.Next()
				g.packet(bytes.Clone(bad), from)
			}
			if ms%600 == 0 && !g.packet(bytes.Clone(good), member) {
				t.Errorf("%s: the member is not heard after %d ms", tt.name, ms)
			}
		}
	}
}

// One of our messages that arrives by stream costs its source as much as it would as a packet, however its bytes are
// arranged.
func TestGuardHoldsStreamsToTheirRate(t *testing.T) {
	origins := 0
	push := func(kind byte) []byte {
		b := []byte{kind}
		for range 10 {
			origins++
			b = wire.AppendPacked(b, meshtest.RawOf(origins, 100))
		}
		return b
	}
	for _, tt := range []struct {
		name string
		body func() []byte
		want int // of 1,000 messages
	}{
		{"frames", func() []byte { return push(wire.KindPush) }, sourceBurst / frameCost / 10},
		{"frames along a tree", func() []byte { return push(wire.KindTree) }, sourceBurst / frameCost / 10},
		{"frames of one origin", func() []byte { return wire.AppendPacked([]byte{wire.KindPush}, meshtest.RawOf(0, 100)) }, originBurst / smallCost},
		{"questions", func() []byte { return []byte{wire.KindAsk, 1} }, sourceBurst / frameCost},
		{"notices", func() []byte { return []byte{wire.KindNotice, 1} }, noticesBurst},
		{"reports", func() []byte { return []byte{wire.KindPath, 1} }, noticesBurst},
		{"syncs that fit a packet", func() []byte { return []byte{wire.KindSync, 1} }, sourceBurst / frameCost},
		{"larger ones, which their session bounds", func() []byte { return append([]byte{wire.KindSync}, make([]byte, wire.MaxPacket)...) }, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, count := testGuard(func(netip.Addr) {})
			passed := 0
			for range 1000 {
				body := tt.body()
				plain := append(meshtest.OfMemberlist(t, mlwire.User, mlwire.UserHead{UserMsgLen: len(body)}), body...)
				head := binary.BigEndian.AppendUint32([]byte{mlwire.Encrypt}, uint32(mlwire.Overhead+len(plain)))
				if _, err := g.stream(append(head[:5:5], meshtest.Sealed(t, guardKey, 1, plain, head)...), netip.MustParseAddr("192.0.2.1")); err == nil {
					passed++
				}
			}
			if passed != tt.want || count.Limited.Load() != uint64(1000-passed) {
				t.Errorf("%d of 1000 passed, want %d; %d were counted", passed, tt.want, count.Limited.Load())
			}
		})
	}
}

// News of members costs signature checks, so one address may report a whole mesh at once and then newsRate members a
// second, by packets and streams together. Known news is free, and other addresses pay nothing.
func TestGuardBoundsNewsOfMembers(t *testing.T) {
	g, count := testGuard(func(netip.Addr) {})
	now := meshtest.Start
	g.now = func() time.Time { return now }
	known := aliveOf(meshtest.Signers[1])
	g.knows = func(id frame.ID, at netip.AddrPort, about []byte) bool {
		return id == meshtest.Signers[1].ID() && at == netip.MustParseAddrPort("192.0.2.1:7946") && bytes.Equal(about, known.Meta)
	}
	bad, good := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")
	exchange := func(from netip.Addr, a mlwire.AliveMessage, n int) bool {
		one := meshtest.OfMemberlist(t, 0, a.State(mlwire.StateAlive))[1:]
		plain := append(meshtest.OfMemberlist(t, mlwire.PushPull, mlwire.PushPullHead{Nodes: n}), bytes.Repeat(one, n)...)
		head := binary.BigEndian.AppendUint32([]byte{mlwire.Encrypt}, uint32(mlwire.Overhead+len(plain)))
		_, err := g.stream(append(head[:5:5], meshtest.Sealed(t, guardKey, 1, plain, head)...), from)
		return err == nil
	}
	packet := func(from netip.Addr, a mlwire.AliveMessage) bool {
		return g.packet(meshtest.Sealed(t, guardKey, 1, meshtest.OfMemberlist(t, mlwire.Alive, a), nil), from)
	}
	news := aliveOf(meshtest.Signers[0])
	if !exchange(bad, news, newsBurst-1) || !packet(bad, news) {
		t.Fatal("a whole mesh is too much news")
	}
	if exchange(bad, news, 1) || packet(bad, news) || count.Limited.Load() != 2 {
		t.Errorf("more than a whole mesh passed; %d were counted", count.Limited.Load())
	}
	moved := known
	moved.Port++
	if !exchange(bad, known, 1000) || !packet(bad, known) || packet(bad, moved) {
		t.Error("what is known is not told from news")
	}
	if !packet(good, news) {
		t.Error("another address has to pay for it")
	}
	now = now.Add(time.Second)
	passed := 0
	for range 2 * newsRate {
		if packet(bad, news) {
			passed++
		}
	}
	if passed != newsRate {
		t.Errorf("%d passed after a second, want %d", passed, newsRate)
	}
}

// streamed sends b to a guarded stream and returns what memberlist would read.
func streamed(t *testing.T, g *guard, b []byte) ([]byte, error) {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		_, _ = far.Write(b)
		_ = far.Close()
	}()
	conn := g.wrap(near, g.dialled(near))
	got, err := io.ReadAll(conn)
	if closeErr := conn.Close(); closeErr != nil {
		t.Error(closeErr)
	}
	return got, err
}

func TestGuardStreams(t *testing.T) {
	message := func(version byte, plain []byte) []byte {
		head := binary.BigEndian.AppendUint32([]byte{mlwire.Encrypt}, uint32(mlwire.Overhead+len(plain)))
		return append(head, meshtest.Sealed(t, guardKey, version, plain, head)...)
	}
	type membership struct{ Nodes, UserStateLen int }
	type user struct{ UserMsgLen int }
	good := aliveOf(meshtest.Signers[0])
	odd := good
	odd.Vsn = []byte{1, 5, 2, 0, 0, 1}
	stateOf := func(a mlwire.AliveMessage) []byte {
		return meshtest.OfMemberlist(t, 0, a.State(mlwire.StateAlive))[1:]
	}
	announced := binary.BigEndian.AppendUint32([]byte{mlwire.Encrypt}, MaxStreamMessage+1)
	for _, tt := range []struct {
		name string
		sent []byte
		want error // nil: passed
	}{
		{"ok: a message of ours", message(1, append(meshtest.OfMemberlist(t, mlwire.User, user{3}), 1, 2, 3)), nil},
		{"bad: a message of ours with bytes behind it", message(1, append(meshtest.OfMemberlist(t, mlwire.User, user{3}), 1, 2, 3, 4)), errStreamSize},
		{"ok: a large one", message(1, append(meshtest.OfMemberlist(t, mlwire.User, user{1 << 20}), make([]byte, 1<<20)...)), nil},
		{"ok: a membership", message(1, append(meshtest.OfMemberlist(t, mlwire.PushPull, membership{3, 0}), bytes.Repeat(stateOf(good), 3)...)), nil},
		{"bad: a membership cut short", message(1, append(meshtest.OfMemberlist(t, mlwire.PushPull, membership{3, 0}), bytes.Repeat(stateOf(good), 2)...)), errStreamKind},
		{"bad: a member of another version among others", message(1, append(append(meshtest.OfMemberlist(t, mlwire.PushPull, membership{2, 0}), stateOf(good)...), stateOf(odd)...)), errStreamKind},
		{"ok: a ping", message(1, []byte{mlwire.Ping, 0x80}), nil},
		{"bad: nothing in it", message(1, nil), errStreamSize},
		{"bad: the old version", message(0, bytes.Repeat([]byte{0xff}, 32)), errNotEncrypted},
		{"bad: not encrypted", []byte("\x06 no secret"), errNotEncrypted},
		{"bad: too long", announced, errStreamSize},
		{"bad: a million members in a few bytes", message(1, meshtest.OfMemberlist(t, mlwire.PushPull, membership{1 << 20, 0})), errStreamSize},
		{"bad: less than no members", message(1, meshtest.OfMemberlist(t, mlwire.PushPull, membership{-1, 0})), errStreamSize},
		{"bad: 20 MB of state", message(1, meshtest.OfMemberlist(t, mlwire.PushPull, membership{0, 20 << 20})), errStreamSize},
		{"bad: 20 MB announced", message(1, meshtest.OfMemberlist(t, mlwire.User, user{20 << 20})), errStreamSize},
		{"bad: compressed", message(1, []byte{9, 1, 2, 3}), errStreamKind},
		{"bad: no head", message(1, []byte{mlwire.User}), errStreamKind},
		{"bad: cut short", message(1, make([]byte, 100))[:60], io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, _ := testGuard(func(netip.Addr) {})
			got, err := streamed(t, g, tt.sent)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if tt.want == nil && !bytes.Equal(got, tt.sent) {
				t.Errorf("%d bytes passed of %d", len(got), len(tt.sent))
			}
			if tt.want != nil && len(got) > 0 {
				t.Errorf("%d bytes passed all the same", len(got))
			}
			if g.bytes != 0 || len(g.streams) != 0 {
				t.Errorf("%d bytes are still held, by %v", g.bytes, g.streams)
			}
		})
	}
}

// Decrypting with the wrong key yields a random head. It must not let the message through, although one in a hundred such
// heads looks harmless.
func TestGuardOpensWithTheKeyOfAStream(t *testing.T) {
	g, count := testGuard(func(netip.Addr) {})
	plain := meshtest.OfMemberlist(t, mlwire.User, mlwire.UserHead{UserMsgLen: 20 << 20})
	head := binary.BigEndian.AppendUint32([]byte{mlwire.Encrypt}, uint32(mlwire.Overhead+len(plain)))
	const times = 2000
	for range times {
		if _, err := g.stream(append(head[:5:5], meshtest.Sealed(t, guardKey, 1, plain, head)...), netip.Addr{}); !errors.Is(err, errStreamSize) {
			t.Fatalf("error %v, want %v", err, errStreamSize)
		}
	}
	if n := count.Refused.Load(); n != times {
		t.Errorf("%d refused, want %d", n, times)
	}
}

// An address gets a share for each origin that it speaks for. Small frames cost three times as much as bulk frames.
func TestGuardHoldsOriginsToTheirRate(t *testing.T) {
	for _, tt := range []struct {
		name                  string
		size, once, inASecond int
	}{
		{"small frames", wire.FreshSize, 50, 100},
		{"frames of a bulk", wire.FreshSize + 1, 150, 300},
		{"not even a key", 10, 50, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var told []netip.Addr
			g, count := testGuard(func(a netip.Addr) { told = append(told, a) })
			now := meshtest.Start
			g.now = func() time.Time { return now }
			pass := func(from string, origin, n int) (passed int) {
				raw := make([]byte, tt.size)
				if tt.size > frame.KeyAt {
					raw = meshtest.RawOf(origin, tt.size)
				}
				packet := meshtest.Sealed(t, guardKey, 1, wire.AppendPacked([]byte{mlwire.User, wire.KindPush}, raw), nil)
				for range n {
					if g.packet(packet, netip.MustParseAddr(from)) {
						passed++
					}
				}
				return passed
			}
			beyond := tt.once / 2
			if got := pass("192.0.2.1", 1, tt.once+beyond); got != tt.once || len(told) != 0 || count.Limited.Load() != uint64(beyond) {
				t.Errorf("%d passed at once, want %d; told of %d, %d dropped", got, tt.once, len(told), count.Limited.Load())
			}
			if pass("192.0.2.2", 1, 1) == 0 {
				t.Error("who forges frames spends what their origin has")
			}
			if tt.size > frame.KeyAt && pass("192.0.2.1", 2, 1) == 0 {
				t.Error("another origin, of whom the address passes frames on, has to pay for it")
			}
			passed := 0
			for range 1000 {
				now = now.Add(time.Millisecond)
				passed += pass("192.0.2.1", 1, 1)
			}
			if passed < tt.inASecond-1 || passed > tt.inASecond+1 {
				t.Errorf("%d passed in a second, want %d", passed, tt.inASecond)
			}
		})
	}
}

// A slowed origin may say less for a while, whichever node passes its frames on. Others may say as much as before.
func TestGuardSlowsOrigins(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	now := meshtest.Start
	g.now = func() time.Time { return now }
	said := func(origin, size int) (passed int) {
		packet := meshtest.Sealed(t, guardKey, 1, wire.AppendPacked([]byte{mlwire.User, wire.KindPush}, meshtest.RawOf(origin, size)), nil)
		for range 100 {
			if g.packet(packet, netip.MustParseAddr("192.0.2.1")) {
				passed++
			}
		}
		return passed
	}
	slowed := func(origin int) frame.ID {
		return frame.IDOf(meshtest.RawOf(origin, wire.FreshSize)[frame.KeyAt : frame.KeyAt+ed25519.PublicKeySize])
	}
	g.slow(slowed(1))
	g.slow(slowed(2))
	if small, bulk, other := said(1, wire.FreshSize), said(2, wire.FreshSize+1), said(3, wire.FreshSize); small != 6 || bulk != 18 || other != 50 {
		t.Errorf("at once %d small frames and %d of a bulk, and %d of another; want 6, 18, 50", small, bulk, other)
	}
	if n := g.slowedNow(); n != 2 {
		t.Errorf("%d origins are slowed, want 2", n)
	}
	now = now.Add(slowFor)
	if got, n := said(1, wire.FreshSize), g.slowedNow(); got != 50 || n != 0 {
		t.Errorf("%d frames afterwards, want 50; %d are slowed still", got, n)
	}
	for i := range maxSources + 10 {
		g.slow(slowed(i))
	}
	if n := len(g.slowed); n > maxSources {
		t.Errorf("%d are kept, want at most %d", n, maxSources)
	}
}

// A frame's key is where the guard looks for it.
func TestKeyStandsWhereTheGuardLooks(t *testing.T) {
	f, err := meshtest.Signers[0].Sign(frame.Frame{Epoch: math.MaxUint64 - 1, Seq: 1, Issued: meshtest.Start, Expires: meshtest.Start.Add(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.Raw[frame.KeyAt:frame.KeyAt+len(f.Key)], f.Key) {
		t.Errorf("%x is not in %x", f.Key, f.Raw)
	}
}

// Whatever a packet holds, the guard reaches a decision, and never lets an empty or compressed message through.
func FuzzGuard(f *testing.F) {
	f.Add([]byte{mlwire.User, wire.KindPush, 0, 1, 7})
	f.Add([]byte{mlwire.Compound, 2, 0, 1, 0, 1, mlwire.Ping, 9})
	f.Add([]byte{mlwire.CRC, 0, 0, 0, 0, mlwire.Compound, 0})
	f.Add(meshtest.OfMemberlist(f, mlwire.PushPull, mlwire.PushPullHead{Nodes: 1 << 20}))
	f.Add(meshtest.OfMemberlist(f, mlwire.Alive, aliveOf(meshtest.Signers[0])))
	f.Add(append(meshtest.OfMemberlist(f, mlwire.PushPull, mlwire.PushPullHead{Nodes: 1}), meshtest.OfMemberlist(f, 0, mlwire.NodeState{Vsn: mlwire.Versions[:]})[1:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, _ := testGuard(nil)
		var frames [][]byte
		if cost, ok := g.packetCost(b, netip.Addr{}, true, &frames); ok && (len(b) == 0 || b[0] == 9 || b[0] == mlwire.PushPull || cost < 0) {
			t.Errorf("passed at %d: %x", cost, b)
		}
		if len(b) == 0 {
			return
		}
		if _, err := g.streamHead(b, netip.Addr{}); err == nil && b[0] == 9 {
			t.Errorf("passed: %x", b)
		}
	})
}
