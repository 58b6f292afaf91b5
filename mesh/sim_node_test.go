package mesh

import (
	"errors"
	"iter"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// SimBans does what the daemon does with frames; package mesh cannot decode them.
type SimBans interface {
	// Take merges frames that were delivered, restored or published.
	Take(now time.Time, frames []frame.Frame)
	// Say publishes what an operator or a log line would.
	Say(now time.Time, rng *rand.Rand, publish func(payload []byte, expires time.Time))
	// Expire drops what has ended.
	Expire(now time.Time)
	// Rewound merges the live frames again after the clock was set back.
	Rewound(now time.Time, live iter.Seq[frame.Frame])
	// Amend makes sure that own frames of former epochs that came back do not override what was said since.
	Amend(now time.Time, frames []frame.Frame, epoch uint64, publish func(payload []byte, expires time.Time))
	// Trust makes an origin's records count, or stop counting.
	Trust(now time.Time, origin frame.ID, trusted bool)
	// Judge compares what is enforced with what should be, given all live frames and all frames ever signed by origins that
	// count. A frame in doubt shares its name with another. Stepped reports whether any clock was set.
	Judge(now time.Time, live, said, doubt []frame.Frame, stepped bool) error
}

// SimAttack is what a malicious origin says.
type SimAttack uint8

// The attacks: a ban of a never-ban address, a ban that is too wide, and an undecodable payload.
const (
	SimNever SimAttack = iota
	SimWide
	SimGarbage
	simAttacks
)

// NewSimBans and NewSimAttack are set by package mesh_test, which knows package ban.
var (
	NewSimBans   func(self frame.ID) SimBans
	NewSimAttack func(kind SimAttack, now time.Time) (payload []byte, expires time.Time)
)

// simNode is a place in the fleet: a machine with a disk and a clock, which may run a Mesh.
type simNode struct {
	w     *simWorld
	slot  int
	key   pki.Identity
	node  *memberlist.Node // what others see
	disk  *simDisk
	bans  SimBans
	mesh  *Mesh // nil: down
	run   int   // counts starts and stops
	skew  time.Duration
	dying bool // it stops after this event; nothing it does until then counts
	gone  bool // it left for good

	tickAt time.Duration        // of the next planned tick
	held   map[frame.Ref]string // held, according to the callbacks
	early  map[frame.Ref]bool   // on disk at the start, but issued in the future
	own    map[frame.Ref]bool   // published since the start

	cert      pki.Certificate   // what it enrolled with
	withdrawn map[frame.ID]bool // no longer counting, according to the callbacks

	sessions map[frame.ID][]uint64 // this node's names of its last sessions with each peer, as overheard
}

func (w *simWorld) addNode(key pki.Identity) *simNode {
	slot := len(w.nodes)
	about := meta.Data{Protocol: meta.Protocol, Key: key.Public(), Name: "sim", Version: "1"}.Encode()
	n := &simNode{w: w, slot: slot, key: key, sessions: make(map[frame.ID][]uint64), node: &memberlist.Node{
		Name: key.ID().String(), Addr: net.IPv4(10, 0, 0, byte(slot)).To4(), Port: 7946, Meta: about,
	}}
	if w.trust != nil {
		n.cert = w.certify(key)
	}
	n.disk = newSimDisk(n)
	w.nodes = append(w.nodes, n)
	return n
}

func (n *simNode) now() time.Time { return simTime(simEpoch.Add(n.w.at+n.skew), n.w.at) }

// floor is what the daemon passes to RaiseEpoch at a start; without it, the replication core must notice a used epoch by
// itself.
func (n *simNode) floor() uint64 {
	if n.w.plan.floor {
		return uint64(n.now().Unix())
	}
	return 0
}

func (n *simNode) start() {
	w := n.w
	n.run++
	n.dying = false
	raws := n.disk.open()
	epoch := n.disk.raiseEpoch(n.floor())
	if n.dying {
		n.stop()
		return
	}
	m, err := New(Config{
		Identity: n.key, Secrets: w.secrets, Certificate: n.cert, Name: "sim", Epoch: epoch,
		RollEpoch: func(atLeast uint64) (uint64, error) {
			epoch := n.disk.raiseEpoch(atLeast)
			if n.dying {
				return 0, errors.New("the machine stopped")
			}
			return epoch, nil
		},
		Deliver: n.deliver, Admitted: n.admitted, Expired: n.expired, Withdrawn: n.withdraw, Readmitted: n.readmit, Rewound: n.rewound,
		newTransport: func() (memberlist.Transport, error) { return nil, errors.New("no sockets here") },
	})
	if err != nil {
		w.fail(n.slot, "new: %v", err)
		return
	}
	m.now = n.now
	m.core = replica.New(n.key.ID(), m.cfg.authorityID(), epoch, rand.New(rand.NewPCG(w.seed, uint64(n.slot)<<32|uint64(n.run))))
	m.pusher = spread.NewPusher(m.id, m.peers.receivers, func(to *memberlist.Node, b []byte) bool {
		n.send(to, b, false) // UDP reports no loss
		return true
	})
	m.pusher.AlwaysTrees = w.plan.trees // some fleets use trees although they are small
	m.streams = spread.NewStreams(n.stream, func(out spread.Message) { m.tell(replica.SendFailedEvent{Peer: out.To, Session: out.Session}) })
	n.mesh, n.tickAt = m, 0
	n.held, n.own, n.early = make(map[frame.Ref]string), make(map[frame.Ref]bool), make(map[frame.Ref]bool)
	n.withdrawn = make(map[frame.ID]bool)
	n.bans = NewSimBans(n.key.ID())
	now := n.now()
	var frames []frame.Frame
	for _, raw := range raws {
		if f, err := frame.Decode(raw); err == nil {
			frames = append(frames, f)
			n.held[f.Ref()] = string(raw)
			if n.early[f.Ref()] = f.Origin != n.key.ID() && f.Issued.After(now.Add(frame.FutureSkew)); n.early[f.Ref()] {
				delete(n.held, f.Ref())
			}
		}
	}
	byAuthority := func(raw []byte) bool {
		f, err := frame.Decode(raw)
		return err == nil && w.trust != nil && f.Origin == m.AuthorityID()
	}
	records := slices.DeleteFunc(slices.Clone(raws), func(raw []byte) bool { return !byAuthority(raw) })
	if err := m.Restore(slices.Values(append(records, slices.DeleteFunc(raws, byAuthority)...))); err != nil {
		w.fail(n.slot, "restore: %v", err)
	}
	for _, f := range frames {
		if m.Trusts(f.Origin) && !(w.trust != nil && f.Origin == m.AuthorityID()) {
			n.bans.Take(now, []frame.Frame{f})
		}
	}
	m.phase = phaseRunning
	m.execute()
	if err := m.present(); err != nil {
		w.fail(n.slot, "present: %v", err)
	}
	taken := make(map[frame.Ref]bool)
	for f := range m.Frames() {
		taken[f.Ref()] = true
	}
	for _, f := range frames { // the origin's certificate may be from the future too
		if _, held := n.held[f.Ref()]; held && !taken[f.Ref()] && f.Origin != n.key.ID() {
			delete(n.held, f.Ref())
			n.early[f.Ref()] = true
		}
	}
	delegate{m}.NotifyJoin(n.node)
	for _, other := range w.nodes {
		if other != n {
			n.after(w.between(5*time.Millisecond, 400*time.Millisecond), "join", func() { n.meet(other) })
		}
	}
	n.after(w.between(0, replica.ProbeInterval), "probe", n.probe)
	n.process()
}

// stop ends the run, as a crash does.
func (n *simNode) stop() {
	if n.mesh != nil {
		n.w.copies += n.mesh.count.received.Load()
	}
	n.mesh, n.dying = nil, false
	n.run++
	n.disk.crash()
}

// reaches reports whether a request and its answer get through.
func (n *simNode) reaches(other *simNode) bool {
	return other.mesh != nil && n.w.open(n.slot, other.slot) && n.w.open(other.slot, n.slot)
}

// meet makes two nodes know each other, as memberlist would.
func (n *simNode) meet(other *simNode) {
	if n.mesh == nil || !n.reaches(other) {
		return
	}
	for _, pair := range [][2]*simNode{{n, other}, {other, n}} {
		a, b := pair[0], pair[1]
		if a.mesh.peers.node(b.key.ID()) == nil {
			delegate{a.mesh}.NotifyJoin(b.node)
			a.process()
		}
		if a.mesh == nil {
			return
		}
	}
}

// probe pings one node: the answer carries its digest, gossip goes along with the ping, and a node that does not answer may
// be given up.
func (n *simNode) probe() {
	w := n.w
	n.after(w.plan.probe, "probe", n.probe)
	n.expire()
	n.checkBounds()
	if len(w.nodes) < 2 {
		return
	}
	other := w.nodes[(n.slot+1+w.rng.IntN(len(w.nodes)-1))%len(w.nodes)]
	if !n.reaches(other) || (!w.calm && w.chance(w.plan.loss*w.plan.loss)) {
		if n.mesh.peers.node(other.key.ID()) != nil && w.chance(0.5) {
			delegate{n.mesh}.NotifyLeave(other.node)
		}
		return
	}
	n.meet(other)
	if n.mesh == nil || other.mesh == nil {
		return
	}
	for _, b := range (delegate{n.mesh}).GetBroadcasts(3, wire.MaxPacket) {
		n.send(other.node, b, false)
	}
	payload := delegate{other.mesh}.AckPayload()
	rtt := w.between(100*time.Microsecond, 5*time.Millisecond)
	n.after(rtt, "pong", func() { delegate{n.mesh}.NotifyPingComplete(other.node, rtt, payload) })
}

// expire drops ended frames, then ended bans.
func (n *simNode) expire() {
	n.mesh.apply(replica.TickEvent{})
	n.bans.Expire(n.now())
}

// receive handles an arriving packet.
func (n *simNode) receive(b []byte) {
	if n.mesh == nil {
		return
	}
	delegate{n.mesh}.NotifyMsg(b)
	n.process()
}

// process does the work of Run's goroutines until none is left.
func (n *simNode) process() {
	for n.mesh != nil && !n.dying && n.work() {
	}
	if n.mesh != nil && !n.dying {
		n.plan()
	}
	if n.dying {
		n.w.note(n.slot, "dies", nil)
		n.stop()
		n.restartLater()
	}
}

// work does the first pending piece of work and reports whether there was one. The order is fixed: a select among several
// ready channels would choose at random, independently of the seed.
func (n *simNode) work() bool {
	m := n.mesh
	if b, ok := waits(m.inbox); ok {
		m.drain(b)
		return true
	}
	if b, ok := waits(m.later); ok {
		m.drainLater(b)
		return true
	}
	if m.bulkSlice() {
		return true
	}
	if ev, ok := waits(m.events); ok {
		m.apply(ev)
		return true
	}
	if m.pusher.Step() || m.streams.Step() {
		return true
	}
	if _, ok := waits(m.wake); ok {
		m.execute()
		return true
	}
	return false
}

// waits receives from a channel if a value is ready.
func waits[T any](c <-chan T) (v T, ok bool) {
	select {
	case v = <-c:
		return v, true
	default:
		return v, false
	}
}

// stream does the work of a TCP sender.
func (n *simNode) stream(out spread.Message) bool {
	to := n.mesh.peers.node(out.To)
	return to != nil && n.send(to, append([]byte{out.Kind}, out.Body...), true)
}

// plan sets the core's timer.
func (n *simNode) plan() {
	at := n.w.at + n.mesh.untilNext(n.now())
	if n.tickAt > n.w.at && n.tickAt <= at {
		return
	}
	n.tickAt = at
	n.after(at-n.w.at, "tick", func() {
		if n.tickAt == n.w.at {
			n.tickAt = 0
			n.mesh.apply(replica.TickEvent{})
		}
	})
}

// publish publishes a payload at this node, as the daemon does.
func (n *simNode) publish(payload []byte, expires time.Time) {
	now := n.now()
	if !expires.After(now) || n.mesh == nil || n.dying {
		return
	}
	f, err := n.mesh.Publish(now, payload, expires)
	if err != nil {
		n.w.fail(n.slot, "publish: %v", err)
		return
	}
	n.bans.Take(now, []frame.Frame{f})
	n.own[f.Ref()] = true
	if n.w.signed(f); len(n.w.published[f.Ref()]) > 1 && !n.disk.spoiled {
		n.w.fail(n.slot, "%v was signed twice", f.Ref())
	}
	n.w.wanted += uint64(len(n.w.nodes))
	n.disk.put(f.Ref(), f.Raw)
}

// signed records a frame that counts.
func (w *simWorld) signed(f frame.Frame) {
	if f.Issued.After(w.lastIssue) {
		w.lastIssue = f.Issued
	}
	if raw := string(f.Raw); !slices.Contains(w.published[f.Ref()], raw) {
		w.published[f.Ref()] = append(w.published[f.Ref()], raw)
	}
}
