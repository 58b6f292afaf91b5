package fw

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestPortsSharedByTwoEntriesLiveAsLongAsEither(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	bans := newPortBans()
	host := netip.MustParsePrefix("192.0.2.1/32")
	update := func(remove bool, end time.Duration, ports ...PortRange) string {
		put, out, ok := bans.change(now, Update{Entry{host, ports, now.Add(end)}, remove})
		if !ok {
			return "full"
		}
		s := ""
		for _, p := range put {
			s += fmt.Sprintf("+%d/%d@%v ", p.port, p.proto, p.until.Sub(now))
		}
		for _, k := range out {
			s += fmt.Sprintf("-%d/%d ", k.port, k.proto)
		}
		return s
	}
	web, wide := PortRange{ProtoTCP, 80, 80}, PortRange{ProtoTCP, 79, 81}
	for i, step := range []struct{ got, want string }{
		{update(false, time.Minute, web), "+80/6@1m0s "},
		{update(false, time.Hour, wide), "+79/6@1h0m0s +80/6@1h0m0s +81/6@1h0m0s "},
		{update(false, 2*time.Minute, web), "+80/6@1h0m0s "},
		{update(true, 0, wide), "+80/6@2m0s -79/6 -81/6 "},
		{update(true, 0, wide), "+80/6@2m0s -79/6 -81/6 "}, // a second try
		{update(false, -time.Minute, web), "-80/6 "},
		{update(false, time.Minute, PortRange{ProtoAny, 53, 53}), "+53/6@1m0s +53/17@1m0s "},
	} {
		if step.got != step.want {
			t.Errorf("step %d: got %q, want %q", i, step.got, step.want)
		}
	}
	if bans.size != 2 {
		t.Errorf("size %d, want 2", bans.size)
	}
}

func TestPortsAreBounded(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	bans := newPortBans()
	all := []PortRange{{ProtoAny, 0, 65535}}
	n := 0
	for ; n < 100; n++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 32)
		if !bans.keep(Entry{p, all, now.Add(time.Hour)}) {
			break
		}
	}
	if n != maxPortElements/(2*65536) || bans.size > maxPortElements {
		t.Errorf("%d entries, size %d", n, bans.size)
	}
	bans.drop(netip.MustParsePrefix("10.0.0.0/32"), func(portBan) bool { return true })
	if !bans.keep(Entry{netip.MustParsePrefix("10.9.9.9/32"), all, now.Add(time.Hour)}) {
		t.Error("no room after one went")
	}
}

func FuzzPortsText(f *testing.F) {
	f.Add(uint8(0), uint16(80), uint16(80), uint8(6), uint16(22), uint16(25))
	f.Fuzz(func(t *testing.T, p1 uint8, a, b uint16, p2 uint8, c, d uint16) {
		protos := []uint8{ProtoAny, ProtoTCP, ProtoUDP}
		ranges := []PortRange{{protos[p1%3], min(a, b), max(a, b)}, {protos[p2%3], min(c, d), max(c, d)}}
		text := PortsText(ranges)
		slices.Reverse(ranges)
		if again := PortsText(ranges); again != text {
			t.Errorf("%q and %q", text, again)
		}
	})
}
