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
)

const (
	// aloneMin..aloneMax is the pause between tries while no peer is alive.
	aloneMin, aloneMax = time.Second, 3 * time.Second
	// Otherwise one address that is not alive is tried every restMin..restMax, about once a second in the whole fleet.
	restMin, restMax = 3 * time.Second, 20 * time.Second
	// Right after a lost peer was found the next one is looked for sooner: others of its side will be back, too.
	foundMin, foundMax = 300 * time.Millisecond, time.Second
	// While a member that was alive a short while ago is said to be gone, the pause is hearsayEach for each one known, and at
	// least hearsayMin.
	hearsayEach, hearsayMin = 20 * time.Millisecond, 1500 * time.Millisecond
	// joinAtOnce bounds the addresses tried together.
	joinAtOnce = 8
	// joinWait bounds how long a round waits for its tries. One that stalls goes on for streamTimeout, while others are tried;
	// there are at most maxTries at a time.
	joinWait, maxTries = 2 * time.Second, 4 * joinAtOnce
	// pingAlone and pingRest bound the lost peers that are pinged in a round, while no peer is alive and otherwise: who
	// answers is joined first, for a try of one that is gone for good takes as long as streamTimeout.
	pingAlone, pingRest = 64, 8
	// lookupTimeout bounds the resolution of one name, maxLookup what is used of its addresses.
	lookupTimeout = 3 * time.Second
	maxLookup     = 8
	// joinedFor is how long an address that answered is left alone though no peer has it: it may stand for one behind
	// another address. It ends early when a peer is lost.
	joinedFor = 10 * time.Minute
	// refuteWait is how long after a join a peer that was held dead has to refute that, before a second join.
	refuteWait = 300 * time.Millisecond
)

// joinList is the configured addresses, and what came of them.
type joinList struct {
	mu     sync.Mutex
	hosts  []string
	joined map[netip.AddrPort]joinedAt
	asked  map[netip.AddrPort]time.Time // when an address was last asked for the gossip key
	change chan struct{}                // capacity 1: hosts has changed
	silent chan netip.AddrPort          // capacity 1: a member there does not answer pings; memberlist's goroutines send, askLoop receives
	// muteSince is since when those who answer speak another gossip key; zero: somebody understood us.
	muteSince time.Time
}

type joinedAt struct {
	at     time.Time
	losses uint64
}

func newJoinList(hosts []string) *joinList {
	return &joinList{hosts: slices.Clone(hosts), joined: make(map[netip.AddrPort]joinedAt), asked: make(map[netip.AddrPort]time.Time), change: make(chan struct{}, 1), silent: make(chan netip.AddrPort, 1)}
}

// SetJoin replaces the join list (at most MaxJoin entries) and tries it soon.
func (m *Mesh) SetJoin(join []string) error {
	if len(join) > MaxJoin {
		return fmt.Errorf("join list of %d, want at most %d", len(join), MaxJoin)
	}
	m.join.mu.Lock()
	m.join.hosts = slices.Clone(join)
	m.join.mu.Unlock()
	select {
	case m.join.change <- struct{}{}:
	default:
	}
	return nil
}

// rejoinLoop looks for peers that are not alive, for ever: memberlist never tries a dead one again.
func (m *Mesh) rejoinLoop(ctx context.Context, ml *memberlist.Memberlist) {
	r := &rejoiner{m: m, ml: ml, tries: make(map[string]string), trying: make(map[netip.AddrPort]struct{})}
	defer r.running.Wait()
	pause := time.Duration(0)
	for {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-m.join.change:
			timer.Stop()
		case addr := <-m.views.exchange:
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
		switch {
		case alive == 0:
			pause = between(aloneMin, aloneMax)
		case alive > before && len(lost) > 0:
			pause = between(foundMin, foundMax)
		case recent: // it may be hearsay
			mid := min(max(time.Duration(known)*hearsayEach, hearsayMin), restMax)
			pause = between(mid/2, mid+mid/2)
		default:
			mid := min(max(time.Duration(known)*time.Second, restMin), restMax)
			pause = between(mid/2, mid+mid/2)
		}
	}
}

func between(low, high time.Duration) time.Duration { return low + rand.N(high-low) }

// rejoiner is the work of one rejoinLoop.
type rejoiner struct {
	m     *Mesh
	ml    *memberlist.Memberlist
	begun bool
	turn  []lostPeer // whose turn to be pinged comes, in an order by chance; made anew when all had theirs

	running sync.WaitGroup // tries

	mu     sync.Mutex
	tries  map[string]string           // by entry of the join list; see joinFault
	trying map[netip.AddrPort]struct{} // those that are tried at this moment
}

// errTrying: a try of the same address has not ended.
var errTrying = errors.New("timeout: an earlier try has no answer yet")

// begin notes that an address is tried, and reports whether it may be.
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

// together makes tries side by side and waits for all, for joinWait at most.
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

