package mesh

import (
	cryptorand "crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/time/rate"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/enrol"
	"github.com/meshban/meshban/mesh/internal/filter"
	"github.com/meshban/meshban/mesh/internal/meta"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/roster"
	"github.com/meshban/meshban/mesh/internal/rotate"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/transport"
)

var (
	// ErrStopped: Run has ended, or it began before a call that must precede it.
	ErrStopped = errors.New("the mesh has stopped")
	// errBusy: too many published frames wait for Admitted.
	errBusy = errors.New("the mesh is busy")
	// ErrFull: as much is in force as may be.
	ErrFull = errors.New("there is no room for more")
)

// maxTodo bounds the published frames that wait for the core's goroutine.
const maxTodo = 1 << 16

// Mesh is this node's membership in a mesh. Its methods may be called from any goroutine.
type Mesh struct {
	cfg   Config
	id    frame.ID
	ready chan struct{}
	now   func() time.Time // time.Now, except in simulations

	inbox    chan []byte // memberlist's goroutines send, the core receives, nobody closes; full: dropped and counted
	later    chan []byte // the same for packets with large frames
	bulk     bulkQueue
	bulkCost filter.Buckets[frame.ID] // a peer's chunk signatures that were verified in vain
	events   chan any                 // of package replica: memberlist's goroutines send, the core receives, nobody closes; full: dropped
	wake     chan struct{}            // capacity 1: todo has actions, or the next deadline has changed

	peers     *peerTable
	pusher    *spread.Pusher
	gossip    *spread.Gossip
	streams   *spread.Streams
	paths     *transport.Paths
	join      *roster.JoinList
	views     *roster.Views
	keys      *keyRotator
	invites   *enrol.Invites               // set by Run
	serverTLS func() (*tls.Config, error)  // for enrolment and other clients; made once
	hellos    *rate.Limiter                // TLS handshakes of strangers
	netHellos filter.Buckets[netip.Prefix] // the same, by network
	invited   *rate.Limiter                // TLS handshakes of joiners that knock with a token
	enrolRate filter.Buckets[netip.Addr]
	rolls     *rate.Limiter            // changes of epoch
	askedBack filter.Buckets[frame.ID] // see askBack
	told      filter.Buckets[frame.ID] // revoked nodes that were sent their revocation
	earlies   filter.Buckets[frame.ID] // frames verified only to report them
	asks      asks
	answers   filter.Buckets[frame.ID] // to members' questions
	// strangerAnswers are the same for nodes whose certificate has not come.
	strangerAnswers filter.Buckets[frame.ID]
	noticers        noticers
	queries         queries
	problems        problems
	faults          faults
	count           counters
	warnings        chan warning                          // other goroutines send, the core's receives, nobody closes; full: dropped
	certified       atomic.Pointer[map[frame.ID]struct{}] // the trusted nodes, for goroutines that may not wait; nil: everybody

	acks ackSigner
	// For the core's goroutine only.
	replaced map[frame.ID]struct{} // origins that had frames replaced, until Retold
	retellAt time.Time             // Retold is not called before this
	clocks   clockCheck

	place    location
	ceiling  meta.Ceiling
	saidMeta atomic.Pointer[string] // the metadata last given to memberlist

	ml   atomic.Pointer[memberlist.Memberlist]
	tr   atomic.Pointer[filter.Transport]
	addr atomic.Pointer[netip.AddrPort]
	root atomic.Pointer[[32]byte]  // a copy of the core's, for goroutines that may not wait
	last atomic.Pointer[frame.Ref] // our last frame, likewise

	// asAuthority is held while the authority signs, so that its numbers go up. It is locked before mu.
	asAuthority   sync.Mutex
	lastAuthority uint64 // the last number that PublishAsAuthority used

	mu    sync.Mutex
	core  *replica.Core
	todo  []replica.Actions // for the core's goroutine to carry out
	phase runPhase
	knew  bool // the restored store says who has the gossip key; see mayHandOut
}

type runPhase uint8

