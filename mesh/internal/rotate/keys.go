// Package rotate replaces a node's gossip key without a gap. It holds the node's keys, in memberlist's keyring too, and
// decides when the node encrypts with a new key and when it drops the former ones. It does not hand keys out.
package rotate

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/pki"
)

// Keys are this node's gossip keys. One goroutine calls Handed, Take and Turn; any may call the rest.
type Keys struct {
	store func(keys []pki.GossipKey, used pki.KeyVersion) error
	live  *memberlist.Keyring

	mu       sync.Mutex
	ring     keyring
	spokenAt netip.AddrPort // where ring.spoken was heard; zero: nowhere, or we have switched to that key
}

// New returns the keys in s. Changed keys are used only once store has put them on disk; its errors are returned as they are.
func New(now time.Time, s pki.Secrets, store func(keys []pki.GossipKey, used pki.KeyVersion) error) *Keys {
	return &Keys{store: store, ring: newKeyring(now, s)}
}

// Open returns a keyring for a new memberlist.
func (k *Keys) Open() (*memberlist.Keyring, error) {
	keys, used := k.All()
	var primary []byte
	var others [][]byte
	for i := range keys {
		if keys[i].Version() == used {
			primary = keys[i].Key[:]
		} else {
			others = append(others, keys[i].Key[:])
		}
	}
	live, err := memberlist.NewKeyring(others, primary)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.live = live
	return live, err
}

// Opening returns how many keys open packets.
func (k *Keys) Opening() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.live.GetKeys())
}

// All returns the keys, the newest first, and the version of the one that this node encrypts with.
func (k *Keys) All() (keys []pki.GossipKey, used pki.KeyVersion) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.ring.keys), k.ring.used
}

// Versions returns the versions of the newest key and of the one that this node encrypts with.
func (k *Keys) Versions() (has, uses pki.KeyVersion) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ring.newest(), k.ring.used
}

// Busy reports whether a rotation is under way.
func (k *Keys) Busy() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ring.busy()
}

// Spoken records the key used by a certified member at addr, which may not understand this node.
func (k *Keys) Spoken(uses pki.KeyVersion, addr netip.AddrPort) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if uses > k.ring.used {
		k.ring.spoken, k.spokenAt = uses, addr
	}
}

// Handed records the newest key that was handed out to anybody, and reports whether this node lacks it.
func (k *Keys) Handed(version pki.KeyVersion) (lacking bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ring.handed = max(k.ring.handed, version)
	return version > k.ring.newest()
}

// Take stores new keys, and opens packets with them from now on.
func (k *Keys) Take(now time.Time, keys []pki.GossipKey) error {
	k.mu.Lock()
	all, used := k.ring.with(keys), k.ring.used
	k.mu.Unlock()
	if err := k.store(all, used); err != nil {
		return err
	}
	for i := range all {
		if err := k.live.AddKey(all[i].Key[:]); err != nil {
			return err
		}
	}
	k.mu.Lock()
	k.ring.take(now, all)
	k.mu.Unlock()
	k.prune(all)
	return nil
}

// Turn does the step that is due, given the live certified members, and returns it. heardAt is the address given to
// Spoken for the key that is now used, if any.
func (k *Keys) Turn(now time.Time, peers []Peer) (done Step, heardAt netip.AddrPort, err error) {
	k.mu.Lock()
	step := k.ring.next(now, peers)
	k.mu.Unlock()
	keys, _ := k.All()
	switch step {
	case Use:
		if err := k.store(keys, keys[0].Version()); err != nil {
			return Nothing, heardAt, err
		}
		if err := k.live.UseKey(keys[0].Key[:]); err != nil {
			return Nothing, heardAt, err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.ring.use()
		heardAt, k.spokenAt = k.spokenAt, netip.AddrPort{}
	case Drop:
		if err := k.store(keys[:1], keys[0].Version()); err != nil {
			return Nothing, heardAt, err
		}
		k.mu.Lock()
		k.ring.drop()
		k.mu.Unlock()
		k.prune(keys[:1])
	}
	return step, heardAt, nil
}

// prune removes the keys that are not in keep from memberlist. It begins with the last one, so that it shifts no slice
// that another goroutine is reading.
func (k *Keys) prune(keep []pki.GossipKey) {
	for _, old := range slices.Backward(k.live.GetKeys()) {
		if !slices.ContainsFunc(keep, func(g pki.GossipKey) bool { return bytes.Equal(g.Key[:], old) }) {
			_ = k.live.RemoveKey(old) // fails only for the key in use, which is kept
		}
	}
}