// round makes one try: with lost peers that answer a ping, and if that was in vain, which it is where packets do not pass
// or another gossip key is spoken, with some unasked.
func (r *rejoiner) round(ctx context.Context) {
	lost, alive, _, _ := r.m.peers.lost(r.m.now())
	pings, joins := pingRest, 1
	if alive == 0 {
		pings, joins = pingAlone, joinAtOnce
	}
	found := answering(r.ml, r.next(lost, pings))
	for _, p := range found {
		if r.m.peers.answered(r.m.now(), p.id, p.addr) {
			r.m.tell(evUp{p.id})
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
		// One of all that could be tried: a lost peer, or a name of the list.
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
	came := triedSelf
	if err != nil {
		r.m.cfg.Logger.Debug("cannot resolve an address of the join list", "host", host, "error", err)
		came = triedUnresolved
	}
	for _, addr := range addrs {
		if !r.wanted(addr) {
			continue
		}
		if err := r.join(ctx, addr); err == nil {
			came = triedJoined
		} else if came != triedJoined {
			came = whyNotJoined(err)
			if r.m.peers.leftAt(addr) {
				came = triedLeft
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries[host] = came
}

// tellFault tells of a join list on which nobody answers, and, without one, of members remembered from earlier runs of whom
// none has answered in this one.
func (r *rejoiner) tellFault() {
	lost, alive, known, _ := r.m.peers.lost(r.m.now())
	if alive > 0 {
		r.m.setFault(ProblemJoin, "")
		return
	}
	hosts := r.hosts()
	r.mu.Lock()
	maps.DeleteFunc(r.tries, func(host, _ string) bool { return !slices.Contains(hosts, host) })
	text := joinFault(hosts, r.tries)
	r.mu.Unlock()
	if losses, _ := r.m.peers.lossCount(); len(hosts) == 0 && losses == 0 && len(lost) > 0 {
		text = fmt.Sprintf("none of the members of earlier runs answers (%d); see that their agents run and their ports are open for TCP and UDP, "+
			"or put HOST[:PORT] of a member into join in meshban.yaml", known)
	}
	r.m.setFault(ProblemJoin, text)
}

// next gives up to n of the lost peers; all have their turn before one has it again.
func (r *rejoiner) next(lost []lostPeer, n int) []lostPeer {
	still := make(map[lostPeer]bool, len(lost))
	for _, p := range lost {
		still[p] = true
	}
	r.turn = slices.DeleteFunc(r.turn, func(p lostPeer) bool { return !still[p] })
	if len(r.turn) == 0 {
		r.turn = slices.Clone(lost)
		rand.Shuffle(len(r.turn), func(i, j int) { r.turn[i], r.turn[j] = r.turn[j], r.turn[i] })
	}
	some := r.turn[:min(len(r.turn), n)]
	r.turn = r.turn[len(some):]
	return some
}

// answering pings peers and gives those that answer in time, the fastest first.
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

// joinAll joins some peers side by side and reports whether any could be joined soon.
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

// hosts gives the entries of the join list, but for literal addresses that need no try.
func (r *rejoiner) hosts() []string {
	r.m.join.mu.Lock()
	hosts := slices.Clone(r.m.join.hosts)
	r.m.join.mu.Unlock()
	return slices.DeleteFunc(hosts, func(host string) bool {
		addr, err := netip.ParseAddrPort(host)
		return err == nil && !r.wanted(addr)
	})
}

// wanted reports whether an address is worth a try: not ours, not a live peer's, and not one that answered lately.
func (r *rejoiner) wanted(addr netip.AddrPort) bool {
	if addr == r.m.Addr() || r.m.peers.aliveAt(addr) {
		return false
	}
	losses, alive := r.m.peers.lossCount()
	r.m.join.mu.Lock()
	defer r.m.join.mu.Unlock()
	j, ok := r.m.join.joined[addr]
	if ok && (alive == 0 || j.losses != losses || time.Since(j.at) > joinedFor) {
		delete(r.m.join.joined, addr)
		ok = false
	}
	return !ok
}

// exchange compares memberships with a live peer.
func (r *rejoiner) exchange(addr netip.AddrPort) {
	if _, err := r.ml.Join([]string{addr.String()}); err != nil {
		r.m.cfg.Logger.Debug("cannot exchange the membership", "addr", addr, "error", escapeText(err.Error(), maxLogText))
	}
}

// join exchanges membership with an address. After a long partition each side holds the other dead: the first exchange
// makes them refute that, a second one spreads it. An error says that the address did not answer.
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
			r.m.cfg.Logger.Debug("cannot join", "addr", addr, "error", escapeText(err.Error(), maxLogText))
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
	r.m.join.mu.Lock()
	defer r.m.join.mu.Unlock()
	r.m.join.muteSince = time.Time{}
	if len(r.m.join.joined) < MaxPeers+MaxJoin {
		r.m.join.joined[addr] = joinedAt{time.Now(), losses}
	}
	return nil
}

// resolve turns HOST[:PORT] into addresses; the port defaults to the one that we are bound to.
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
