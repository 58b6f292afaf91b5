//go:build linux && netns

package fw

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func (r *rig) openCounting(v variant, counters bool) Backend {
	r.tb.Helper()
	b, _, err := Open(ctx, []string{v.backend}, Options{IPTables: v.iptables, Counters: counters})
	if err != nil {
		r.tb.Fatal(err)
	}
	r.tb.Cleanup(func() { _ = b.Close() })
	return b
}

func mustHits(t *testing.T, b Backend) Hits {
	t.Helper()
	of, err := b.Hits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return of
}

// Each packet that is dropped counts for its ban, and for no other.
func TestHits(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		b := r.openCounting(v, true)
		mustReplace(t, b, state())
		port := PortRange{ProtoUDP, 22, 22}
		bans := []Entry{
			entry("192.0.2.1"), entry("2001:db8::7"), entry("198.18.0.0/16"), entry("2001:db8:5::/48"),
			entry("203.0.113.5", port), entry("203.0.113.64/26", port),
		}
		quiet := []Entry{entry("192.0.2.2"), entry("198.19.0.0/16"), entry("203.0.113.6", port), entry("203.0.113.5", PortRange{ProtoTCP, 80, 80})}
		var updates []Update
		for _, e := range append(append([]Entry{}, bans...), quiet...) {
			updates = append(updates, Update{Entry: e})
		}
		must(t, b, updates...)
		for _, src := range []string{"192.0.2.1", "2001:db8::7", "198.18.3.4", "2001:db8:5::9", "203.0.113.5", "203.0.113.66"} {
			r.want(false, src, 22)
		}
		r.want(true, "192.0.2.3", 22)
		of := mustHits(t, b)
		var sum [2]Dropped
		for _, e := range bans {
			n := of(e)
			if n.Packets == 0 || n.Bytes/n.Packets < 28 {
				t.Errorf("%v on %v: %+v", e.Prefix, e.Ports, n)
			}
			sum[familyOf(e.Prefix)] = sum[familyOf(e.Prefix)].plus(n)
		}
		for _, e := range quiet {
			if n := of(e); n != (Dropped{}) {
				t.Errorf("nothing came from %v on %v: %+v", e.Prefix, e.Ports, n)
			}
		}
		v4, v6, err := b.Dropped(ctx)
		if err != nil || sum != [2]Dropped{v4, v6} {
			t.Errorf("the bans have %+v, the rules %+v %+v, %v", sum, v4, v6, err)
		}

		t.Log("a load")
		before := of(bans[0])
		for range 2 { // back to the first sets
			mustReplace(t, b, state(append(append([]Entry{}, bans...), quiet...)...))
		}
		if after := mustHits(t, b)(bans[0]); v.backend == NameIPSet && after != before || v.backend == NameNFTables && after != (Dropped{}) {
			t.Errorf("after a load: %+v, before %+v", after, before)
		}
		r.want(false, "192.0.2.1", 22)
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("check: %q, %v", problems, err)
		}
		if n := mustHits(t, b)(bans[0]); n.Packets == 0 {
			t.Error("nothing counted after a load")
		}

		t.Log("an end and a new ban")
		must(t, b, Update{Entry: bans[0], Remove: true})
		must(t, b, Update{Entry: bans[0]})
		if n := mustHits(t, b)(bans[0]); n != (Dropped{}) {
			t.Errorf("a new ban begins with %+v", n)
		}
	})
}

// A ban that is prolonged keeps its count; a new one does not take over that of a removed one whose place it gets.
func TestHitsOfARenewedBan(t *testing.T) {
	if !inside(t) {
		return
	}
	r := newRig(t)
	b := r.openCounting(variant{backend: NameIPSet, iptables: "iptables-nft"}, true)
	s, err := NewSyncer(SyncerConfig{Backend: b, Snapshot: func() State { return state() }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(ctx); err != nil {
		t.Fatal(err)
	}
	apply := func(updates ...Update) {
		t.Helper()
		if err := s.Queue(updates, nil); err != nil {
			t.Fatal(err)
		}
		if !s.inline() {
			t.Fatal("something is left for Run")
		}
	}
	e := entry("192.0.2.1")
	apply(Update{Entry: e})
	r.want(false, "192.0.2.1", 22)
	of, err := s.Hits(ctx)
	if err != nil || of(e).Packets == 0 {
		t.Fatal("nothing counted: ", err)
	}
	before := of(e)
	e.Until = e.Until.Add(time.Hour)
	apply(Update{Entry: e})
	if of, err = s.Hits(ctx); err != nil || of(e) != before {
		t.Errorf("after it was prolonged: %+v, before %+v, %v", of(e), before, err)
	}
	apply(Update{Entry: e, Remove: true})
	apply(Update{Entry: e})
	if of, err = s.Hits(ctx); err != nil || of(e) != (Dropped{}) {
		t.Errorf("a new ban begins with %+v, %v", of(e), err)
	}
}

// A new element whose place in the kernel's table was another's begins at 0: the kernel leaves the old counter there.
func TestHitsOfANewElementInAnOldPlace(t *testing.T) {
	if !inside(t) {
		return
	}
	r := newRig(t)
	b := r.openCounting(variant{backend: NameIPSet, iptables: "iptables-nft"}, true)
	mustReplace(t, b, state())
	const bans = 1000
	addr := func(i int) Entry { return entry(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)) }
	var script strings.Builder
	updates := make([]Update, bans)
	for i := range updates {
		updates[i] = Update{Entry: addr(i)}
		fmt.Fprintf(&script, "add meshban4n %v timeout 600 packets 5 bytes 300\n", updates[i].Prefix)
	}
	must(t, b, updates...)
	cmd := exec.Command("ipset", "-exist", "restore")
	cmd.Stdin = strings.NewReader(script.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := mustHits(t, b)(updates[1].Entry); n != (Dropped{5, 300}) {
		t.Fatalf("the counters were not set: %+v", n)
	}
	for i := range bans / 2 {
		updates[2*i].Remove = true
		updates = append(updates, Update{Entry: addr(bans + i)})
	}
	must(t, b, updates...)
	of := mustHits(t, b)
	for _, u := range updates[bans:] {
		if n := of(u.Entry); n != (Dropped{}) {
			t.Fatalf("the new ban of %v begins with %+v", u.Prefix, n)
		}
	}
}

// The setting may change while the kernel holds sets of the other kind.
func TestCountersOnAndOff(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		e, late := entry("192.0.2.1"), entry("192.0.2.2")
		for _, counters := range []bool{false, true, false, true} {
			b := r.openCounting(v, counters)
			r.want(true, "192.0.2.3", 22)
			if _, err := b.Hits(ctx); !counters && !errors.Is(err, ErrNotCounted) {
				t.Errorf("without counters: %v", err)
			}
			must(t, b, Update{Entry: late}) // before the first load
			r.want(false, "192.0.2.2", 22)
			mustReplace(t, b, state(e, late))
			must(t, b, Update{Entry: entry("198.18.0.0/16")})
			r.want(false, "192.0.2.1", 22)
			r.want(false, "198.18.1.1", 22)
			if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
				t.Errorf("check: %q, %v", problems, err)
			}
			if counters {
				if of := mustHits(t, b); of(e).Packets == 0 || of(entry("198.18.0.0/16")).Packets == 0 {
					t.Errorf("%+v, %+v", of(e), of(entry("198.18.0.0/16")))
				}
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
