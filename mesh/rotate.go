package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/rotate"
	"github.com/meshban/meshban/mesh/pki"
)

// A rotation of the mesh's gossip key leaves no gap. The new key is handed out in grants (pki.Grant), sealed for each
// certified node separately. A node that has opened its grant stores the key, opens packets with both keys from then
// on, and states that, signed, in its metadata. Once all live members have stated it, each encrypts with the new key;
// once all do that, the old key is dropped. A node that was away asks for its grant over the enrolment connection
// (catchup.go), which needs no gossip key.

const (
	// keyTick is the time between two steps of a rotation.
	keyTick = 500 * time.Millisecond
	// sayTimeout bounds how long we wait until our key state has gone out.
	sayTimeout = 2 * time.Second
	// announcePause is the least time between two such announcements.
	announcePause = 250 * time.Millisecond
	// grantWait is how long after a grant of the newest key a node waits for its own grant before its operator is told.
	// A node with the authority's key makes it within renewEvery.
	grantWait = 2 * renewEvery
)

// ErrRotating: too many rotations are under way.
var ErrRotating = errors.New("former rotations of the mesh's key are not over yet")

// KeyStage is the stage of a gossip key on this node.
type KeyStage uint8

// The stages of a rotation on one node.
const (
	KeyReceived KeyStage = iota // the node also opens packets with the new key
	KeyUsed                     // the node encrypts with it
	KeyDropped                  // the node has dropped the former ones
)

// KeyEvent is a step of the rotation to a generation.
type KeyEvent struct {
	Stage      KeyStage
	Generation uint32
}

// KeyStatus is this node's state in the rotation of the gossip key.
type KeyStatus struct {
	Generation uint32     // of the newest key that this node has
	InUse      uint32     // of the key that it encrypts with
	Handed     uint32     // of the newest key handed out; higher than Generation: this node has not been given it yet
	Rotating   bool       // former keys are still held
	Lacking    []frame.ID // live certified members that have not stated that they have the newest key
}

// keyRotator holds the gossip keys. Only keyLoop changes them.
type keyRotator struct {
	*rotate.Keys
	wake     chan struct{}      // capacity 1: a grant has come; the core's goroutine sends
	sweep    chan struct{}      // capacity 1: some node may lack a grant
	say      chan struct{}      // capacity 1: our key state has changed; keyLoop sends, announceLoop receives
	requests chan chan rotation // RotateKey sends, keyLoop receives and answers each once
	ended    chan struct{}      // closed by keyLoop
}

type rotation struct {
	generation uint32
	nodes      int
	err        error
}

func newKeyRotator(keys *rotate.Keys) *keyRotator {
	return &keyRotator{
		Keys: keys, wake: make(chan struct{}, 1), sweep: make(chan struct{}, 1), say: make(chan struct{}, 1),
		requests: make(chan chan rotation), ended: make(chan struct{}),
	}
}

// wake puts a token into a channel of capacity 1, unless there is one. It does not block.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// secrets returns what a new member gets: the mesh's secrets with the current gossip keys.
func (m *Mesh) secrets() pki.Secrets {
	return m.cfg.Secrets.WithKeys(m.keys.All())
}

// KeyStatus returns the progress of the gossip key's rotation.
func (m *Mesh) KeyStatus() KeyStatus {
	keys, used := m.keys.All()
	newest := keys[0].Version()
	s := KeyStatus{Generation: newest.Generation(), InUse: used.Generation(), Rotating: len(keys) > 1}
	m.mu.Lock()
	s.Handed = m.core.NewestKey().Generation()
	m.mu.Unlock()
	if s.Generation == 0 {
		return s
	}
	for _, p := range m.certifiedKeys() {
		if p.Has < newest {
			s.Lacking = append(s.Lacking, p.ID)
		}
	}
	return s
}

// certifiedKeys returns what the live trusted members state about their keys. Nobody else is waited for.
func (m *Mesh) certifiedKeys() []rotate.Peer {
	now, all := m.now(), m.peers.keysOf()
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(all, func(p rotate.Peer) bool { return !m.core.Trusts(now, p.ID) })
}