const (
	phaseNew runPhase = iota
	phaseRunning
	phaseEnded
)

// New checks the configuration and opens nothing.
func New(cfg Config) (*Mesh, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := rehearse(cfg); err != nil {
		return nil, err
	}
	var seed [32]byte // also of session names, which must be unguessable
	if _, err := cryptorand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	m := &Mesh{
		cfg:    cfg,
		id:     cfg.Identity.ID(),
		ready:  make(chan struct{}),
		now:    time.Now,
		inbox:  make(chan []byte, maxInbox),
		later:  make(chan []byte, maxInbox),
		bulk:   bulkQueue{wake: make(chan struct{}, 1)},
		events: make(chan any, maxEvents),
		wake:   make(chan struct{}, 1),
		core:   replica.New(cfg.Identity.ID(), cfg.authorityID(), cfg.Epoch, rand.New(rand.NewChaCha8(seed))),
		join:   roster.NewJoinList(cfg.Join),
	}
	m.root.Store(&[32]byte{})
	m.last.Store(&frame.Ref{Origin: m.id, Epoch: cfg.Epoch})
	if cfg.Secrets.HasAuthority() {
		m.certified.Store(&map[frame.ID]struct{}{})
	}
	m.warnings = make(chan warning, maxWarnings)
	m.peers = newPeerTable(m.id, cfg.Peers, m.trusted)
	m.peers.since = m.now()
	m.gossip = spread.NewGossip(m.peers.receivers)
	m.pusher = spread.NewPusher(m.id, m.peers.receivers, m.sendPacket)
	m.streams = spread.NewStreams(m.sendStream, func(msg spread.Message) { m.tell(replica.SendFailedEvent{Peer: msg.To, Session: msg.Session}) })
	m.paths = transport.NewPaths()
	m.keys = newKeyRotator(rotate.New(m.now(), cfg.Secrets, m.storeKeys))
	m.serverTLS = sync.OnceValues(m.newServerTLS)
	m.hellos, m.invited = rate.NewLimiter(rate.Every(helloEvery), helloBurst), rate.NewLimiter(rate.Every(helloEvery), helloBurst)
	m.netHellos = filter.NewBuckets[netip.Prefix](netHelloRate, netHellos)
	m.enrolRate = filter.NewBuckets[netip.Addr](enrolRate, enrolBurst)
	m.bulkCost = filter.NewBuckets[frame.ID](bulkRate, bulkBurst)
	m.askedBack = filter.NewBuckets[frame.ID](rate.Every(roster.AskEvery), 1)
	m.told = filter.NewBuckets[frame.ID](rate.Every(tellEvery), 1)
	m.earlies = filter.NewBuckets[frame.ID](earlyTold, 10*earlyTold)
	m.acks.rate = rate.NewLimiter(rate.Every(ackEvery), ackBurst)
	m.rolls = rate.NewLimiter(rate.Every(rollEvery), rollBurst)
	m.views = roster.NewViews()
	m.place.former = make(chan struct{}, 1)
	m.asks = asks{wake: make(chan struct{}, 1), open: make(map[[16]byte]openAsk)}
	m.answers = filter.NewBuckets[frame.ID](answerRate, answerBurst)
	m.strangerAnswers = filter.NewBuckets[frame.ID](answerRate, answerBurst)
	m.queries = newQueries()
	m.noticers = noticers{last: make(map[frame.ID]*noticer)}
	m.faults = faults{of: make(map[Problem]string)}
	m.problems = problems{tell: cfg.OnProblem, count: &m.count.problems, last: make(map[string]time.Time)}
	return m, nil
}

// rehearse signs a frame that is never sent, decodes it and verifies it. This checks the key and brings the code into
// memory: otherwise a node's first frame takes about 20 ms longer.
func rehearse(cfg Config) error {
	now := time.Now()
	f, err := cfg.Identity.Sign(frame.Frame{
		MeshID: cfg.Secrets.MeshID, Epoch: cfg.Epoch, Seq: 1, Issued: now, Expires: now.Add(time.Second), Payload: []byte{0},
	})
	if err == nil {
		f, err = frame.Decode(f.Raw)
	}
	if err == nil {
		err = f.Verify()
	}
	if err != nil {
		return fmt.Errorf("this node's key does not sign as it should: %w", err)
	}
	return nil
}

