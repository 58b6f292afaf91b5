package filter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/mlwire"
)

// The number of a member's open streams and the memory of its messages are bounded.
func TestGuardBoundsMembers(t *testing.T) {
	g, count := testGuard(func(netip.Addr) {})
	g.isMember = func(netip.Addr) bool { return true }
	var open []*openStream
	for range sourceStreams {
		s, ok := g.enter(meshtest.StreamFrom("192.0.2.1"))
		if !ok {
			t.Fatal("refused too early")
		}
		open = append(open, s)
	}
	if _, ok := g.enter(meshtest.StreamFrom("192.0.2.1")); ok || count.Limited.Load() != 1 {
		t.Errorf("one more was let in; %d counted", count.Limited.Load())
	}
	other, ok := g.enter(meshtest.StreamFrom("192.0.2.2"))
	if !ok {
		t.Fatal("another address has to pay for it")
	}
	if !open[0].hold(sourceBytes) || open[1].hold(1) {
		t.Error("an address is not held to its share of memory")
	}
	if !other.hold(sourceBytes) {
		t.Error("another address has to pay for it")
	}
	third, _ := g.enter(meshtest.StreamFrom("192.0.2.3"))
	if third.hold(maxStreamBytes-2*sourceBytes+1) || !third.hold(maxStreamBytes-2*sourceBytes) {
		t.Error("all together are not held to theirs")
	}
	for _, s := range append(open, other, third) {
		s.release()
		s.leave()
		s.leave() // harmless
	}
	if len(g.streams) != 0 || g.open != 0 || g.bytes != 0 {
		t.Errorf("%d are open still, with %d bytes", g.open, g.bytes)
	}
	a := netip.MustParseAddr("2001:db8::1")
	if x, y := sourceAddr(a), sourceAddr(netip.MustParseAddr("2001:db8::2")); x != y {
		t.Errorf("one /64 counts as two: %v, %v", x, y)
	}
}

// The number of streams that a member opens in a second is bounded, however short they are.
func TestGuardBoundsShortStreams(t *testing.T) {
	g, count := testGuard(func(netip.Addr) {})
	g.isMember = func(netip.Addr) bool { return true }
	now := meshtest.Start
	g.now = func() time.Time { return now }
	pass := func(addr string) (passed int) {
		for range 2 * streamsRate {
			if s, ok := g.enter(meshtest.StreamFrom(addr)); ok {
				s.leave()
				passed++
			}
		}
		return passed
	}
	if n := pass("192.0.2.1"); n != streamsRate || count.Limited.Load() != streamsRate {
		t.Errorf("%d passed at once, want %d; %d were counted", n, streamsRate, count.Limited.Load())
	}
	if n := pass("192.0.2.2"); n != streamsRate {
		t.Errorf("%d of another address passed, want %d", n, streamsRate)
	}
	now = now.Add(time.Second)
	if n := pass("192.0.2.1"); n != streamsRate {
		t.Errorf("%d passed after a second, want %d", n, streamsRate)
	}
}

// Strangers, however many, take neither slots nor memory from members. The one that has stalled longest makes room for the
// next, and one address has a small share.
func TestGuardBoundsStrangers(t *testing.T) {
	member := netip.MustParseAddr("10.0.0.1")
	g, _ := testGuard(func(netip.Addr) {})
	g.isMember = func(a netip.Addr) bool { return a == member }
	var conns []meshtest.Conn
	var open []*openStream
	for i := range 2 * MaxStrangerStreams {
		c := meshtest.StreamFrom(netip.AddrFrom4([4]byte{127, byte(i >> 8), byte(i), 1}).String())
		s, ok := g.enter(c)
		if !ok {
			t.Fatalf("stranger %d is refused", i)
		}
		conns, open = append(conns, c), append(open, s)
	}
	for i, c := range conns {
		if old := i < MaxStrangerStreams; *c.Closed != old {
			t.Fatalf("stranger %d was ended: %v", i, *c.Closed)
		}
	}
	for _, s := range open[len(open)-strangerStreams:] {
		s.leave()
	}
	for range 3 * strangerStreams {
		s, ok := g.enter(meshtest.StreamFrom("2001:db8::1"))
		if !ok {
			t.Fatal("an address cannot come again")
		}
		open = append(open, s)
	}
	if n := g.streams[sourceAddr(netip.MustParseAddr("2001:db8::1"))].streams; n != strangerStreams {
		t.Errorf("one address has %d streams, want %d", n, strangerStreams)
	}
	for _, s := range open[MaxStrangerStreams:] {
		if !s.over && !s.hold(StrangerBytes/4) && !s.over {
			t.Error("a stranger finds no memory, which others take who stall")
		}
	}
	if g.strange > StrangerBytes {
		t.Errorf("strangers hold %d bytes, want at most %d", g.strange, StrangerBytes)
	}
	s, ok := g.enter(meshtest.StreamFrom(member.String()))
	if !ok || !s.hold(sourceBytes) {
		t.Error("a member finds no place, or no memory")
	}
	for _, s := range open {
		s.release()
		s.leave()
	}
	if g.strange != 0 || len(g.strangers) != 0 || len(g.nets) != 0 {
		t.Errorf("%d strangers are there still, with %d bytes", len(g.strangers), g.strange)
	}
}