// RotateKey makes a new gossip key and hands it out to every node that is certified and not revoked. It returns the
// key's generation and the number of these nodes. The switch to the key follows automatically, without a gap. Errors
// match pki.ErrNoAuthority, ErrRotating or ErrStopped. RotateKey needs Run.
func (m *Mesh) RotateKey(ctx context.Context) (generation uint32, nodes int, err error) {
	if m.cfg.Authority.IsZero() {
		return 0, 0, pki.ErrNoAuthority
	}
	answer := make(chan rotation, 1)
	select {
	case m.keys.requests <- answer:
	case <-m.keys.ended:
		return 0, 0, ErrStopped
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	r := <-answer // keyLoop answers every request that it takes
	return r.generation, r.nodes, r.err
}

// keyLoop takes new keys and switches to them.
func (m *Mesh) keyLoop(ctx context.Context) {
	defer close(m.keys.ended)
	if !m.cfg.Secrets.HasAuthority() {
		return
	}
	sweep := time.NewTicker(renewEvery)
	defer sweep.Stop()
	tick := time.NewTimer(0)
	defer tick.Stop()
	m.takeGrant()
	m.handOutMissing()
	for {
		select {
		case <-m.keys.wake:
		case <-m.peers.keys:
		case <-tick.C:
		case <-sweep.C:
			m.handOutMissing()
		case <-m.keys.sweep:
			m.handOutMissing()
		case answer := <-m.keys.requests:
			answer <- m.makeKey()
		case <-ctx.Done():
			return
		}
		m.takeGrant()
		m.turnKey()
		if m.keys.Busy() {
			tick.Reset(keyTick)
		}
	}
}

// announceLoop announces our keys and our ceiling to the members. memberlist drops an update, sometimes without an
// error, if it meanwhile refutes something with a higher incarnation: the loop then announces it again.
func (m *Mesh) announceLoop(ctx context.Context, ml *memberlist.Memberlist) {
	for {
		select {
		case <-m.keys.say:
			if err := ml.UpdateNode(sayTimeout); err != nil {
				m.cfg.Logger.Debug("the word of this node's keys may not have reached everybody", "error", err)
			}
			if !m.peers.holdsOwn(*m.saidMeta.Load()) {
				wake(m.keys.say)
			}
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(announcePause):
		case <-ctx.Done():
			return
		}
	}
}

// keyChanged tells members and the daemon of a change of our keys that has been stored.
func (m *Mesh) keyChanged(stage KeyStage, generation uint32) {
	wake(m.keys.say)
	if m.cfg.OnKey != nil {
		m.cfg.OnKey(KeyEvent{stage, generation})
	}
}

// errNotStored: keys could not be stored, which was reported.
var errNotStored = errors.New("not stored")

// cannotUse reports that memberlist does not take a new key.
func (m *Mesh) cannotUse(err error) {
	if !errors.Is(err, errNotStored) {
		m.problems.report(m.now(), ProblemKey, "own", "cannot use the mesh's new key: "+err.Error(), restartAgent)
	}
}

func (m *Mesh) storeKeys(keys []pki.GossipKey, used pki.KeyVersion) error {
	if m.cfg.SaveSecrets == nil {
		return nil
	}
	if err := m.cfg.SaveSecrets(m.cfg.Secrets.WithKeys(keys, used)); err != nil {
		m.problems.report(m.now(), ProblemKey, "store", "cannot store the mesh's new key, so it is not used: "+err.Error(),
			"see that the state folder can be written; it is tried again")
		return errNotStored
	}
	return nil
}

// takeGrant opens the newest grant if it is new.
func (m *Mesh) takeGrant() {
	now := m.now()
	m.mu.Lock()
	g, ours := m.core.GrantFor(m.id)
	handed := m.core.NewestKey()
	m.mu.Unlock()
	if !m.keys.Handed(handed) {
		return
	}
	if !ours {
		if now.Sub(g.Issued) > grantWait {
			m.problems.report(now, ProblemKey, "own", fmt.Sprintf("the mesh's key was rotated (generation %d), and this node was not given the new one",
				handed.Generation()), "start the agent of a node that has ca.key, which gives it out; or "+newStart)
		}
		return
	}
	keys, _, err := g.Open(m.cfg.Identity)
	if err != nil {
		m.problems.report(now, ProblemKey, "own", "cannot open the mesh's new key: "+err.Error(), newStart)
		return
	}
	if err := m.keys.Take(now, keys); err != nil {
		m.cannotUse(err)
		return
	}
	m.keyChanged(KeyReceived, handed.Generation())
}

func (m *Mesh) turnKey() {
	peers := m.certifiedKeys()
	step, at, err := m.keys.Turn(m.now(), peers)
	if err != nil {
		m.cannotUse(err)
		return
	}
	newest, _ := m.keys.Versions()
	switch step {
	case rotate.Use:
		m.keyChanged(KeyUsed, newest.Generation())
		if len(peers) == 0 {
			wake(m.join.Change) // others may understand us now
		}
		if at.IsValid() {
			m.views.Request(at) // it may have held us dead
		}
	case rotate.Drop:
		m.keyChanged(KeyDropped, newest.Generation())
	}
}

// makeKey makes a key. The first record holds it for this node alone. Once that record is out and the key is on disk,
// handOutMissing completes the rotation whatever happens; until then no other node has the key.
func (m *Mesh) makeKey() rotation {
	keys, _ := m.keys.All()
	if len(keys) == pki.MaxGossipKeys {
		return rotation{err: ErrRotating}
	}
	m.mu.Lock()
	last := max(keys[0].Version(), m.core.NewestKey())
	m.mu.Unlock()
	key, err := pki.NewGossipKey(last.Generation() + 1)
	if err != nil {
		return rotation{err: err}
	}
	if _, err := m.grant(append([]pki.GossipKey{key}, keys...), []ed25519.PublicKey{m.cfg.Identity.Public()}); err != nil {
		return rotation{err: err}
	}
	m.takeGrant()
	if has, _ := m.keys.Versions(); has != key.Version() {
		return rotation{err: errors.New("cannot store the mesh's new key in the state folder; the rotation goes on once that is possible")}
	}
	n, err := m.handOut()
	return rotation{key.Generation, n + 1, err}
}

// errNotYet says that this node cannot know yet who is revoked.
var errNotYet = errors.New("this node has not compared with another one since its store was lost: it may not know who is revoked")

// mayHandOut reports whether this node knows who is revoked, as far as anybody does.
func (m *Mesh) mayHandOut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.core.CaughtUp() || m.knew
}

