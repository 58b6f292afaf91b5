package fw

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func parsePrefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func numbered(from byte, n int) (out []netip.Prefix) {
	for i := range n {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{from, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
	}
	return out
}

func TestExceptionsFit(t *testing.T) {
	for _, c := range []struct {
		name      string
		in        Exceptions
		want      string
		over      int
		firstOver string
	}{
		{"ok: nothing", Exceptions{}, "[] []", 0, ""},
		{"ok: sorted, masked, none inside another", Exceptions{
			Never: parsePrefixes("10.9.9.9/8", "10.1.0.0/16", "2001:db8::/32", "9.9.9.9/32"), Allow: parsePrefixes("10.0.0.1/32", "10.0.0.1/32"),
		}, "[9.9.9.9/32 10.0.0.0/8 2001:db8::/32] [10.0.0.1/32]", 0, ""},
		{"ok: everything, as sets take it", Exceptions{Never: parsePrefixes("0.0.0.0/0", "::/0")}, "[0.0.0.0/1 128.0.0.0/1 ::/1 8000::/1] []", 0, ""},
		{"ok: IPv4 in IPv6", Exceptions{Never: []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.1/128"), {}}}, "[192.0.2.1/32] []", 0, ""},
		{"bad: a never-ban list that is too long", Exceptions{Never: append(numbered(1, MaxNever), parsePrefixes("0.1.2.3/32")...)}, "", 1, "0.1.2.3/32"},
		{"bad: too many allowed", Exceptions{Allow: append(numbered(2, MaxAllow), numbered(1, 9)...)}, "", 9, "1.0.0.0/32"},
		// A wide prefix allowed last takes the place of what is inside it, and no other place.
		{"ok: as important as what is inside", Exceptions{
			Allow: slices.Concat(numbered(2, 1), numbered(9, MaxAllow-1), parsePrefixes("1.0.0.0/32", "2.0.0.0/24")),
		}, "", 1, "1.0.0.0/32"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in, over := c.in.fit()
			if got := fmt.Sprint(in.Never, " ", in.Allow); c.want != "" && got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if len(over) != c.over || c.over > 0 && over[0].String() != c.firstOver {
				t.Errorf("over %d: %v", len(over), over)
			}
		})
	}
}

func TestPrefixesOverlap(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	random := func() netip.Prefix {
		p, _ := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(64))}).Prefix(24 + rng.IntN(9))
		return p
	}
	for range 2000 {
		var list []netip.Prefix
		for range rng.IntN(8) {
			list = append(list, random())
		}
		ps, p := sorted(outermost(list)), random()
		got, ok := ps.overlap(p)
		want := slices.ContainsFunc(list, p.Overlaps)
		if ok != want || ok && !got.Overlaps(p) {
			t.Fatalf("%v in %v: %v %v", p, ps, got, ok)
		}
	}
}

// guarded takes updates during loads and from callers of Flush.
var guarded = with(Traits{Quick: true, DuringLoad: true})

// lacking lists the entries that the fake holds without an exception they need.
func lacking(f *fake, wanted Exceptions) (out []string) {
	never, allow := sorted(outermost(f.except.Never)), sorted(outermost(f.except.Allow))
	for key := range f.held {
		for _, p := range slices.Concat(wanted.Never, wanted.Allow) {
			if !p.Overlaps(key.Prefix) {
				continue
			}
			q, ok := never.overlap(p)
			r, also := allow.overlap(p)
			if !(ok && q.Bits() <= p.Bits()) && !(also && r.Bits() <= p.Bits()) {
				out = append(out, fmt.Sprintf("%v without %v", key, p))
			}
		}
	}
	return out
}

// Whatever comes, goes or fails, the kernel never holds an entry around an exception it lacks, and holds all in the end.
func TestNoEntryWithoutItsExceptions(t *testing.T) {
	withheld := 0
	for seed := range uint64(100) {
		withSyncer(t, guarded, func(b *bench) {
			rng := rand.New(rand.NewPCG(seed, 1))
			random := func() netip.Prefix {
				p, _ := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(32))}).Prefix(27 + rng.IntN(6))
				return p
			}
			var mu sync.Mutex
			luck := rand.New(rand.NewPCG(seed, 2)) // for the backend, which the syncer calls
			fail := func() error {
				mu.Lock()
				defer mu.Unlock()
				if luck.IntN(2) == 0 {
					return errors.New("refused")
				}
				return nil
			}
			once := func() func() error {
				left := 1 + rng.IntN(2)
				return func() error {
					if left--; left >= 0 {
						return errors.New("not now")
					}
					return nil
				}
			}
			for step := range 60 {
				switch rng.IntN(10 + 2*int(seed%2)) {
				case 0, 1, 2, 3:
					e := Entry{Prefix: random(), Until: time.Now().Add(time.Hour)}
					if rng.IntN(4) == 0 {
						e.Ports = []PortRange{{ProtoTCP, 22, 22}}
					}
					b.keep(e)
					b.submit(Update{Entry: e})
				case 4:
					b.submit(b.lift(random().String()))
				case 5, 6:
					b.mu.Lock()
					if list := []*[]netip.Prefix{&b.never, &b.allow}[rng.IntN(2)]; rng.IntN(3) == 0 && len(*list) > 0 {
						*list = (*list)[1:]
					} else {
						*list = append(*list, random())
					}
					b.mu.Unlock()
					b.ExceptionsChanged()
					if rng.IntN(2) == 0 { // right after it, before it takes effect
						e := Entry{Prefix: random(), Until: time.Now().Add(time.Hour)}
						b.keep(e)
						b.Queue([]Update{{Entry: e}}, nil)
						b.Flush()
					}
				case 7:
					b.fake.set(func(f *fake) {
						if f.onExcept = nil; rng.IntN(3) > 0 {
							f.onExcept = fail
						}
					})
				case 8:
					b.fake.set(func(f *fake) { f.except, f.flushed = Exceptions{}, true })
					b.pass(DefaultCheckEvery)
				case 10:
					b.fake.set(func(f *fake) { f.onApply = once() })
				case 11:
					b.fake.set(func(f *fake) { f.onReplace = once() })
				case 9:
					b.pass(time.Duration(rng.IntN(3000)) * time.Millisecond)
				}
				synctest.Wait()
				if get(b.fake, func(f *fake) bool { return f.onApply != nil || f.onReplace != nil }) {
					b.pass(time.Second) // while the kernel also refuses removals, nothing can be done
				}
				wanted := Exceptions{Never: slices.Clone(b.never), Allow: slices.Clone(b.allow)}
				if bad := get(b.fake, func(f *fake) []string { return lacking(f, wanted) }); len(bad) > 0 {
					b.Fatalf("seed %d, step %d: %v", seed, step, bad)
				}
				st := b.Status()
				if st.Withheld > 0 && !strings.Contains(st.LastError, "are not enforced") {
					b.Fatalf("seed %d, step %d: %d withheld, and the error is %q", seed, step, st.Withheld, st.LastError)
				}
				withheld += st.Withheld
			}
			b.fake.set(func(f *fake) { f.onExcept = nil })
			b.pass(2 * replaceDelayMax)
			held := get(b.fake, func(f *fake) []Key { return slices.Collect(maps.Keys(f.held)) })
			if st := b.Status(); len(held) != len(b.want) || st.Enforced != len(held) || st.Withheld != 0 {
				b.Errorf("seed %d: in the end %d of %d are held; status %+v", seed, len(held), len(b.want), st)
			}
		})
	}
	if withheld < 100 {
		t.Errorf("withheld only %d times", withheld)
	}
}

