package mesh

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/transport"
)

// A machine's addresses may change while the agent runs, or appear only after it has started, but memberlist takes its
// own address only once, when it is created. So every placeEvery this node checks at which address others can reach it.
// If that has changed, it leaves the mesh and rejoins from the new address with a new memberlist. It keeps all its
// frames and its numbering.
//
// memberlist knows one address of a node. A node with both families signs one of the other family into its metadata, and
// members that get no answer at the first (prove.go asks) reach it there; the transport exchanges the address.

const (
	// placeEvery is how often this machine's addresses are checked.
	placeEvery = 2 * time.Second
	// maxRoutes bounds the other nodes' addresses whose routes are looked up.
	maxRoutes = 16
)

// location is where this node is. Only dwell's goroutine writes it: word and port while there is no memberlist, addrs
// at any time.
type location struct {
	word []byte                          // our signature over our address
	port uint16                          // the bound one; 0: none yet
	find func() (netip.AddrPort, string) // replaces locate in tests
	// former holds one token: the others know this node at an address where it no longer is. proveLoop's timers send, dwell
	// receives.
	former chan struct{}
	// unreached: a member says that nobody answers at our address, and sees us at another one. sightLoop writes it.
	unreached atomic.Bool

	addrs transport.Addrs // of this machine

	also    atomic.Pointer[signedAddr] // see lookForOther
	alsoFor string                     // own address and address changes when also was last looked for
}

// signedAddr is an address of this node with our signature over it.
type signedAddr struct {
	addr  netip.AddrPort
	proof []byte
}

// membership is this node's stay in the mesh at one address.
type membership struct {
	at     netip.AddrPort // as locate returned it
	ml     *memberlist.Memberlist
	events *stayEvents
	stop   context.CancelFunc
	tasks  sync.WaitGroup
}

// stayEvents passes on one memberlist's events until that memberlist is shut down. Its suspicion timers may fire even later.
type stayEvents struct {
	delegate
	over atomic.Bool
}

// NotifyLeave records that a peer is gone.
func (e *stayEvents) NotifyLeave(n *memberlist.Node) {
	if !e.over.Load() {
		e.delegate.NotifyLeave(n)
	}
}

// dwell keeps this node in the mesh, at the address where others can reach it, until ctx ends. It returns the
// membership at that time, nil if there is none, or an error if the mesh port cannot be opened at the start.
func (m *Mesh) dwell(ctx context.Context) (*membership, error) {
	tick := time.NewTimer(filter.UntilMultiple(placeEvery))
	defer tick.Stop()
	var here *membership
	former := m.place.former // at most once: whoever has the mesh's key can claim an address for this node
	for {
		at, fault := m.locate()
		if fault == "" && here != nil && at != here.at {
			m.cfg.Logger.Info("the address of this node has changed", "from", here.at.Addr(), "to", at.Addr())
			m.move(here)
			here = nil
		}
		if fault == "" && here == nil {
			var err error
			if here, err = m.enter(ctx, at); err != nil && !m.isReady() {
				return nil, err
			} else if err != nil {
				fault = "the mesh port cannot be opened: " + err.Error() + "; `ss -lntup` shows what else has it; it is tried again"
			}
		}
		if here != nil && m.lookForOther(m.Addr()) {
			wake(m.keys.say)
		}
		m.setFault(ProblemAddress, fault)
		if !m.isReady() {
			close(m.ready)
		}
		select {
		case <-tick.C:
			tick.Reset(filter.UntilMultiple(placeEvery))
		case <-former:
			// memberlist takes a member's new address only once the member has left or is found dead, and finding out takes
			// 15 seconds.
			former = nil
			if here != nil {
				m.cfg.Logger.Info("the others know this node at an earlier address: leaving there, entering here", "addr", here.at.Addr())
				m.move(here)
				here = nil
			}
		case <-ctx.Done():
			return here, nil
		}
	}
}

func (m *Mesh) isReady() bool {
	select {
	case <-m.ready:
		return true
	default:
		return false
	}
}

// enter opens the mesh port and becomes a member.
func (m *Mesh) enter(ctx context.Context, at netip.AddrPort) (*membership, error) {
	events := &stayEvents{delegate: delegate{m}}
	ml, err := m.open(at, events)
	if err != nil {
		return nil, err
	}
	m.ml.Store(ml)
	here := &membership{at: at, ml: ml, events: events}
	ctx, here.stop = context.WithCancel(ctx)
	here.tasks.Go(func() { m.rejoinLoop(ctx, ml) })
	here.tasks.Go(func() { m.announceLoop(ctx, ml) })
	here.tasks.Go(func() { m.askLoop(ctx) })
	return here, nil
}

// move leaves the mesh so that this node can rejoin from another address.
func (m *Mesh) move(here *membership) {
	if err := m.leave(here); err != nil {
		m.cfg.Logger.Warn("could not leave the mesh cleanly", "error", err)
	}
	m.ml.Store(nil)
	m.addr.Store(nil)
	for _, id := range m.peers.detach(m.now()) {
		m.tell(replica.DownEvent{Peer: id})
	}
}

