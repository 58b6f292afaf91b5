//go:build linux && netns

package fw

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Of an nf_tables set with more than 4,096 elements, the agent used to notice only that it was emptied.
func TestLargeSetsAreCounted(t *testing.T) {
	if !inside(t) {
		return
	}
	r := newRig(t)
	b := r.open(variant{backend: NameNFTables}, OutboundDrop).(*nft)
	const n = maxListed + 100
	port := []PortRange{{ProtoTCP, 22, 22}}
	entries := func(yield func(Entry) bool) {
		until := time.Now().Add(time.Hour)
		for i := range n {
			a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
			net := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 7), byte(i << 1), 0}), 24)
			for _, e := range []Entry{{Prefix: netip.PrefixFrom(a, 32)}, {Prefix: net}, {Prefix: netip.PrefixFrom(a, 32), Ports: port}} {
				e.Until = until
				if !yield(e) {
					return
				}
			}
		}
	}
	repaired := make(chan []string, 10)
	s, err := NewSyncer(SyncerConfig{
		Backend: b, CheckEvery: 100 * time.Millisecond, OnRepair: func(problems []string) { repaired <- problems },
		Snapshot:   func() State { return State{Entries: entries, Len: 3 * n} },
		Exceptions: func() Exceptions { return Exceptions{Allow: numbered(30, n)} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer start(t, s)()
	if _, told, err := b.sock.nftCount(nftSetName(false, kindAddr, b.generation)); err != nil {
		t.Fatal(err)
	} else if !told {
		t.Log("this kernel does not tell how many elements a set holds")
		return
	}
	scripts := []string{
		"nft delete element inet meshban SET4 '{ 198.18.0.7 }'", "nft add element inet meshban SET4 '{ 192.0.2.200 }'",
		"nft delete element inet meshban NET4 '{ 20.0.4.0/24 }'", "nft delete element inet meshban PORT4 '{ 198.18.0.7 . tcp . 22 }'",
		"nft delete element inet meshban meshban4a '{ 30.0.0.7 }'",
	}
	for _, script := range scripts {
		sh(t, nftNames(script, b.generation))
		select {
		case problems := <-repaired:
			t.Logf("%s: %q", script, problems)
		case <-time.After(patience):
			t.Fatalf("not mended after %q", script)
		}
	}
	// Ended bans, which the kernel counts for another second, are no reason for a repair.
	for i := range 5 {
		e := Entry{Prefix: netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i)), Until: time.Now().Add(100 * time.Millisecond)}
		done := make(chan error, 1)
		_ = s.Submit([]Update{{Entry: e}}, func(_ time.Time, err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Until(e.Until)) // the kernel's own timeout
		_ = s.Submit([]Update{{Entry: e, Remove: true}}, nil)
	}
	before := s.Status().Checks
	eventually(t, patience, "five more checks", func() bool { return s.Status().Checks >= before+5 })
	if got := s.Status().Repairs; int(got) != len(scripts) {
		t.Errorf("%d repairs, want %d: a sound kernel was mended; the last: %q", got, len(scripts), <-repaired)
	}
}

// Before Linux 6.16 the kernel tells no count, and half of a large set could be gone unnoticed.
func TestLargeSetsAreSampled(t *testing.T) {
	if !inside(t) {
		return
	}
	r := newRig(t)
	b := r.open(variant{backend: NameNFTables}, OutboundDrop).(*nft)
	b.counts = false
	const n = maxListed + 1000
	addr := func(i int) string { return fmt.Sprintf("198.18.%d.%d", i>>8, i&255) }
	until := time.Now().Add(time.Hour)
	s, repaired, stop := runSyncer(t, b, 100*time.Millisecond, func() State {
		return State{Len: n, Entries: func(yield func(Entry) bool) {
			for i := range n {
				if !yield(Entry{Prefix: netip.MustParsePrefix(addr(i) + "/32"), Until: until}) {
					return
				}
			}
		}}
	})
	defer stop()
	before := s.Status().Checks
	eventually(t, patience, "five checks", func() bool { return s.Status().Checks >= before+5 })
	if got := s.Status().Repairs; got > 0 {
		t.Errorf("%d repairs of a sound kernel: %q", got, <-repaired)
	}
	var half []string
	for i := range n / 2 {
		half = append(half, addr(2*i))
	}
	r.want(false, addr(100))
	sh(t, nftNames("nft delete element inet meshban SET4 '{ "+strings.Join(half, ", ")+" }'", b.generation))
	select {
	case problems := <-repaired:
		t.Logf("half of it deleted: %q", problems)
	case <-time.After(patience):
		t.Fatal("half of a large set was deleted, and nothing mended it")
	}
	r.want(false, addr(100))
}
