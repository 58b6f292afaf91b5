package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/transport"
)

// memberlist's settings that differ from its LAN defaults. They are chosen so that an idle node in a mesh of ten costs
// less than 400 B/s on the wire.
const (
	// gossipInterval is how often memberlist checks for something to gossip. Bans are pushed, so this only carries news
	// of members and second copies; at memberlist's 200 ms it would be most of an idle node's work.
	gossipInterval = 500 * time.Millisecond
	// pushPullInterval is the time between two exchanges of the whole membership with one peer.
	pushPullInterval = 15 * time.Minute
	// maxAwareness bounds the factor by which an overloaded node pings more slowly.
	maxAwareness = 2
	// reclaimAfter is how long a node must have been dead before its id may come back at another address.
	reclaimAfter = time.Second

	// leaveTime bounds how long memberlist spreads our goodbye, which it gossips once in that time; leaveEach tells the
	// rest.
	leaveTime = gossipInterval + 200*time.Millisecond
	// rememberEvery is the least time between two calls of PeersChanged.
	rememberEvery = 5 * time.Second
	// forgetEvery is the time between two searches for peers to forget.
	forgetEvery = time.Minute
	// rollBurst changes of epoch may happen at once, as after the restore of a snapshot that is several starts old,
	// then one per rollEvery.
	rollBurst, rollEvery = 3, 10 * time.Second
)

// Run opens the sockets, joins and serves until ctx ends; then it leaves the mesh cleanly, within 3 s, and returns nil.
// It returns only after everything that it started has returned, except at most one memberlist goroutine that waits for
// the answer to its last ping. It can be called once.
func (m *Mesh) Run(ctx context.Context) error {
	m.mu.Lock()
	if m.phase != phaseNew {
		m.mu.Unlock()
		return ErrStopped
	}
	m.phase = phaseRunning
	m.mu.Unlock()
	defer m.end()

	if err := m.loadInvites(); err != nil {
		return fmt.Errorf("load the open invitations: %w", err)
	}
	if err := m.present(); err != nil {
		return fmt.Errorf("make this node's certificate known: %w", err)
	}

	// Shutdown has two phases: first end the tasks that bring new work, then those that carry it out.
	outer, stopOuter := context.WithCancel(ctx)
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopOuter()
	defer stopInner()
	var tasks, helpers sync.WaitGroup
	tasks.Go(func() { m.proveLoop(outer) })
	tasks.Go(func() { m.renewLoop(outer) })
	tasks.Go(func() { m.keyLoop(outer) })
	tasks.Go(func() { m.pathLoop(outer) })
	tasks.Go(func() { m.sightLoop(outer) })
	helpers.Go(func() { m.coreLoop(inner) })
	helpers.Go(func() { m.pusher.Run(inner) })
	helpers.Go(func() { m.streams.Run(inner) })
	helpers.Go(func() { m.notifyLoop(inner) })

	here, err := m.dwell(outer)
	m.refuse()
	if here != nil {
		m.pusher.Flush()
		err = m.leave(here)
	}
	stopOuter()
	tasks.Wait()
	stopInner()
	helpers.Wait()
	return err
}

// refuse makes Publish fail from now on.
func (m *Mesh) refuse() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phase = phaseEnded
}

func (m *Mesh) end() {
	m.refuse()
	m.execute() // what was published while the core's goroutine was ending
}

// leave says goodbye and closes the sockets, and with them every stream.
func (m *Mesh) leave(here *membership) error {
	here.stop()
	said := bye{signed: signed{MeshID: m.cfg.Secrets.MeshID}, Issued: m.now()}.encode(m.cfg.Identity)
	alive := m.peers.alive()
	for _, t := range alive {
		m.pusher.Send(t.Node, said)
	}
	if err := here.ml.Leave(leaveTime); err != nil {
		m.cfg.Logger.Debug("the goodbye did not reach everybody", "error", err)
	}
	m.leaveEach(alive)
	here.events.over.Store(true)
	err := here.ml.Shutdown()
	here.tasks.Wait()
	if err != nil {
		return fmt.Errorf("close the mesh port: %w", err)
	}
	return nil
}

