package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// A rotation of the mesh's gossip key leaves no gap. The new key is handed out in grants (grant.go), sealed for each
// certified node separately. A node that has opened its own stores the key, opens packets with both keys from then on,
// and states that, signed, in its metadata. Once all live members have stated it, each encrypts with the new key; once
// all do that, the old key is dropped. A node that was away asks for its grant over the enrolment connection
// (catchup.go), which needs no gossip key.

const (
	// keyTick is the time between two steps of a rotation.
	keyTick = 500 * time.Millisecond
	// sayTimeout bounds how long we wait until our key state has gone out.
	sayTimeout = 2 * time.Second
	// announcePause is the least time between two such announcements.
	announcePause = 250 * time.Millisecond
	// grantWait is how long after a grant of the newest key a node without a box in it waits for its own before its
	// operator is told. A node with the authority's key makes it within renewEvery.
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

// keyTurner holds the gossip keys. Only keyLoop changes them.
type keyTurner struct {
	wake     chan struct{}      // capacity 1: a grant has come; the core's goroutine sends
	sweep    chan struct{}      // capacity 1: some node may lack a grant
	say      chan struct{}      // capacity 1: our key state has changed; keyLoop sends, announceLoop receives
	requests chan chan rotation // RotateKey sends, keyLoop receives and answers each once
	ended    chan struct{}      // closed by keyLoop
	live     *memberlist.Keyring

	mu       sync.Mutex
	ring     keyring
	spokenAt netip.AddrPort // where ring.spoken was heard; zero: nowhere, or we have switched to that key
}

type rotation struct {
	generation uint32
	nodes      int
	err        error
}

func newKeyTurner(s pki.Secrets, now time.Time) *keyTurner {
	return &keyTurner{
		wake: make(chan struct{}, 1), sweep: make(chan struct{}, 1), say: make(chan struct{}, 1), requests: make(chan chan rotation), ended: make(chan struct{}),
		ring: newKeyring(now, s),
	}
}

func (t *keyTurner) kick() { signal(t.wake) }

// signal puts a token into a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// said returns what this node states about its keys.
func (t *keyTurner) said() (has, uses pki.KeyVersion) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ring.newest(), t.ring.used
}

// others records the key used by a certified member at addr, which may not understand us.
func (t *keyTurner) others(uses pki.KeyVersion, addr netip.AddrPort) {
	t.mu.Lock()
	if uses > t.ring.used {
		t.ring.spoken, t.spokenAt = uses, addr
	}
	t.mu.Unlock()
	t.kick()
}

// snapshot returns a copy that may be read without the lock.
func (t *keyTurner) snapshot() keyring {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.ring
	k.keys = slices.Clone(k.keys)
	return k
}

// open creates memberlist's keyring.
func (t *keyTurner) open() (*memberlist.Keyring, error) {
	k := t.snapshot()
	var primary []byte
	var others [][]byte
	for i := range k.keys {
		if k.keys[i].Version() == k.used {
			primary = k.keys[i].Key[:]
		} else {
			others = append(others, k.keys[i].Key[:])
		}
	}
	var err error
	t.live, err = memberlist.NewKeyring(others, primary)
	return t.live, err
}

// Secrets returns what a new member gets: the mesh's secrets with the current gossip keys.
func (m *Mesh) secrets() pki.Secrets {
	k := m.keys.snapshot()
	return m.cfg.Secrets.WithKeys(k.keys, k.used)
}

// KeyStatus returns the progress of the gossip key's rotation.
func (m *Mesh) KeyStatus() KeyStatus {
	k := m.keys.snapshot()
	s := KeyStatus{Generation: k.newest().Generation(), InUse: k.used.Generation(), Rotating: len(k.keys) > 1}
	m.mu.Lock()
	s.Handed = m.core.NewestKey().Generation()
	m.mu.Unlock()
	if s.Generation == 0 {
		return s
	}
	for _, p := range m.certifiedKeys() {
		if p.has < k.newest() {
			s.Lacking = append(s.Lacking, p.id)
		}
	}
	return s
}

// certifiedKeys returns what the live trusted members state about their keys. Nobody else is waited for.
func (m *Mesh) certifiedKeys() []peerKeys {
	now, all := m.now(), m.peers.keysOf()
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(all, func(p peerKeys) bool { return !m.core.Trusts(now, p.id) })
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
			answer <- m.rotate()
		case <-ctx.Done():
			return
		}
		m.takeGrant()
		m.turnKey()
		if k := m.keys.snapshot(); k.busy() {
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
				signal(m.keys.say)
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
	signal(m.keys.say)
	if m.cfg.OnKey != nil {
		m.cfg.OnKey(KeyEvent{stage, generation})
	}
}

