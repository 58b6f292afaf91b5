package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/roster"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// joinAtOnce bounds the addresses tried together.
	joinAtOnce = 8
	// joinWait bounds how long a round waits for its tries. A stalled try continues for filter.StreamTimeout while others are
	// tried; at most maxTries run at a time.
	joinWait, maxTries = 2 * time.Second, 4 * joinAtOnce
	// pingAlone and pingRest bound the lost peers pinged in a round, while no peer is alive and otherwise. Those that
	// answer are joined first, because trying one that is gone for good takes filter.StreamTimeout.
	pingAlone, pingRest = 64, 8
	// lookupTimeout bounds the resolution of one name, maxLookup the addresses used from it.
	lookupTimeout = 3 * time.Second
	maxLookup     = 8
	// refuteWait is how long a peer that was held dead has to refute that after a join, before a second join.
	refuteWait = 300 * time.Millisecond
)

// SetJoin replaces the join list (at most 1024 entries) and tries it soon.
func (m *Mesh) SetJoin(join []string) error {
	if len(join) > maxJoin {
		return fmt.Errorf("join list of %d, want at most %d", len(join), maxJoin)
	}
	m.join.Set(join)
	return nil
}

// rejoinLoop searches for peers that are not alive until ctx ends: memberlist never tries a dead one again.
func (m *Mesh) rejoinLoop(ctx context.Context, ml *memberlist.Memberlist) {
	r := &rejoiner{m: m, ml: ml, tries: make(map[string]string), trying: make(map[netip.AddrPort]struct{})}
	defer r.running.Wait()
	pause := time.Duration(0)
	for {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-m.join.Change:
			timer.Stop()
		case addr := <-m.views.Exchange:
			timer.Stop()
			r.together(func() { r.exchange(addr) })
		case <-ctx.Done():
			timer.Stop()
			return
		}
		_, before, _, _ := m.peers.lost(m.now())
		r.round(ctx)
		r.tellFault()
		lost, alive, known, recent := m.peers.lost(m.now())
		pause = roster.Pause(alive, alive > before && len(lost) > 0, known, recent)
	}
}

// rejoiner does the work of one rejoinLoop.
type rejoiner struct {
	m     *Mesh
	ml    *memberlist.Memberlist
	begun bool
	turn  roster.Turn[lostPeer] // peers to ping

	running sync.WaitGroup // tries

	mu     sync.Mutex
	tries  map[string]string           // by entry of the join list; see roster.JoinFault
	trying map[netip.AddrPort]struct{} // being tried now
}

// errTrying: an earlier try of the same address has not ended, or too many tries are running.
var errTrying = errors.New("timeout: an earlier try has no answer yet")

// begin records that an address is being tried, and reports whether it may be.
func (r *rejoiner) begin(addr netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.trying[addr]; ok || len(r.trying) >= maxTries {
		return false
	}
	r.trying[addr] = struct{}{}
	return true
}

func (r *rejoiner) end(addr netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.trying, addr)
}

