//go:build linux && netns

package fw

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hammer sends datagrams from an address to port 22 as fast as it can until stop is called; stop returns how many.
func (r *rig) hammer(src string) (stop func() (sent int)) {
	r.tb.Helper()
	r.listen(22)
	to := node4
	if strings.Contains(src, ":") {
		to = node6
	}
	quit, result := make(chan struct{}), make(chan int)
	go r.onAttacker(func() {
		conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(src)}, &net.UDPAddr{IP: net.ParseIP(to), Port: 22})
		if err != nil {
			r.tb.Error(err)
			result <- 0
			return
		}
		defer conn.Close()
		sent := 0
		payload := binary.BigEndian.AppendUint32(nil, 1)
		for {
			select {
			case <-quit:
				result <- sent
				return
			default:
				if _, err := conn.Write(payload); err == nil {
					sent++
				}
			}
		}
	})
	return func() int {
		close(quit)
		return <-result
	}
}

// leaks returns how many datagrams of a hammering address got through while f ran.
func (r *rig) leaks(t *testing.T, src string, f func()) int {
	t.Helper()
	l, from := r.listen(22), netip.MustParseAddr(src)
	before := l.datagrams(from)
	stop := r.hammer(src)
	f()
	sent := stop()
	control := attack4
	if from.Is6() {
		control = attack6
	}
	r.want(true, control) // arrives after everything sent before
	if sent < 200 {
		t.Errorf("only %d datagrams from %s", sent, src)
	}
	t.Logf("%s: %d datagrams sent, %d got through", src, sent, l.datagrams(from)-before)
	return l.datagrams(from) - before
}

func TestKernelForgetsByItself(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *rig, v variant) {
		if v.backend == NameIPTables {
			return // plain rules do not end by themselves, see TestRulesEndByTheSyncer
		}
		b := r.open(v, OutboundDrop)
		short, long := time.Now().Add(5*time.Second), time.Now().Add(5*time.Minute)
		port := []PortRange{{ProtoUDP, 22, 22}}
		ends := []Entry{
			{Prefix: prefix("192.0.2.1"), Until: short}, {Prefix: prefix("2001:db8::1"), Until: short},
			{Prefix: prefix("198.18.0.0/16"), Until: short}, {Prefix: prefix("2001:db8:1::/48"), Until: short},
			{Prefix: prefix("192.0.2.2"), Until: short, Ports: port}, {Prefix: prefix("203.0.113.0/25"), Until: short, Ports: port},
		}
		stays := []Entry{
			{Prefix: prefix("192.0.2.3"), Until: long}, {Prefix: prefix("198.18.7.0/24"), Until: long},
			{Prefix: prefix("203.0.113.8/31"), Until: long, Ports: port},
		}
		mustReplace(t, b, state(append(ends, stays[0])...))
		must(t, b, Update{Entry: stays[1]}, Update{Entry: stays[2]}, Update{Entry: entry("192.0.2.4")}, Update{Entry: entry("192.0.2.5")})
		t.Log("a refresh sets the end anew, later and sooner")
		later := Entry{Prefix: prefix("192.0.2.6"), Until: short}
		must(t, b, Update{Entry: later})
		later.Until = long
		must(t, b, Update{Entry: later}, Update{Entry: Entry{Prefix: prefix("192.0.2.5"), Until: short}})
		must(t, b, Update{Entry: Entry{Prefix: prefix("192.0.2.7"), Until: long}}, Update{Entry: Entry{Prefix: prefix("192.0.2.8"), Until: short}})
		gone := []string{"192.0.2.8", "192.0.2.1", "2001:db8::1", "198.18.3.3", "198.18.8.0", "2001:db8:1::7", "192.0.2.2", "203.0.113.1", "192.0.2.5"}
		held := []string{"192.0.2.3", "198.18.7.7", "203.0.113.8", "203.0.113.9", "192.0.2.4", "192.0.2.6", "192.0.2.7"}
		for _, src := range gone {
			if r.udpReaches(src, 22) && time.Now().Before(short) { // a slow machine may come too late
				t.Errorf("%s gets through", src)
			}
		}
		for _, src := range held {
			r.want(false, src)
		}
		for _, src := range gone {
			eventually(t, patience, src+" is let go", func() bool { return r.udpReaches(src, 22) })
			if early := time.Until(short); early > 0 {
				t.Errorf("%s was released %v too soon", src, early)
			}
		}
		for _, src := range held {
			r.want(false, src)
		}
		must(t, b, Update{Entry: ends[2], Remove: true}, Update{Entry: ends[5], Remove: true}, Update{Entry: ends[0], Remove: true})
		must(t, b, Update{Entry: entry("198.18.0.0/15")})
		r.want(false, "198.19.1.1")
	})
}