// storeKeys stores keys on disk.
func (m *Mesh) storeKeys(keys []pki.GossipKey, used pki.KeyVersion) error {
	if m.cfg.SaveSecrets == nil {
		return nil
	}
	err := m.cfg.SaveSecrets(m.cfg.Secrets.WithKeys(keys, used))
	if err != nil {
		m.problems.report(m.now(), ProblemKey, "store", "cannot store the mesh's new key, so it is not used: "+err.Error(),
			"see that the state folder can be written; it is tried again")
	}
	return err
}

// takeGrant opens the newest grant if it is new.
func (m *Mesh) takeGrant() {
	now := m.now()
	m.mu.Lock()
	g, ours := m.core.GrantFor(m.id)
	handed := m.core.NewestKey()
	m.mu.Unlock()
	t := m.keys
	t.mu.Lock()
	t.ring.handed = max(t.ring.handed, handed)
	news := handed > t.ring.newest()
	t.mu.Unlock()
	if !news {
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
	k := m.keys.snapshot()
	all := k.with(keys)
	if m.storeKeys(all, k.used) != nil {
		return
	}
	for i := range all {
		if err := t.live.AddKey(all[i].Key[:]); err != nil {
			m.problems.report(now, ProblemKey, "own", "cannot use the mesh's new key: "+err.Error(), restartAgent)
			return
		}
	}
	t.mu.Lock()
	t.ring.take(now, all)
	t.mu.Unlock()
	t.prune(all)
	m.keyChanged(KeyReceived, handed.Generation())
}

// prune removes the keys that are not in keep from memberlist, last first: so no slice that another goroutine is
// reading gets shifted.
func (t *keyTurner) prune(keep []pki.GossipKey) {
	for _, old := range slices.Backward(t.live.GetKeys()) {
		if !slices.ContainsFunc(keep, func(k pki.GossipKey) bool { return bytes.Equal(k.Key[:], old) }) {
			_ = t.live.RemoveKey(old) // fails only for the key in use, which is kept
		}
	}
}

// turnKey does the step that is due.
func (m *Mesh) turnKey() {
	t, peers := m.keys, m.certifiedKeys()
	t.mu.Lock()
	step := t.ring.next(m.now(), peers)
	t.mu.Unlock()
	k := t.snapshot()
	newest := k.keys[0]
	switch step {
	case keyUse:
		if m.storeKeys(k.keys, newest.Version()) != nil {
			return
		}
		if err := t.live.UseKey(newest.Key[:]); err != nil {
			m.problems.report(m.now(), ProblemKey, "own", "cannot use the mesh's new key: "+err.Error(), restartAgent)
			return
		}
		t.mu.Lock()
		t.ring.use()
		at := t.spokenAt
		t.spokenAt = netip.AddrPort{}
		t.mu.Unlock()
		m.keyChanged(KeyUsed, newest.Generation)
		if len(peers) == 0 {
			signal(m.join.change) // others may understand us now
		}
		if at.IsValid() {
			m.views.request(at) // it may have held us dead
		}
	case keyDrop:
		if m.storeKeys(k.keys[:1], newest.Version()) != nil {
			return
		}
		t.mu.Lock()
		t.ring.drop()
		t.mu.Unlock()
		t.prune(k.keys[:1])
		m.keyChanged(KeyDropped, newest.Generation)
	}
}

// rotate makes a key. The first record holds it for this node alone. Once that record is out and the key is on disk,
// handOutMissing completes the rotation whatever happens; until then no other node has the key.
func (m *Mesh) rotate() rotation {
	k := m.keys.snapshot()
	if len(k.keys) == pki.MaxGossipKeys {
		return rotation{err: ErrRotating}
	}
	m.mu.Lock()
	last := max(k.newest(), m.core.NewestKey())
	m.mu.Unlock()
	key, err := pki.NewGossipKey(last.Generation() + 1)
	if err != nil {
		return rotation{err: err}
	}
	if _, err := m.grant(append([]pki.GossipKey{key}, k.keys...), []ed25519.PublicKey{m.cfg.Identity.Public()}); err != nil {
		return rotation{err: err}
	}
	m.takeGrant()
	if has, _ := m.keys.said(); has != key.Version() {
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
	k := m.keys.snapshot()
	if k.newest().Generation() == 0 {
		return 0, nil
	}
	m.mu.Lock()
	version, granted := m.core.NewestKey(), m.core.Granted()
	m.mu.Unlock()
	switch {
	case version > k.newest():
		return 0, nil // another node with the authority's key hands out a newer one
	case version < k.newest():
		clear(granted)
	}
	var lack []ed25519.PublicKey
	for _, s := range m.Standings() {
		if s.Certificate != nil && s.Revoked == nil && !granted[s.ID] {
			lack = append(lack, s.Certificate.Node)
		}
	}
	return m.grant(k.keys, lack)
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
