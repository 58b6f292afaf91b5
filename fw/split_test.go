package fw

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestPartsAreAllButTheNetworks(t *testing.T) {
	for _, c := range []struct {
		name, prefix string
		networks     []string
		want         string
	}{
		{"ok: nothing inside", "10.0.0.0/8", []string{"192.168.1.0/24"}, "[10.0.0.0/8]"},
		{"ok: inside the network", "10.77.0.128/25", []string{"10.77.0.0/24"}, "[10.77.0.128/25]"},
		{"ok: the network itself", "10.77.0.0/24", []string{"10.77.0.7/24"}, "[]"},
		{"ok: two networks", "10.77.0.0/22", []string{"10.77.1.0/24", "10.77.2.0/25"}, "[10.77.0.0/24 10.77.2.128/25 10.77.3.0/24]"},
		{"ok: one network in another", "10.77.0.0/23", []string{"10.77.0.0/16", "10.77.1.0/24"}, "[10.77.0.0/24]"},
		{"ok: around both", "10.76.0.0/15", []string{"10.77.0.0/16", "10.77.1.0/24"}, "[10.76.0.0/16]"},
		{"ok: IPv6", "2001:db8::/46", []string{"2001:db8:1::/48", "10.0.0.0/8"}, "[2001:db8::/48 2001:db8:2::/47]"},
		{"ok: single addresses are no networks", "10.0.0.0/8", []string{"10.1.2.3/32", "fe80::1/128"}, "[10.0.0.0/8]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := fitNetworks(parsePrefixes(c.networks...))
			if got := fmt.Sprint(ns.parts(nil, netip.MustParsePrefix(c.prefix))); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	if n := len(ns10(MaxNetworks + 10)); n != MaxNetworks {
		t.Errorf("%d networks", n)
	}
}

// ns10 returns n networks in 10.0.0.0/8.
func ns10(n int) networks {
	var list []netip.Prefix
	for i := range n {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 6), byte(i << 2)}), 30))
	}
	return fitNetworks(list)
}

// leaves reports whether a ban of p leaves out a, because p contains a network that a is in.
func leaves(ns []netip.Prefix, p netip.Prefix, a netip.Addr) bool {
	for _, n := range ns {
		if n.Contains(a) && p.Bits() <= n.Bits() && p.Contains(n.Addr()) {
			return true
		}
	}
	return false
}

// Whatever is banned, lifted and loaded, and wherever this machine moves, the kernel drops each address until the
// latest end of the bans around it. Bans that contain a network that the address is in do not count.
func TestBansLeaveOutOwnNetworks(t *testing.T) {
	for seed := range uint64(20) {
		withSyncer(t, guarded, func(b *bench) {
			rng := rand.New(rand.NewPCG(seed, 7))
			random := func(from int) netip.Prefix {
				p, _ := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(64))}).Prefix(from + rng.IntN(33-from))
				return p
			}
			ports := [][]PortRange{nil, {{ProtoTCP, 22, 22}}}
			var ns []netip.Prefix
			for step := range 60 {
				e := Entry{Prefix: random(24), Ports: ports[rng.IntN(2)], Until: time.Now().Add(time.Duration(1+rng.IntN(9)) * time.Hour)}
				switch rng.IntN(8) {
				default:
					b.keep(e)
					b.submit(Update{Entry: e})
				case 1, 2, 3:
					b.mu.Lock()
					for key, known := range b.want {
						delete(b.want, key)
						e = known
						break
					}
					b.mu.Unlock()
					b.submit(Update{Entry: e, Remove: true})
				case 4:
					ns = nil
					for range rng.IntN(4) {
						ns = append(ns, random(25))
					}
					b.mu.Lock()
					b.networks = ns
					b.mu.Unlock()
					b.ExceptionsChanged()
					b.pass(bringBackEvery)
					ns = fitNetworks(ns)
				case 5:
					b.expect("the load", b.Replace(b.Context()), nil)
				}
				synctest.Wait()
				b.comparesWithNetworks(fmt.Sprintf("seed %d, step %d", seed, step), ns, ports)
			}
		})
	}
}