// leaveEach tells each of our peers what memberlist's Leave has told only some of them. The others might hear of our
// new address before they hear of the leave, and could not take it yet.
func (m *Mesh) leaveEach(peers []spread.Target) {
	tr := m.tr.Load()
	for _, t := range peers {
		if err := tr.SayLeft(m.ceiling.HeardMost(), t.Node.FullAddress()); err != nil {
			m.cfg.Logger.Debug("cannot tell a member that this node leaves", "id", t.ID.String(), "error", err)
		}
	}
}

// open creates the transport, and memberlist on it. Others reach this node at advertise; port 0 stands for the bound
// port.
func (m *Mesh) open(advertise netip.AddrPort, events memberlist.EventDelegate) (*memberlist.Memberlist, error) {
	log := transport.NewLog(m.cfg.Logger, m.id)
	log.Suspected, log.Unheard = m.suspected, m.lossSeen
	keyring, err := m.keys.Open()
	if err != nil {
		return nil, err
	}
	conf := filter.Config{
		Identity: m.cfg.Identity, MeshID: m.cfg.Secrets.MeshID, Keys: keyring.GetKeys, Now: m.now, Members: m.peers, Count: &m.count.Count,
		Ceiling: &m.ceiling, Raised: func() { wake(m.keys.say) }, Enrol: m.serveEnrol, Flooded: m.flooded, Unsent: m.lossSeen,
	}
	var inner memberlist.Transport
	if m.cfg.newTransport != nil {
		t, err := m.cfg.newTransport()
		if err != nil {
			return nil, fmt.Errorf("open the mesh transport: %w", err)
		}
		inner = t
	} else {
		bind := netip.AddrPortFrom(m.cfg.Bind.Addr(), cmp.Or(m.cfg.Bind.Port(), m.place.port))
		s, err := transport.Listen(bind, func(what string, err error) { log.Record(time.Now(), what+err.Error()) })
		if err != nil {
			return nil, err
		}
		m.place.port = s.Port()
		advertise = netip.AddrPortFrom(advertise.Addr(), cmp.Or(advertise.Port(), s.Port()))
		inner = s
		conf.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
	}
	tr := filter.New(inner, conf)
	m.tr.Store(tr)
	lists := m.memberlistConfig(tr, keyring, advertise, log)
	lists.Events = events
	if ip, port, addrErr := tr.FinalAdvertiseAddr(lists.AdvertiseAddr, lists.AdvertisePort); addrErr == nil {
		addr := nodeAddr(&memberlist.Node{Addr: ip, Port: uint16(port)})
		m.place.word = m.cfg.Identity.SignText(meta.PlaceText(m.cfg.Secrets.MeshID, addr))
		m.lookForOther(addr)
	}
	ml, err := memberlist.Create(lists)
	if err == nil {
		addr := nodeAddr(ml.LocalNode())
		m.addr.Store(&addr)
		return ml, nil
	}
	return nil, errors.Join(fmt.Errorf("start membership: %w", err), tr.Shutdown())
}

// suspected records that a member has not answered a ping, by UDP or TCP. It must not block.
func (m *Mesh) suspected(id frame.ID) {
	var at netip.AddrPort
	m.peers.update(id, func(p *peer) {
		at = p.addrInUse()
		if p.State == StateAlive {
			p.State, p.Since = StateSuspect, time.Now()
		}
	})
	m.peers.unheard(id)
	if at.IsValid() && m.trusted(id) { // it may use a newer gossip key
		select {
		case m.join.Silent <- at:
		default:
		}
	}
}

// flooded reports an address that sends more than any member does. forged says that a member is there but did not send
// this.
func (m *Mesh) flooded(from netip.Addr, forged bool) {
	switch at := from.String(); {
	case forged:
		m.warn(ProblemForged, "packets", "packets come as if from "+at+" that the member there did not send: somebody with the mesh's key forges addresses",
			"filter them in the network; "+shutOut)
	case len(m.peers.At(from)) == 0:
		m.warn(ProblemFlood, "elsewhere", "more than any member sends comes from where no member has answered, lately from "+at+" (which may be forged): "+
			"what is beyond the share of such addresses is dropped", shutOut)
	default:
		m.warn(ProblemFlood, at, at+
			" sends more than any member does; what is beyond its share is dropped, and a sync repairs what was good of it",
			"look what runs there; `meshban revoke NAME` shuts a captured member out")
	}
}