// A newcomer keeps its slot, however many strangers come from a hundred networks or from one IPv6 /48, while its
// network has fewer streams than theirs. Once it has shown a token, it keeps its slot even if each stranger comes from
// a network of its own.
func TestNewcomerKeepsItsPlace(t *testing.T) {
	for _, tt := range []struct {
		name string
		from func(i int) netip.Addr
		keep bool
	}{
		{"a hundred networks", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i % 100), byte(i / 100)}) }, false},
		{"one IPv6 /48", func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 6: byte(i >> 8), 7: byte(i)})
		}, false},
		{"as many networks", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, byte(i >> 8), byte(i), 1}) }, true},
	} {
		g, _ := testGuard(func(netip.Addr) {})
		g.isMember = func(netip.Addr) bool { return false }
		enter := func(from netip.Addr) (meshtest.Conn, *openStream) {
			c := meshtest.StreamFrom(from.String())
			s, ok := g.enter(c)
			if !ok {
				t.Fatalf("%s: %v is refused", tt.name, from)
			}
			return c, s
		}
		newcomer, place := enter(netip.MustParseAddr("192.0.2.1"))
		if tt.keep {
			place.keep()
		}
		var last meshtest.Conn
		for i := range 10 * MaxStrangerStreams {
			last, _ = enter(tt.from(i))
		}
		if *newcomer.Closed || *last.Closed || len(g.strangers) != MaxStrangerStreams {
			t.Errorf("%s: the newcomer was ended: %v, the last one: %v; %d are there", tt.name, *newcomer.Closed, *last.Closed, len(g.strangers))
		}
	}
}

// Who has a token, perhaps one that was used up, keeps nobody else out who has one, from however many addresses it knocks.
func TestKnocksLeaveSlots(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	g.isMember = func(netip.Addr) bool { return false }
	knocks := func(from string) (meshtest.Conn, bool) {
		c := meshtest.StreamFrom(from)
		s, ok := g.enter(c)
		if ok {
			s.keep()
		}
		return c, ok
	}
	for i := range MaxStrangerStreams {
		if _, ok := knocks(fmt.Sprintf("2001:db8:0:%x::1", i/strangerStreams)); !ok {
			t.Fatal("refused too early")
		}
	}
	newcomer, ok := knocks("192.0.2.1")
	if !ok {
		t.Fatal("a newcomer finds no slot")
	}
	for i := range MaxStrangerStreams {
		knocks(fmt.Sprintf("2001:db8:1:%x::1", i))
	}
	if *newcomer.Closed {
		t.Error("the newcomer was ended before those of a network that has more")
	}
}

// A source that proves the mesh's key, as members behind NAT do, is not closed to make room for strangers, and is no
// stranger from then on.
func TestGuardRemembersKeyHolders(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	c := meshtest.StreamFrom("192.0.2.1")
	s, _ := g.enter(c)
	s.noteKey(meshtest.Start)
	for i := range 2 * MaxStrangerStreams {
		if _, ok := g.enter(meshtest.StreamFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}).String())); !ok {
			t.Fatal("a stranger is refused")
		}
	}
	isKnown := func() bool { _, ok := g.keyHolders[s.from]; return ok }
	if *c.Closed || !isKnown() {
		t.Errorf("ended: %v, known: %v", *c.Closed, isKnown())
	}
	for i := range maxKeyHolders {
		a := netip.AddrFrom4([4]byte{127, 2, byte(i >> 8), byte(i)})
		s, _ := g.enter(meshtest.StreamFrom(a.String()))
		s.noteKey(meshtest.Start.Add(time.Second))
		s.leave()
	}
	if len(g.keyHolders) != maxKeyHolders || isKnown() {
		t.Errorf("%d addresses are remembered", len(g.keyHolders))
	}
}

// A source that shares an IPv6 /64 with members, like machines of one network, uses up only the budget of strangers there,
// and none of the members'.
func TestNeighboursOfMembers(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	member := netip.MustParseAddr("2001:db8::1")
	g.isMember = func(a netip.Addr) bool { return a == member }
	from := func(addr string) netip.Addr {
		return SourceOf(&net.UDPAddr{IP: net.ParseIP(addr), Port: 7946}, g.isMember)
	}
	for i := range 2 * sourceBurst {
		g.allow(meshtest.Start, from([]string{"2001:db8::2", "2001:db8::3"}[i%2]), 1, nil)
	}
	if g.allow(meshtest.Start, from("2001:db8::4"), 1, nil) {
		t.Error("a further address of the /64 has an account of its own")
	}
	if !g.allow(meshtest.Start, from("2001:db8::1"), frameCost, nil) {
		t.Error("a member has to pay for its neighbours")
	}
	for range maxStreamsOpen {
		if _, ok := g.enter(meshtest.StreamFrom("2001:db8::2")); !ok {
			t.Fatal("the oldest stranger makes no room")
		}
	}
	for range sourceStreams {
		if s, ok := g.enter(meshtest.StreamFrom("2001:db8::1")); !ok || !s.known {
			t.Fatal("a member has to pay for its neighbours")
		}
	}
}