// The never-ban list has its own room: allows beyond their bound do not affect it, and what is left out is reported.
func TestAllowsDoNotTakeThePlaceOfTheNeverBanList(t *testing.T) {
	withSyncer(t, nil, func(b *bench) {
		b.mu.Lock()
		b.never = parsePrefixes("192.168.1.1/32")
		b.allow = append(numbered(1, 70_000), parsePrefixes("192.168.2.7/32")...)
		b.mu.Unlock()
		b.ExceptionsChanged()
		lan, plain := b.submit(b.ban("192.168.1.0/24")), b.submit(b.ban("192.0.2.1/32"))
		synctest.Wait()
		other := b.submit(b.ban("192.168.2.0/24"))
		synctest.Wait()
		b.expect("never", get(b.fake, func(f *fake) []netip.Prefix { return f.except.Never }), b.never)
		b.expect("allowed", get(b.fake, func(f *fake) int { return len(f.except.Allow) }), MaxAllow)
		for _, a := range []*answer{lan, plain} {
			b.expect("error", a.read().err, nil)
		}
		b.expect("withheld", other.read().err, "1 not enforced: an exception inside is not in the kernel")
		_, ok := b.Withheld(netip.MustParsePrefix("192.168.2.0/24"))
		b.expect("192.168.2.0/24 is withheld", ok, true)
		_, ok = b.Withheld(netip.MustParsePrefix("192.168.1.0/24"))
		b.expect("192.168.1.0/24 is withheld", ok, false)
		st := b.Status()
		b.expect("figures", []int{st.Enforced, st.NotEnforced, st.Withheld}, []int{2, 1, 1})
		if !strings.Contains(st.LastError, "lacks 37233 exceptions") {
			b.Errorf("last error %q", st.LastError)
		}
		b.mu.Lock()
		b.allow = b.allow[40_000:]
		b.mu.Unlock()
		b.ExceptionsChanged()
		b.pass(bringBackEvery)
		b.expect("held", b.held(), 3)
		st = b.Status()
		b.expect("figures", []int{st.Enforced, st.NotEnforced, st.Withheld}, []int{3, 0, 0})
		b.expect("last error", st.LastError, "")
	})
}

// An exception that comes during a load takes effect before the load does.
func TestExceptionsThatComeDuringALoad(t *testing.T) {
	for _, c := range []struct {
		name    string
		refused bool
	}{{"ok: placed", false}, {"bad: refused", true}} {
		t.Run(c.name, func(t *testing.T) {
			withSyncer(t, nil, func(b *bench) {
				for i := range 2 * loadLook {
					b.ban(fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255))
				}
				passed := 0
				inner := b.cfg.Snapshot
				b.cfg.Snapshot = func() State {
					state := inner()
					return State{Len: state.Len, Entries: func(yield func(Entry) bool) {
						for e := range state.Entries {
							if passed++; passed == loadLook+1 {
								b.mu.Lock()
								b.never = parsePrefixes("10.0.7.7/32")
								b.mu.Unlock()
								b.fake.set(func(f *fake) {
									if c.refused {
										f.onExcept = func() error { return errors.New("refused") }
									}
								})
								b.ExceptionsChanged()
							}
							if !yield(e) {
								return
							}
						}
					}}
				}
				want := 2 * loadLook
				err := b.Replace(b.Context())
				if c.refused {
					b.expect("the load", err, errVoid)
					b.expect("held", b.held(), 0)
					want--
				} else {
					b.expect("the load", err, nil)
				}
				b.pass(time.Second)
				b.expect("held", b.held(), want)
				b.fake.set(func(f *fake) { f.onExcept = nil })
				b.pass(2 * replaceDelayMax)
				b.expect("held in the end", b.held(), 2*loadLook)
				b.expect("never", get(b.fake, func(f *fake) []netip.Prefix { return f.except.Never }), b.never)
			})
		})
	}
}