func (m *Mesh) memberlistConfig(tr memberlist.Transport, keyring *memberlist.Keyring, advertise netip.AddrPort, log *transport.Log) *memberlist.Config {
	d := delegate{m}
	c := memberlist.DefaultLANConfig()
	c.Name = m.id.String()
	c.Transport = tr
	c.Keyring = keyring
	c.Logger = log.Standard()
	if advertise.IsValid() {
		c.BindAddr, c.BindPort = advertise.Addr().String(), int(advertise.Port())
		c.AdvertiseAddr, c.AdvertisePort = advertise.Addr().String(), int(advertise.Port())
	}
	c.EnableCompression = false
	c.ProtocolVersion = mlwire.Versions[2]
	c.DelegateProtocolMin, c.DelegateProtocolMax, c.DelegateProtocolVersion = mlwire.Versions[3], mlwire.Versions[4], mlwire.Versions[5]
	c.ProbeInterval = replica.ProbeInterval
	c.IndirectChecks = 0 // see ping.go of package filter
	c.GossipInterval = gossipInterval
	c.PushPullInterval = pushPullInterval
	c.AwarenessMaxMultiplier = maxAwareness
	c.DeadNodeReclaimTime = reclaimAfter
	c.TCPTimeout = filter.StreamTimeout
	c.Delegate, c.Alive, c.Conflict, c.Ping = d, d, d, d
	return c
}

// notifyLoop tells the daemon about members and peers to remember.
func (m *Mesh) notifyLoop(ctx context.Context) {
	forget := time.NewTicker(forgetEvery)
	defer forget.Stop()
	remember := time.NewTimer(rememberEvery)
	remember.Stop()
	defer remember.Stop()
	waiting := false
	for {
		stop := false
		select {
		case <-m.peers.wake:
		case <-forget.C:
			for _, id := range m.peers.silent(m.now()) {
				m.tell(replica.DownEvent{Peer: id})
			}
			m.peers.forget(time.Now())
		case <-remember.C:
			waiting = false
			if m.cfg.PeersChanged != nil {
				m.cfg.PeersChanged(m.peers.remember(m.now()))
			}
		case <-ctx.Done():
			stop = true
		}
		events, dirty, known, dropped := m.peers.take()
		m.count.dropped.Add(dropped)
		for _, e := range events {
			if m.cfg.OnMember != nil && !stop {
				m.cfg.OnMember(e)
			}
		}
		if known && m.cfg.KnownChanged != nil && !stop {
			m.cfg.KnownChanged()
		}
		if stop {
			if dirty && m.cfg.PeersChanged != nil {
				m.cfg.PeersChanged(m.peers.remember(m.now()))
			}
			return
		}
		if dirty && !waiting {
			waiting = true
			remember.Reset(rememberEvery)
		}
	}
}

// rollEpoch switches to a higher epoch after ours was found in use. Only the core's goroutine calls it.
func (m *Mesh) rollEpoch(now time.Time, past uint64) {
	m.mu.Lock()
	due := past >= m.core.Last().Epoch
	m.mu.Unlock()
	if !due || !m.rolls.AllowN(now, 1) {
		return
	}
	epoch := past + 1
	if m.cfg.RollEpoch != nil {
		var err error
		if epoch, err = m.cfg.RollEpoch(past); err != nil {
			m.problems.report(now, ProblemEpoch, "store", "cannot raise the epoch: "+err.Error(), "see that the state folder can be written, then restart the agent")
			return
		}
	}
	m.mu.Lock()
	m.core.RaiseEpoch(epoch)
	m.lastLocked()
	m.mu.Unlock()
	m.problems.report(now, ProblemEpoch, "own", fmt.Sprintf(
		"frames in this node's name that it did not publish (restored from a snapshot, or its key is used twice); it goes on with epoch %d", epoch),
		"nothing need be done after a restore; otherwise "+twoUsers)
}