// detach records that this node has left, so that all others have to be found again. It returns those that were alive.
func (t *peerTable) detach(now time.Time) (ids []frame.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.peers {
		if p.State == StateAlive || p.State == StateSuspect || p.answers {
			p.State, p.Since, p.InSync, p.upWaits, p.answers = StateDead, now, false, false, false
			ids = append(ids, id)
		}
	}
	t.losses++ // addresses joined before are to be joined again
	t.targetsLocked(now)
	return ids
}

// locate returns the address at which others can reach this node (port 0 stands for the bound port), or the reason why
// they cannot.
func (m *Mesh) locate() (at netip.AddrPort, fault string) {
	bind, said := m.cfg.Bind.Addr().Unmap(), m.cfg.Advertise
	named := said.Addr().IsValid() && !said.Addr().IsUnspecified()
	switch {
	case m.place.find != nil:
		return m.place.find()
	case m.cfg.newTransport != nil:
		return said, ""
	case !bind.IsUnspecified() && !transport.Usable(bind):
		return at, fmt.Sprintf("this machine does not have the address in bind (%v), so the mesh is cut off; give the address back to it, "+
			"or change bind in meshban.yaml and restart the agent", bind)
	case named:
		return netip.AddrPortFrom(said.Addr().Unmap(), said.Port()), ""
	case !bind.IsUnspecified():
		return netip.AddrPortFrom(bind, said.Port()), ""
	}
	local := slices.DeleteFunc(m.place.addrs.Local(), func(a netip.Addr) bool { return !a.IsGlobalUnicast() || bind.Is4() && !a.Is4() })
	addr := m.pickAddr(m.Addr().Addr(), local)
	if !addr.IsValid() {
		return at, "this machine has no address at which others can reach it, so the mesh waits for one; " +
			"for a trial on this machine alone, set bind: 127.0.0.1:7946 in meshban.yaml and restart the agent"
	}
	return netip.AddrPortFrom(addr, said.Port()), ""
}

// pickAddr chooses which of this machine's addresses to advertise: the present one while others reach it, else the
// source address of packets to most of the others, else that of the default route (which bridges of containers lack),
// else the first usable one by transport.Preferred. It returns the zero Addr if none can be used.
//
// A member that lies about reaching this node can only make it choose by its own routes, and is one of many there.
func (m *Mesh) pickAddr(now netip.Addr, local []netip.Addr) netip.Addr {
	stays := slices.Contains(local, now) && transport.Usable(now)
	if _, alive := m.peers.lossCount(); stays && alive > 0 && !m.place.unreached.Load() {
		return now
	}
	var best netip.Addr
	uses := make(map[netip.Addr]int)
	for _, to := range m.routesTo() {
		if from := transport.SourceTo(to); slices.Contains(local, from) {
			if uses[from]++; uses[from] > uses[best] || uses[from] == uses[best] && from == now {
				best = from
			}
		}
	}
	switch {
	case best.IsValid():
		return best
	case stays:
		return now
	}
	for _, from := range transport.DefaultSources() {
		if slices.Contains(local, from) {
			return from
		}
	}
	for _, a := range transport.Preferred(local) {
		if transport.Usable(a) {
			return a
		}
	}
	return netip.Addr{}
}

// lookForOther looks for an address of the other family than that of own, the advertised address: some members may have
// only that family. It reports whether it has looked anew, which it does when the addresses have changed. If the
// operator names or binds one address, it looks for no other.
func (m *Mesh) lookForOther(own netip.AddrPort) (looked bool) {
	bind, said := m.cfg.Bind.Addr().Unmap(), m.cfg.Advertise.Addr()
	if m.cfg.newTransport != nil && m.place.find == nil || bind != netip.IPv6Unspecified() || said.IsValid() && !said.IsUnspecified() {
		return false
	}
	local, changes := m.place.addrs.Last()
	key := fmt.Sprint(own, changes)
	if key == m.place.alsoFor {
		return false
	}
	m.place.alsoFor = key
	local = slices.DeleteFunc(local, func(a netip.Addr) bool { return !a.IsGlobalUnicast() || a.Is4() == own.Addr().Is4() })
	var also *signedAddr
	if len(local) > 0 {
		addr := transport.Preferred(local)[0]
		for _, from := range transport.DefaultSources() {
			if slices.Contains(local, from) {
				addr = from
			}
		}
		at := netip.AddrPortFrom(addr, own.Port())
		also = &signedAddr{at, m.cfg.Identity.SignText(meta.PlaceText(m.cfg.Secrets.MeshID, at))}
	}
	m.place.also.Store(also)
	return true
}

// routesTo returns the last known addresses of some other nodes, and those of the join list, in a stable order.
func (m *Mesh) routesTo() []netip.AddrPort {
	var list []netip.AddrPort
	var last frame.ID
	for _, p := range m.Known() {
		if p.ID != last { // its last address comes first
			list, last = append(list, p.Addr), p.ID
		}
	}
	for _, host := range m.join.Hosts() {
		if addr, err := netip.ParseAddrPort(host); err == nil {
			list = append(list, addr)
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list[:min(len(list), maxRoutes)]
}