// handOutMissing completes an interrupted rotation, and hands the newest key to nodes certified since.
func (m *Mesh) handOutMissing() {
	if m.cfg.Authority.IsZero() || !m.mayHandOut() {
		return
	}
	if n, err := m.handOut(); err != nil {
		m.problems.report(m.now(), ProblemKey, "hand out", "cannot hand out the mesh's key: "+err.Error(), "give the node that this names an empty state folder and a new token: `meshban join TOKEN`")
	} else if n > 0 {
		m.cfg.Logger.Info("handed out the mesh's key", "nodes", n)
	}
}

// handOut gives the newest key to every certified node that lacks it, and returns how many these were. It leaves out
// nodes that nothing can be sealed for, and returns an error that names one.
func (m *Mesh) handOut() (nodes int, err error) {
	keys, _ := m.keys.All()
	newest := keys[0].Version()
	if newest.Generation() == 0 {
		return 0, nil
	}
	m.mu.Lock()
	version, granted := m.core.NewestKey(), m.core.Granted()
	m.mu.Unlock()
	switch {
	case version > newest:
		return 0, nil // another node with the authority's key hands out a newer one
	case version < newest:
		clear(granted)
	}
	var lack []ed25519.PublicKey
	for _, s := range m.Standings() {
		if s.Certificate != nil && s.Revoked == nil && !granted[s.ID] {
			lack = append(lack, s.Certificate.Node)
		}
	}
	return m.grant(keys, lack)
}

// grant hands out keys, the newest first, and returns to how many nodes. It leaves out nodes that nothing can be sealed
// for, and returns an error that names one.
func (m *Mesh) grant(keys []pki.GossipKey, to []ed25519.PublicKey) (nodes int, err error) {
	m.mu.Lock()
	last := m.core.LastGrant()
	m.mu.Unlock()
	grants, failed := m.cfg.Authority.Grant(m.now(), m.cfg.Secrets.MeshID, last, keys, to)
	for _, g := range grants {
		if err := m.publishRecord(g.Frame); err != nil {
			return nodes, err
		}
		nodes += len(g.Nodes())
	}
	return nodes, failed
}