// Restore loads live frames from the node's own store, before Run. They are decoded strictly. The authority's frames
// are verified; the others come from our own disk and are verified only if another frame of the same name arrives.
// Broken frames are skipped and counted. Expired frames are reported to Expired once Run has begun, and so are frames
// whose origin no earlier frame certifies. The bytes are copied. Restore returns ErrStopped once Run has begun.
func (m *Mesh) Restore(raws iter.Seq[[]byte]) error {
	now := m.now()
	var expired []frame.Ref
	var frames []frame.Frame
	put := func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.phase != phaseNew {
			return ErrStopped
		}
		m.stepLocked(now, replica.FramesEvent{Via: replica.ViaRestore, Frames: frames})
		m.todo[len(m.todo)-1].Expired = append(m.todo[len(m.todo)-1].Expired, expired...)
		has, _ := m.keys.Versions()
		m.knew = m.core.KnowsHolders(has)
		frames, expired = nil, nil
		return nil
	}
	for raw := range raws {
		f, err := frame.Decode(append([]byte(nil), raw...))
		switch {
		case err != nil:
			m.count.refused[refusedFormat].Add(1)
		case f.MeshID != m.cfg.Secrets.MeshID:
			m.count.refused[refusedMesh].Add(1)
		case !f.Expires.After(now):
			expired = append(expired, f.Ref())
		case f.Origin == m.core.Authority() && f.Verify() != nil:
			m.count.refused[refusedSignature].Add(1)
		default:
			frames = append(frames, f)
		}
		if len(frames)+len(expired) >= replica.MaxChunkFrames {
			if err := put(); err != nil {
				return err
			}
		}
	}
	return put()
}

// Ready is closed once the sockets are open, or it is known that there is no address yet; joining continues after that.
func (m *Mesh) Ready() <-chan struct{} { return m.ready }

// Addr returns the address where others reach this node now; the zero AddrPort before Ready and while there is none.
func (m *Mesh) Addr() netip.AddrPort {
	if a := m.addr.Load(); a != nil {
		return *a
	}
	return netip.AddrPort{}
}

// Sign signs payload (at most MaxPayload bytes) as our next frame, with now as its Issued, and takes it in: it is held
// and travels by sync. Send pushes it to the members. The payload is copied. If Sign fails, nothing has changed.
func (m *Mesh) Sign(now time.Time, payload []byte, expires time.Time) (frame.Frame, error) {
	m.mu.Lock() // until the frame is in, so that nobody else takes its number and no other epoch begins
	defer m.mu.Unlock()
	if m.phase == phaseEnded {
		return frame.Frame{}, ErrStopped
	}
	if len(m.todo) >= maxTodo {
		return frame.Frame{}, errBusy
	}
	next := m.core.NextRef()
	f, err := m.cfg.Identity.Sign(frame.Frame{
		MeshID: m.cfg.Secrets.MeshID, Epoch: next.Epoch, Seq: next.Seq, Issued: now, Expires: expires, Payload: payload,
	})
	if err != nil {
		return frame.Frame{}, fmt.Errorf("sign: %w", err)
	}
	at := m.now()
	switch m.core.JudgeOwn(at, f) {
	case replica.VerdictNew:
		m.stepLocked(at, replica.FramesEvent{Via: replica.ViaOwn, Frames: []frame.Frame{f}})
		m.count.published.Add(1)
		return f, nil
	case replica.VerdictExpired:
		return frame.Frame{}, errEnded(f)
	case replica.VerdictFuture:
		return frame.Frame{}, fmt.Errorf("sign: it is dated %s, more than %d minutes ahead of the clock", f.Issued.UTC().Format(time.RFC3339), frame.FutureSkew/time.Minute)
	}
	return frame.Frame{}, fmt.Errorf("sign: too much of this node is in force: at most %d frames, of %d bytes in all; what is banned for a shorter time, or together with others, takes less",
		replica.MaxOriginFrames, replica.MaxOriginBytes)
}