// comparesWithNetworks compares what the fake drops in 10.0.0.0/26, and what the Syncer says, with what was banned.
func (b *bench) comparesWithNetworks(when string, ns []netip.Prefix, ports [][]PortRange) {
	b.Helper()
	for i := range byte(64) {
		a := netip.AddrFrom4([4]byte{10, 0, 0, i})
		for _, ranges := range ports {
			var got, want time.Time
			for key, until := range get(b.fake, func(f *fake) map[Key]time.Time { return f.held }) {
				if key.Ports == PortsText(ranges) && key.Prefix.Contains(a) && until.After(got) {
					got = until
				}
			}
			for key, e := range b.want {
				if key.Ports == PortsText(ranges) && key.Prefix.Contains(a) && !leaves(ns, key.Prefix, a) && e.Until.After(want) {
					want = e.Until
				}
			}
			if !got.Equal(want) {
				b.Fatalf("%s: %v on %q is dropped until %v, want %v; networks %v", when, a, PortsText(ranges), got, want, ns)
			}
		}
	}
	enforced, around := 0, 0
	for key, e := range b.want {
		parts := networks(ns).parts(nil, key.Prefix)
		if ok, why := b.Holds(e); ok != (len(parts) > 0) || ok == (why != "") {
			b.Fatalf("%s: holds %v: %v, %q", when, key, ok, why)
		}
		if len(parts) > 0 {
			enforced++
		}
		if left := b.LeftOut(key.Prefix); len(left) > 0 && len(parts) > 0 {
			around++
		}
	}
	st := b.Status()
	if n, _ := b.Around(); st.Enforced != enforced || st.NotEnforced != len(b.want)-enforced || n != around {
		b.Fatalf("%s: status %+v, %d around networks; want %d enforced of %d, %d", when, st, n, enforced, len(b.want), around)
	}
}

// Bans around a network have their own room, part of which is kept for this node's own bans.
func TestPartsAreBounded(t *testing.T) {
	ports := func(i int) []PortRange { return []PortRange{{ProtoTCP, uint16(i), uint16(i + 1023)}} }
	s, now := newSplit(fitNetworks(parsePrefixes("2001:db8:0:1::/64"))), time.Now()
	note := func(i int, own bool) bool {
		e := Entry{Prefix: netip.MustParsePrefix("2001:db8::/60"), Ports: ports(i), Until: now.Add(time.Hour), Own: own}
		ok := s.note(now, Update{Entry: e})
		s.changed()
		return ok
	}
	const cost = 4 * 1024
	for i := range maxParts / cost {
		if got, want := note(i, false), i < maxOthersParts/cost; got != want {
			t.Fatalf("ban %d of others: %v", i, got)
		}
	}
	if !note(0, false) || !note(1000, true) || s.size > maxParts {
		t.Errorf("no room for a refresh or an own ban: %d", s.size)
	}
	for i := range maxParts / cost {
		s.note(now, Update{Entry: Entry{Prefix: netip.MustParsePrefix("2001:db8::/60"), Ports: ports(i)}, Remove: true})
	}
	s.note(now, Update{Entry: Entry{Prefix: netip.MustParsePrefix("2001:db8::/60"), Ports: ports(1000)}, Remove: true})
	if s.changed(); s.size != 0 || len(s.wide)+len(s.parts)+s.surplus() != 0 {
		t.Errorf("%d elements, %d parts are left", s.size, len(s.parts))
	}
}

// A ban for which its batch leaves no room is reported as refused until it is lifted.
func TestPartsWithoutRoom(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		b.mu.Lock()
		b.networks = parsePrefixes("2001:db8:0:1::/64")
		b.mu.Unlock()
		b.ExceptionsChanged()
		b.pass(time.Second)
		var updates []Update
		for i := range maxOthersParts/(4*1024) + 1 {
			e := Entry{Prefix: netip.MustParsePrefix("2001:db8::/60"), Ports: []PortRange{{ProtoTCP, uint16(i), uint16(i + 1023)}}, Until: time.Now().Add(time.Hour)}
			b.keep(e)
			updates = append(updates, Update{Entry: e})
		}
		last := updates[len(updates)-1]
		a := b.submit(updates...)
		plain := b.ban("192.0.2.1/32")
		b.submit(plain)
		synctest.Wait()
		b.expect("the answer", a.read().err, "1 not enforced: "+whyParts)
		ok, why := b.Holds(last.Entry)
		b.expect("the last", []any{ok, why}, []any{false, whyParts})
		ok, why = b.Holds(plain.Entry)
		b.expect("another ban", []any{ok, why}, []any{true, ""})
		b.expect("enforced", []int{b.Status().Enforced, b.Status().NotEnforced}, []int{len(updates), 1})
		last.Remove = true
		b.mu.Lock()
		delete(b.want, last.Key())
		b.mu.Unlock()
		b.submit(last)
		synctest.Wait()
		b.expect("not enforced", b.Status().NotEnforced, 0)
	})
}

// When a ban of a batch was withheld, the last ban of the batch used to be reported as refused although the kernel held
// it.
func TestWhatIsWithheldIsNotTheNext(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		b.mu.Lock()
		b.allow = append(numbered(1, MaxAllow), parsePrefixes("192.168.2.7/32")...)
		b.mu.Unlock()
		b.ExceptionsChanged()
		b.pass(time.Second)
		wide, plain := b.ban("192.168.2.0/24"), b.ban("192.0.2.1/32")
		b.submit(wide, plain)
		synctest.Wait()
		ok, why := b.Holds(plain.Entry)
		b.expect("the other one", []any{ok, why}, []any{true, ""})
		b.expect("figures", []int{b.Status().Enforced, b.Status().NotEnforced, b.Status().Withheld}, []int{1, 1, 1})
	})
}
