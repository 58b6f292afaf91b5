//go:build linux && netns

package fw

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestKernelAgreesWithAModel adds, changes and removes nested prefixes at random, some with a port and some ending by
// themselves, and changes exceptions too. Every address must be dropped exactly if an entry that has not ended covers it
// and no exception does.
func TestKernelAgreesWithAModel(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		steps, rounding := 150, 150*time.Millisecond
		switch v.backend {
		case NameIPTables:
			steps = 50
		case NameIPSet:
			rounding = 1100 * time.Millisecond // it counts whole seconds, rounded up
		}
		pace := time.NewTicker(25 * time.Millisecond) // so that entries end in between
		defer pace.Stop()
		rng := rand.New(rand.NewPCG(7, 7))
		b := r.open(v, OutboundDrop)
		mustReplace(t, b, state())
		held := map[Key]Entry{}
		random := func() Entry {
			e := Entry{Until: time.Now().Add(time.Duration(400+rng.IntN(4000)) * time.Millisecond)}
			a := netip.AddrFrom4([4]byte{198, 18, 0, byte(rng.IntN(64))})
			bits := 26 + rng.IntN(7)
			if rng.IntN(4) == 0 {
				a, bits = netip.MustParseAddr("2001:db8::"), 122+rng.IntN(7)
				raw := a.As16()
				raw[15] = byte(rng.IntN(64))
				a = netip.AddrFrom16(raw)
			}
			if rng.IntN(3) == 0 {
				first := uint16(22 + rng.IntN(3))
				e.Ports = []PortRange{{ProtoAny, first, first + uint16(rng.IntN(3))}}
			}
			e.Prefix = netip.PrefixFrom(a, bits).Masked()
			return e
		}
		excepted := Exceptions{}
		if err := b.SetExceptions(ctx, excepted, nil); err != nil {
			t.Fatal(err)
		}
		except := func() {
			next := Exceptions{Never: slices.Clone(excepted.Never), Allow: slices.Clone(excepted.Allow)}
			list := []*[]netip.Prefix{&next.Never, &next.Allow}[rng.IntN(2)]
			if n := len(*list); n > 2 || n > 0 && rng.IntN(2) == 0 {
				*list = slices.Delete(*list, 0, 1+rng.IntN(n))
			}
			for range rng.IntN(3) {
				*list = append(*list, random().Prefix)
			}
			next, _ = next.fit()
			if err := b.SetExceptions(ctx, next, &excepted); err != nil {
				t.Fatalf("from %v to %v: %v", excepted, next, err)
			}
			excepted = next
		}
		count := map[bool]int{} // by whether the model drops the address
		begun, slowest := time.Now(), time.Duration(0)
		enough := func() bool { return min(count[true], count[false]) >= steps/3 }
		for step := 0; step < steps || !enough() && step < 10*steps; step++ { // on a slow machine, more probes are left out
			<-pace.C
			slowest, begun = max(slowest, time.Since(begun)), time.Now()
			if step%3 == 0 {
				except()
			}
			batch := map[Key]Update{}
			for range 1 + rng.IntN(4) {
				u := Update{Entry: random()}
				if rng.IntN(3) == 0 && len(held) > 0 {
					for _, e := range held {
						u = Update{Entry: e, Remove: true}
						break
					}
				}
				batch[u.Key()] = u
			}
			var updates []Update
			for key, u := range batch {
				updates = append(updates, u)
				if u.Remove {
					delete(held, key)
				} else {
					held[key] = u.Entry
				}
			}
			if err := b.Apply(ctx, time.Now(), updates); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			if e, ok := b.(expirer); ok {
				if _, err := e.expire(ctx, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			for range 4 {
				probe := random()
				agree(t, r, held, excepted, probe.Prefix.Addr(), uint16(22+rng.IntN(4)), rounding+max(slowest, time.Since(begun)), count)
			}
		}
		t.Logf("%d probes were to be dropped, %d not", count[true], count[false])
		if !enough() {
			t.Error("too few probes")
		}
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("problems %q, %v", problems, err)
		}
	})
}

// agree compares a probe with the model, unless a matching entry ends between late before the probe and 200 ms after it.
func agree(t *testing.T, r *rig, held map[Key]Entry, x Exceptions, a netip.Addr, port uint16, late time.Duration, count map[bool]int) {
	t.Helper()
	before := time.Now()
	reaches := r.udpReaches(a.String(), port)
	after := time.Now()
	dropped := false
	for _, e := range held {
		if !e.Prefix.Contains(a) {
			continue
		}
		if len(e.Ports) > 0 && (port < e.Ports[0].First || port > e.Ports[0].Last) {
			continue
		}
		if e.Until.After(before.Add(-late)) && e.Until.Before(after.Add(200*time.Millisecond)) {
			return
		}
		dropped = dropped || e.Until.After(after)
	}
	for _, p := range slices.Concat(x.Never, x.Allow) {
		dropped = dropped && !p.Contains(a)
	}
	if reaches == dropped {
		t.Errorf("%v port %d: reaches = %v; entries %v, exceptions %v", a, port, reaches, held, x)
	}
	count[dropped]++
}