// together runs tries in parallel and waits for all of them, at most joinWait.
func (r *rejoiner) together(tries ...func()) {
	var these sync.WaitGroup
	for _, try := range tries {
		these.Go(try)
	}
	done := make(chan struct{})
	r.running.Go(func() {
		these.Wait()
		close(done)
	})
	timer := time.NewTimer(joinWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// round joins lost peers that answer a ping. If that fails, as it does where packets are lost or another gossip key is
// used, it joins some without a ping.
func (r *rejoiner) round(ctx context.Context) {
	lost, alive, _, _ := r.m.peers.lost(r.m.now())
	pings, joins := pingRest, 1
	if alive == 0 {
		pings, joins = pingAlone, joinAtOnce
	}
	found := answering(r.ml, r.turn.Next(lost, pings))
	for _, p := range found {
		if r.m.peers.answered(r.m.now(), p.id, p.addr) {
			r.m.tell(replica.UpEvent{Peer: p.id})
		}
	}
	if r.joinAll(ctx, found[:min(len(found), joins)]) {
		return
	}
	hosts := r.hosts()
	switch {
	case alive == 0 || !r.begun:
		rand.Shuffle(len(lost), func(i, j int) { lost[i], lost[j] = lost[j], lost[i] })
		rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
		half := joinAtOnce / 2
		lost = lost[:min(len(lost), max(half, joinAtOnce-len(hosts)))]
		hosts = hosts[:min(len(hosts), joinAtOnce-len(lost))]
	default:
		// One of all candidates: a lost peer, or an entry of the join list.
		if n := len(lost) + len(hosts); n > 0 {
			if i := rand.IntN(n); i < len(lost) {
				lost, hosts = lost[i:i+1], nil
			} else {
				lost, hosts = nil, hosts[i-len(lost):i-len(lost)+1]
			}
		}
	}
	r.begun = true
	tries := []func(){func() { r.joinAll(ctx, lost) }}
	for _, host := range hosts {
		tries = append(tries, func() { r.joinHost(ctx, host) })
	}
	r.together(tries...)
}

// joinHost joins an entry of the join list at each of its addresses.
func (r *rejoiner) joinHost(ctx context.Context, host string) {
	addrs, err := r.m.resolve(ctx, host)
	came := roster.TriedSelf
	if err != nil {
		r.m.cfg.Logger.Debug("cannot resolve an address of the join list", "host", host, "error", err)
		came = roster.TriedUnresolved
	}
	for _, addr := range addrs {
		if !r.wanted(addr) {
			continue
		}
		if err := r.join(ctx, addr); err == nil {
			came = roster.TriedJoined
		} else if came != roster.TriedJoined {
			came = roster.WhyNot(err)
			if r.m.peers.leftAt(addr) {
				came = roster.TriedLeft
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries[host] = came
}

// tellFault reports that nobody on the join list answers or, without a join list, that no member remembered from
// earlier runs has answered in this one.
func (r *rejoiner) tellFault() {
	lost, alive, known, _ := r.m.peers.lost(r.m.now())
	if alive > 0 {
		r.m.setFault(ProblemJoin, "")
		return
	}
	hosts := r.hosts()
	r.mu.Lock()
	maps.DeleteFunc(r.tries, func(host, _ string) bool { return !slices.Contains(hosts, host) })
	text := roster.JoinFault(hosts, r.tries)
	r.mu.Unlock()
	if losses, _ := r.m.peers.lossCount(); len(hosts) == 0 && losses == 0 && len(lost) > 0 {
		text = fmt.Sprintf("none of the members of earlier runs answers (%d); see that their agents run and their ports are open for TCP and UDP, "+
			"or put HOST[:PORT] of a member into join in meshban.yaml", known)
	}
	r.m.setFault(ProblemJoin, text)
}

// answering pings peers and returns those that answer in time, fastest first.
func answering(ml *memberlist.Memberlist, peers []lostPeer) (found []lostPeer) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, p := range peers {
		wg.Go(func() {
			if _, err := ml.Ping(p.id.String(), net.UDPAddrFromAddrPort(p.addr)); err == nil {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, p)
			}
		})
	}
	wg.Wait()
	return found
}

// joinAll joins some peers in parallel and reports whether any join succeeded within joinWait.
func (r *rejoiner) joinAll(ctx context.Context, peers []lostPeer) bool {
	var joined atomic.Bool
	var tries []func()
	for _, p := range peers {
		tries = append(tries, func() {
			if r.join(ctx, p.addr) == nil {
				joined.Store(true)
			}
		})
	}
	r.together(tries...)
	return joined.Load()
}

// hosts returns the entries of the join list, except literal addresses that need no try.
func (r *rejoiner) hosts() []string {
	return slices.DeleteFunc(r.m.join.Hosts(), func(host string) bool {
		addr, err := netip.ParseAddrPort(host)
		return err == nil && !r.wanted(addr)
	})
}

// wanted reports whether an address should be tried: not ours, not a live peer's, and not one that answered recently.
func (r *rejoiner) wanted(addr netip.AddrPort) bool {
	if addr == r.m.Addr() || r.m.peers.aliveAt(addr) {
		return false
	}
	losses, alive := r.m.peers.lossCount()
	return !r.m.join.Answered(time.Now(), addr, losses, alive)
}

// exchange compares memberships with a live peer.
func (r *rejoiner) exchange(addr netip.AddrPort) {
	if _, err := r.ml.Join([]string{addr.String()}); err != nil {
		r.m.cfg.Logger.Debug("cannot exchange the membership", "addr", addr, "error", wire.Escape(err.Error(), wire.MaxLogText))
	}
}

// join exchanges membership with an address. After a long partition each side holds the other dead: the first exchange
// makes both refute that, a second one spreads it. An error says that the address did not answer.
func (r *rejoiner) join(ctx context.Context, addr netip.AddrPort) error {
	if !r.begin(addr) {
		return errTrying
	}
	defer r.end(addr)
	for try := range 2 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := r.ml.Join([]string{addr.String()}); err != nil {
			r.m.cfg.Logger.Debug("cannot join", "addr", addr, "error", wire.Escape(err.Error(), wire.MaxLogText))
			r.m.askKeys(ctx, addr)
			return err
		}
		if r.m.peers.aliveAt(addr) || try > 0 {
			break
		}
		select {
		case <-time.After(refuteWait):
		case <-ctx.Done():
		}
	}
	losses, _ := r.m.peers.lossCount()
	r.m.join.Joined(time.Now(), addr, losses)
	return nil
}

// resolve turns HOST[:PORT] into addresses; the default port is the one we are bound to.
func (m *Mesh) resolve(ctx context.Context, entry string) ([]netip.AddrPort, error) {
	host, port := entry, m.Addr().Port()
	if m.cfg.Bind.Port() != 0 {
		port = m.cfg.Bind.Port()
	}
	if h, p, err := net.SplitHostPort(entry); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("port %q of %q: want 1 to 65535", p, entry)
		}
		host, port = h, uint16(n)
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), port)}, nil
	}
	lookup := m.cfg.Lookup
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ips, err := lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("resolve %q: %w", host, err)
	}
	var addrs []netip.AddrPort
	for _, ip := range ips[:min(len(ips), maxLookup)] {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), port))
	}
	return addrs, nil
}
