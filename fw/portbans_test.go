package fw

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
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
		if len(left) > 0 {
			return "full"
		}
		return put + out
	}
	change := func(remove bool, end time.Duration, ports ...PortRange) Update {
		return Update{Entry{Prefix: host, Ports: ports, Until: now.Add(end)}, remove}
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
		// Both in one batch: an element must not be kept for a ban that the batch removes too, and is sent once.
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

// A refused ban, and the removal of one that was never there, cost no element; peers leave room for this node's own bans.
func TestPortsAreBounded(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	bans := newPortBans()
	most := []PortRange{{ProtoAny, 1000, 999 + MaxPortElements/2}}
	at := func(i int, own bool, ports []PortRange) Update {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
		return Update{Entry: Entry{Prefix: p, Ports: ports, Until: now.Add(time.Hour), Own: own}}
	}
	change := func(u Update) (left, elements int) {
		refused := bans.changes(now, []Update{u}, func(netip.Prefix, portElement) { elements++ })
		return len(refused), elements
	}
	expect := func(what string, u Update, left, elements int) {
		t.Helper()
		if l, e := change(u); l != left || e != elements {
			t.Errorf("%s: %d left, %d elements; want %d, %d", what, l, e, left, elements)
		}
	}
	for _, ports := range [][]PortRange{{{ProtoAny, 0, 65535}}, {{ProtoTCP, 1, MaxPortElements + 1}}, append(slices.Clone(most), PortRange{ProtoUDP, 1, 1})} {
		expect("too many", at(0, true, ports), 1, 0)
		gone := at(0, true, ports)
		gone.Remove = true
		expect("too many, removed", gone, 0, 0)
	}
	n := 0
	for left := 0; left == 0 && n < 2*maxPortElements/MaxPortElements; n++ {
		left, _ = change(at(n, false, most))
	}
	if n--; n != maxOthersElements/MaxPortElements || bans.size != maxOthersElements {
		t.Errorf("%d entries of others, size %d", n, bans.size)
	}
	expect("no room for another's", at(n, false, most), 1, 0)
	gone := at(n, false, most)
	gone.Remove = true
	expect("no room, removed", gone, 0, 0)
	expect("own", at(n, true, most), 0, MaxPortElements)
	gone.Entry = at(0, false, most).Entry
	for range 2 { // the kernel may refuse it the first time
		expect("removed", gone, 0, MaxPortElements)
	}
	bans.settle()
	expect("removed already", gone, 0, 0)
	gone = at(n, true, most)
	gone.Remove = true
	expect("own, removed", gone, 0, MaxPortElements)
	bans.settle()
	expect("room after two went", at(0, false, most), 0, MaxPortElements)
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

// 256 bans with many ports used to be one batch, and a fresh ban waited for all of it.
func TestManyPortsAreCarriedInSlices(t *testing.T) {
	for name, backend := range map[string]func(*fake) Backend{"in slices": broadly, "in one piece": nil} {
		t.Run(name, func(t *testing.T) {
			withSyncer(t, backend, func(b *bench) {
				var batches []int // elements in each
				ports := []PortRange{{ProtoTCP, 1, MaxPortElements}}
				var many []Update
				for i := range 256 {
					e := Entry{Prefix: prefixNumber(i), Ports: ports, Until: time.Now().Add(time.Hour)}
					b.keep(e)
					many = append(many, Update{Entry: e})
				}
				var fresh *answer
				b.fake.set(func(f *fake) {
					f.onApply = func() error {
						if fresh == nil {
							fresh = b.submit(b.ban("192.0.2.1/32"))
						}
						return nil
					}
				})
				all := b.submit(many...)
				synctest.Wait()
				b.expect("answers", []int{all.read().calls, fresh.read().calls}, []int{1, 1})
				b.expect("held", b.held(), 257)
				at := -1
				for i, batch := range get(b.fake, func(f *fake) [][]Update { return f.batches }) {
					n := 0
					for _, u := range batch {
						n += elementsOf(u.Ports)
						if u.Prefix.String() == "192.0.2.1/32" {
							at = i
						}
					}
					batches = append(batches, n)
				}
				if slices.Max(batches) > maxSliceElements || at != 1 {
					t.Errorf("batches of %v elements, the fresh one in that at %d", batches, at)
				}
			})
		})
	}
}