// Sources with the mesh's key but no certificate leave most of the memory to the members, however many addresses they use.
func TestKeyHoldersLeaveMemory(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	member := netip.MustParseAddr("10.0.0.1")
	g.isMember = func(a netip.Addr) bool { return a == member }
	var holders []*openStream
	for i := range 9 {
		from := fmt.Sprintf("192.0.2.%d", i+1)
		first, _ := g.enter(meshtest.StreamFrom(from))
		first.noteKey(meshtest.Start)
		first.leave()
		s, ok := g.enter(meshtest.StreamFrom(from))
		if !ok || !s.known {
			t.Fatal("the address of a key holder is a stranger's")
		}
		s.hold(MaxStreamMessage)
		holders = append(holders, s)
	}
	if s, ok := g.enter(meshtest.StreamFrom(member.String())); !ok || !s.hold(MaxStreamMessage) {
		t.Error("a member has no memory for a message")
	}
	for _, s := range holders {
		s.release()
		s.leave()
	}
	if g.keyHolderBytes != 0 {
		t.Errorf("%d bytes of key holders are left", g.keyHolderBytes)
	}
}

// Neither do they take the members' slots. A key holder that finds none of its own free comes as a stranger.
func TestKeyHoldersLeaveSlots(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	member := netip.MustParseAddr("10.0.0.1")
	g.isMember = func(a netip.Addr) bool { return a == member }
	var open []*openStream
	for i := range maxStreamsOpen / sourceStreams {
		from := fmt.Sprintf("192.0.%d.1", i)
		first, _ := g.enter(meshtest.StreamFrom(from))
		first.noteKey(meshtest.Start)
		first.leave()
		for range sourceStreams {
			if s, ok := g.enter(meshtest.StreamFrom(from)); ok {
				open = append(open, s)
			}
		}
	}
	for range sourceStreams {
		s, ok := g.enter(meshtest.StreamFrom(member.String()))
		if !ok {
			t.Fatalf("a member finds no slot beside %d streams of others", len(open))
		}
		open = append(open, s)
	}
	newcomer := meshtest.StreamFrom("198.51.100.1")
	first, _ := g.enter(newcomer)
	first.noteKey(meshtest.Start)
	if _, ok := g.enter(newcomer); !ok {
		t.Error("a newcomer finds no slot")
	}
	for _, s := range open {
		s.leave()
	}
	if g.open != 0 || g.keyHoldersOpen != 0 {
		t.Errorf("%d slots are taken still, %d by key holders", g.open, g.keyHoldersOpen)
	}
}

// announcing is a stream that announces the largest message, and ends.
type announcing struct {
	meshtest.Conn
	text *bytes.Reader
}

func (c announcing) Read(b []byte) (int, error) { return c.text.Read(b) }

// However many strangers announce messages, members that were quiet send as fast as before.
func TestStrangersLeaveRates(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	member := netip.MustParseAddr("10.0.0.1")
	g.isMember = func(a netip.Addr) bool { return a == member }
	head := binary.BigEndian.AppendUint32([]byte{mlwire.Encrypt}, MaxStreamMessage)
	for i := range maxSources + sourceStreamBurst/streamStep {
		conn := announcing{meshtest.StreamFrom(netip.AddrFrom4([4]byte{127, byte(i >> 8), byte(i), 1}).String()), bytes.NewReader(head)}
		s, ok := g.enter(conn)
		if !ok {
			t.Fatal("the oldest stranger makes no room")
		}
		c := g.wrap(conn, s)
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("no message is read as one")
		}
		_ = c.Close()
	}
	if !g.arrived.Take(meshtest.Start, member, sourceStreamBurst) {
		t.Error("a member shares the rate of strangers")
	}
}

// However many addresses open streams, to tell of members or for anything else that is counted by address, a member that was
// quiet has an account of its own.
func TestGuardKeepsAccountsOfMembers(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	member := netip.MustParseAddr("10.0.0.1")
	g.isMember = func(a netip.Addr) bool { return a == member }
	for name, b := range map[string]*Buckets[netip.Addr]{
		"packets": &g.packets, "notices": &g.notices, "news": &g.news, "flood": &g.packetFlood, "bytes": &g.arrived, "streams": &g.opened,
	} {
		for i := range 2 * maxSources {
			b.Take(meshtest.Start, netip.AddrFrom4([4]byte{127, byte(i >> 8), byte(i), 1}), b.others.Burst())
		}
		if len(b.of) != maxSources {
			t.Errorf("%s: %d accounts, want %d", name, len(b.of), maxSources)
		}
		for _, own := range []netip.Addr{member, anywhere, unproven} {
			if !b.Take(meshtest.Start, own, b.others.Burst()) {
				t.Errorf("%s: %v shares the account of others", name, own)
			}
		}
	}
}