func TestRefreshOnKernelsBefore612(t *testing.T) {
	t.Run("nftables", func(t *testing.T) {
		if !inside(t) {
			return
		}
		r := newRig(t)
		b := r.open(variant{"nftables", NameNFTables, "iptables-nft"}, OutboundDrop)
		b.(*nft).refreshes = false
		short := Update{Entry: entry("192.0.2.1")}
		short.Until = time.Now().Add(time.Second)
		must(t, b, short)
		must(t, b, Update{Entry: entry("192.0.2.1")}, Update{Entry: entry("192.0.2.2")})
		must(t, b, Update{Entry: Entry{Prefix: prefix("192.0.2.2"), Until: time.Now().Add(time.Second)}})
		eventually(t, patience, "192.0.2.2 is let go", func() bool { return r.udpReaches("192.0.2.2", 22) })
		r.want(false, "192.0.2.1")
	})
}

func TestReplaceLeaksNothing(t *testing.T) {
	oneVariantAtATime(t, func(t *testing.T, r *rig, v variant) {
		b := r.open(v, OutboundDrop)
		mustReplace(t, b, state())
		for _, src := range []string{"192.0.2.1", "2001:db8::1"} {
			r.leaks(t, src, func() {
				eventually(t, patience, "datagrams from "+src+" arrive before anything is banned", func() bool {
					return r.listen(22).datagrams(netip.MustParseAddr(src)) >= 1000
				})
			})
		}
		base := []Entry{entry("192.0.2.1"), entry("198.18.0.0/16"), entry("2001:db8::1"), entry("203.0.113.1", PortRange{ProtoUDP, 22, 22})}
		many := base
		for i := range 500 {
			many = append(many, entry("198.51.100."+strconv.Itoa(i%250)), entry("10."+strconv.Itoa(i%250)+".0.0/16"))
		}
		mustReplace(t, b, state(base...))
		for _, src := range []string{"192.0.2.1", "198.18.3.3", "2001:db8::1", "203.0.113.1"} {
			n := r.leaks(t, src, func() {
				for i := range 50 {
					entries := base
					if i%2 == 0 && v.backend != NameIPTables {
						entries = many
					}
					mustExcept(t, b, prefix("192.0.2.128/25"))
					mustReplace(t, b, state(entries...))
				}
			})
			if n > 0 {
				t.Errorf("%d datagrams from %s got through during 50 loads", n, src)
			}
		}
		if out := sh(t, "ipset list -n"); strings.Contains(out, "x\n") {
			t.Errorf("temporary sets are left: %s", out)
		}
	})
}

func TestRestartLeaksNothing(t *testing.T) {
	oneVariantAtATime(t, func(t *testing.T, r *rig, v variant) {
		base := []Entry{entry("192.0.2.1"), entry("198.18.0.0/16"), entry("2001:db8::1")}
		b := r.open(v, OutboundDrop)
		mustReplace(t, b, state(base...))
		must(t, b, Update{Entry: entry("192.0.2.77")})
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		// An earlier run was killed in the middle of a load.
		switch v.backend {
		case NameIPSet:
			sh(t, "ipset create meshban4x hash:net; ipset add meshban4x 1.2.3.0/24")
		case NameNFTables:
			sh(t, "nft add set inet meshban meshban4 '{ type ipv4_addr; flags timeout; }'")
		}
		r.want(false, "192.0.2.1")
		for _, src := range []string{"192.0.2.1", "198.18.3.3", "2001:db8::1"} {
			n := r.leaks(t, src, func() {
				for range 5 {
					b := r.open(v, OutboundDrop)
					mustReplace(t, b, state(base...))
					if err := b.Close(); err != nil {
						t.Error(err)
					}
				}
			})
			if n > 0 {
				t.Errorf("%d datagrams from %s got through during 5 restarts", n, src)
			}
		}
		r.want(true, "192.0.2.77") // was lifted in between
	})
}

// A set of another type that no rule uses is replaced.
func TestUnusedSetOfAnotherTypeIsReplaced(t *testing.T) {
	oneVariantAtATime(t, func(t *testing.T, r *rig, v variant) {
		if v.backend != NameIPSet {
			return // the others do not keep their sets
		}
		sh(t, "ipset create meshban4 hash:net; ipset add meshban4 192.0.2.2")
		b := r.open(v, OutboundDrop)
		mustReplace(t, b, state(entry("192.0.2.1"), entry("198.18.0.0/16")))
		r.want(false, "192.0.2.1")
		r.want(true, "192.0.2.2")
		if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("problems %q, %v", problems, err)
		}
	})
}
