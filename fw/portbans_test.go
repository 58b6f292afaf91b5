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
	text := func(updates ...Update) string {
		var put, out string
		left := bans.changes(now, updates, func(prefix netip.Prefix, p portElement) {
			if prefix != host {
				t.Errorf("an element of %v", prefix)
			}
			if p.until.IsZero() {
				out += fmt.Sprintf("-%d/%d ", p.port, p.proto)
			} else {
				put += fmt.Sprintf("+%d/%d@%v ", p.port, p.proto, p.until.Sub(now))
			}
		})
		if left > 0 {
			return "full"
		}
		return put + out
	}
	change := func(remove bool, end time.Duration, ports ...PortRange) Update {
		return Update{Entry{host, ports, now.Add(end)}, remove}
	}
	update := func(remove bool, end time.Duration, ports ...PortRange) string {
		return text(change(remove, end, ports...))
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
		// Both in one batch: what is put in for one may not outlive the other, and is said once.
		{text(change(false, time.Hour, wide), change(false, 2*time.Hour, web)), "+79/6@1h0m0s +80/6@2h0m0s +81/6@1h0m0s "},
		{text(change(true, 0, wide), change(true, 0, web)), "-79/6 -80/6 -81/6 "},
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
