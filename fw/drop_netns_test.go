//go:build linux && netns

package fw

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var ctx = context.Background()

// entry returns a ban of a prefix or address for a minute.
func entry(s string, ports ...PortRange) Entry {
	return Entry{Prefix: prefix(s), Ports: ports, Until: time.Now().Add(time.Minute)}
}

func prefix(s string) netip.Prefix {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p
	}
	a := netip.MustParseAddr(s)
	return netip.PrefixFrom(a, a.BitLen())
}

func state(entries ...Entry) State {
	return State{Entries: slices.Values(entries), Len: len(entries)}
}

// mustExcept sets the allowed prefixes as the only exceptions.
func mustExcept(t *testing.T, b Backend, allow ...netip.Prefix) {
	t.Helper()
	x, _ := Exceptions{Allow: allow}.fit()
	if err := b.SetExceptions(ctx, x, nil); err != nil {
		t.Fatal(err)
	}
}

// must applies updates.
func must(t *testing.T, b Backend, updates ...Update) {
	t.Helper()
	if err := b.Apply(ctx, time.Now(), updates); err != nil {
		t.Fatal(err)
	}
}

func mustReplace(t *testing.T, b Backend, s State) {
	t.Helper()
	if err := b.Replace(ctx, time.Now(), s); err != nil {
		t.Fatal(err)
	}
}

// What is dropped is counted by family, also after the bans are loaded anew; what passes is not.
func TestDropped(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		b := r.open(v, OutboundDrop)
		mustReplace(t, b, state())
		must(t, b, Update{Entry: entry("192.0.2.1")}, Update{Entry: entry("2001:db8::7")})
		count := func() (d [2]Dropped) {
			t.Helper()
			v4, v6, err := b.Dropped(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return [2]Dropped{v4, v6}
		}
		r.want(true, "198.51.100.7", 22)
		before := count()
		r.want(false, "192.0.2.1", 22)
		after := count()
		if n := after[0].Packets - before[0].Packets; n == 0 || (after[0].Bytes-before[0].Bytes)/n < 28 || after[1] != before[1] {
			t.Errorf("one address of IPv4 was dropped: %+v, before %+v", after, before)
		}
		r.want(false, "2001:db8::7", 22)
		last := count()
		if last[1].Packets == after[1].Packets || last[0] != after[0] {
			t.Errorf("one address of IPv6 was dropped: %+v, before %+v", last, after)
		}
		for range 2 { // back to the first sets
			mustReplace(t, b, state(entry("2001:db8::7")))
		}
		if loaded := count(); v.backend != NameIPTables && loaded != last {
			t.Errorf("after a load: %+v, before it %+v", loaded, last)
		}
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("%q, %v", problems, err)
		}
	})
}

func TestDrops(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		for _, src := range []string{"192.0.2.1", "198.51.100.7", "2001:db8::7", "198.18.3.4", "2001:db8:5::1"} {
			r.want(true, src, 22, 80)
		}
		if !r.tcpReaches("192.0.2.1", 22) || !r.tcpReaches("2001:db8::7", 22) {
			t.Fatal("no connection before anything is banned")
		}
		b := r.open(v, OutboundDrop)
		mustReplace(t, b, state())
		r.want(true, "192.0.2.1", 22)

		t.Log("single addresses")
		must(t, b, Update{Entry: entry("192.0.2.1")}, Update{Entry: entry("2001:db8::7")})
		r.want(false, "192.0.2.1", 22, 80)
		r.want(false, "2001:db8::7", 22, 80)
		r.want(true, "192.0.2.2", 22)
		r.want(true, "2001:db8::8", 22)
		if r.tcpReaches("192.0.2.1", 22) || r.tcpReaches("2001:db8::7", 80) {
			t.Error("a connection from a banned address opens")
		}

		t.Log("prefixes, and an allowed one inside")
		mustExcept(t, b, prefix("198.18.3.0/24"), prefix("2001:db8:5::1"), prefix("198.18.3.7"))
		must(t, b, Update{Entry: entry("198.18.0.0/16")}, Update{Entry: entry("2001:db8:5::/48")})
		r.want(false, "198.18.0.0")
		r.want(false, "198.18.255.255")
		r.want(true, "198.19.0.0")
		r.want(true, "198.18.3.4")
		r.want(true, "2001:db8:5::1")
		r.want(false, "2001:db8:5::2")
		r.want(true, "2001:db8:6::2")
		mustExcept(t, b)
		r.want(false, "198.18.3.4")
		r.want(false, "2001:db8:5::1")

		t.Log("prefixes inside prefixes")
		must(t, b, Update{Entry: entry("198.18.4.0/24")}, Update{Entry: entry("198.18.0.0/15")})
		must(t, b, Update{Entry: entry("198.18.0.0/15"), Remove: true}, Update{Entry: entry("198.18.0.0/16"), Remove: true})
		r.want(false, "198.18.4.9")
		r.want(true, "198.18.5.9")
		r.want(true, "198.19.5.9")

		t.Log("one port, others stay open")
		ssh := PortRange{ProtoTCP, 22, 22}
		must(t, b, Update{Entry: entry("203.0.113.5", ssh)}, Update{Entry: entry("2001:db8::9", PortRange{ProtoAny, 80, 81})},
			Update{Entry: entry("203.0.113.64/26", PortRange{ProtoUDP, 22, 22})})
		if r.tcpReaches("203.0.113.5", 22) {
			t.Error("a connection to the banned port opens")
		}
		if !r.tcpReaches("203.0.113.5", 80) {
			t.Error("another port is closed")
		}
		r.want(true, "203.0.113.5", 22) // UDP
		r.want(false, "2001:db8::9", 80, 81)
		r.want(true, "2001:db8::9", 22, 82)
		r.want(false, "203.0.113.66", 22)
		r.want(true, "203.0.113.66", 80)
		r.want(true, "203.0.113.63", 22)

		t.Log("two entries that share a port")
		both := PortRange{ProtoAny, 80, 82}
		must(t, b, Update{Entry: entry("203.0.113.9", both)}, Update{Entry: entry("203.0.113.9", PortRange{ProtoUDP, 81, 90})})
		must(t, b, Update{Entry: entry("203.0.113.9", both), Remove: true})
		r.want(false, "203.0.113.9", 81, 90)
		r.want(true, "203.0.113.9", 80)
		lower, upper := PortRange{ProtoAny, 80, 81}, PortRange{ProtoAny, 81, 82}
		for _, src := range []string{"203.0.113.10", "203.0.113.128/26", "2001:db8::b"} {
			must(t, b, Update{Entry: entry(src, lower)}, Update{Entry: entry(src, upper)})
			from := prefix(src).Addr().String()
			r.want(false, from, 80, 81, 82)
			must(t, b, Update{Entry: entry(src, lower), Remove: true}, Update{Entry: entry(src, upper), Remove: true})
			r.want(true, from, 80, 81, 82)
		}

		t.Log("removal, also of what is not there")
		must(t, b, Update{Entry: entry("192.0.2.1"), Remove: true}, Update{Entry: entry("192.0.2.99"), Remove: true},
			Update{Entry: entry("198.51.100.0/25"), Remove: true}, Update{Entry: entry("203.0.113.5", ssh), Remove: true},
			Update{Entry: entry("203.0.113.200", ssh), Remove: true}, Update{Entry: entry("192.0.2.98")})
		r.want(true, "192.0.2.1")
		r.want(false, "192.0.2.98")
		if !r.tcpReaches("203.0.113.5", 22) {
			t.Error("the port is still closed after its removal")
		}
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("check: %q, %v", problems, err)
		}
	})
}