func errEnded(f frame.Frame) error {
	return fmt.Errorf("sign: it has ended already, at %s", f.Expires.UTC().Format(time.RFC3339))
}

// Send queues a frame from Sign for every member and never waits for the network. Before Run it does nothing.
func (m *Mesh) Send(f frame.Frame) {
	m.mu.Lock()
	running := m.phase == phaseRunning
	m.mu.Unlock()
	if running {
		m.pusher.Put(spread.Job{Frames: []frame.Frame{f}})
		m.gossip.Put(f)
		m.wakeCore()
	}
}

// Publish signs payload and sends it.
func (m *Mesh) Publish(now time.Time, payload []byte, expires time.Time) (frame.Frame, error) {
	f, err := m.Sign(now, payload, expires)
	if err == nil {
		m.Send(f)
	}
	return f, err
}

// Expire drops the frames that have ended by now. Call it before discarding what those frames said: then Rewound is
// called if a clock that was ahead is set back.
func (m *Mesh) Expire(now time.Time) {
	m.mu.Lock()
	// The caller may have read the clock long ago, for example before the process was stopped. That does not mean that
	// a clock was set back.
	if at := m.now(); at.Round(0).After(now.Round(0)) {
		now = at
	}
	m.stepLocked(now, replica.TickEvent{})
	m.mu.Unlock()
	m.wakeCore()
}

// Slow reduces the rate accepted from an origin: for ten seconds its frames in peers' packets have an eighth of the
// usual limit, so that an origin that floods this node with frames it holds or refuses does not keep it busy. Dropped
// frames come by sync. Slow does not block.
func (m *Mesh) Slow(origin frame.ID) {
	if tr := m.tr.Load(); tr != nil {
		tr.Slow(origin)
	}
}

// wakeCore makes the core's goroutine carry out the actions of a step made on another goroutine.
func (m *Mesh) wakeCore() { wake(m.wake) }

// tell queues an event for the core.
func (m *Mesh) tell(ev any) {
	select {
	case m.events <- ev:
	default:
		m.count.dropped.Add(1)
	}
}

// Members lists this node and every other that it knows, by name.
func (m *Mesh) Members() []Member {
	has, _ := m.keys.Versions()
	now := m.now()
	all := m.peers.members(now)
	for i := range all {
		all[i].udpTo, all[i].udpFrom = m.paths.Ways(now, all[i].ID)
	}
	all = append(all, Member{
		Name: m.cfg.Name, ID: m.id, Addr: m.Addr(), State: StateAlive, Self: true, InSync: true, Version: m.cfg.Version,
		KeyKnown: true, KeyGeneration: has.Generation(),
	})
	sortMembers(all)
	return all
}

// Known lists the addresses where the other trusted nodes have answered, now or in an earlier run, in no order. A node
// may be listed several times. Nodes that fell silent stay listed for a week, and nodes that said goodbye for a day,
// because anyone with the gossip key can claim either of them. Revoked nodes are not listed.
func (m *Mesh) Known() []Peer { return m.peers.known(m.now()) }

// Flush waits until everything published has been sent, at most half a second.
func (m *Mesh) Flush() { m.pusher.Flush() }

// Peers returns the number of other members that are alive.
func (m *Mesh) Peers() int { return len(m.peers.alive()) }

// Epoch returns the epoch under which this node publishes now.
func (m *Mesh) Epoch() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.core.Last().Epoch
}

// Last returns the epoch under which this node publishes now and the number of its last frame, 0 if there is none yet.
// No member has a later frame of this node. Last does not block.
func (m *Mesh) Last() (epoch, seq uint64) {
	last := m.last.Load()
	return last.Epoch, last.Seq
}

// Digest returns a digest that is equal on two nodes exactly if they hold the same live frames.
func (m *Mesh) Digest() [32]byte { return *m.root.Load() }
