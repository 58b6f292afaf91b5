package rotate

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// UseAfter is how long a node waits at most before it encrypts with a new gossip key; it does so earlier once every
	// live certified member has the key too.
	UseAfter = 5 * time.Minute
	// useAlone is how long a node that reaches nobody waits before it tries its newest key: the others may have finished
	// a rotation meanwhile.
	useAlone = 2 * time.Second
	// KeepFor is how long a former key still opens packets once everybody encrypts with the newest; keepMost bounds this
	// however long the others take, so that no node's claims can keep a former key alive for longer.
	KeepFor, keepMost = time.Minute, time.Hour
)

// keyring holds a node's gossip keys and knows which one it encrypts with. It is a pure state machine: take adds keys,
// next returns what is due, and the caller stores that on disk and then calls use or drop.
type keyring struct {
	keys []pki.GossipKey // newest first, at most MaxGossipKeys; never empty
	used pki.KeyVersion
	// handed is the newest key known to have been handed out. Time alone never makes this node use a key that was not.
	handed pki.KeyVersion
	// spoken is the key that a member said it uses when this node asked: the others have switched to it without this
	// node.
	spoken pki.KeyVersion

	got     time.Time // when the newest key came, or this node started
	settled time.Time // since when everybody has used the newest key; zero: not everybody does
	alone   time.Time // since when no other member has been alive; zero: one is
}

// Peer is what a member says about its gossip keys.
type Peer struct {
	ID   frame.ID
	Has  pki.KeyVersion // the newest that it has; 0: it does not say
	Uses pki.KeyVersion // the one that it encrypts with
}

func newKeyring(now time.Time, s pki.Secrets) keyring {
	return keyring{keys: s.Keys(), used: s.Used().Version(), got: now}
}

func (k *keyring) newest() pki.KeyVersion { return k.keys[0].Version() }

// busy reports whether a rotation is under way.
func (k *keyring) busy() bool { return len(k.keys) > 1 || k.handed > k.newest() }

// with returns the keys with new ones added. If there are too many it drops the oldest, except the one in use.
func (k *keyring) with(more []pki.GossipKey) []pki.GossipKey {
	keys := slices.Clone(k.keys)
	for _, m := range more {
		if !slices.ContainsFunc(keys, func(o pki.GossipKey) bool { return o.Key == m.Key }) {
			keys = append(keys, m)
		}
	}
	slices.SortFunc(keys, func(a, b pki.GossipKey) int { return cmp.Compare(b.Version(), a.Version()) })
	for i := len(keys) - 1; i > 0 && len(keys) > pki.MaxGossipKeys; i-- {
		if keys[i].Version() != k.used {
			keys = slices.Delete(keys, i, i+1)
		}
	}
	return keys
}

// take sets the keys that with returned.
func (k *keyring) take(now time.Time, keys []pki.GossipKey) {
	if keys[0].Version() > k.newest() {
		k.got, k.settled = now, time.Time{}
	}
	k.keys = keys
}

// Step is the next step of a rotation.
type Step uint8

// The steps of a rotation.
const (
	Nothing Step = iota
	Use          // encrypt with the newest key
	Drop         // forget all others
)

// next returns what is due, given the live certified members.
func (k *keyring) next(now time.Time, peers []Peer) Step {
	newest := k.newest()
	if len(peers) > 0 {
		k.alone = time.Time{}
	} else if k.alone.IsZero() {
		k.alone = now
	}
	all := func(v func(Peer) pki.KeyVersion) bool {
		return !slices.ContainsFunc(peers, func(p Peer) bool { return v(p) < newest })
	}
	if k.used != newest {
		switch {
		case len(peers) > 0 && all(func(p Peer) pki.KeyVersion { return p.Has }), k.spoken == newest:
			return Use
		case k.handed < newest:
			return Nothing
		case now.Sub(k.got) >= UseAfter, len(peers) == 0 && now.Sub(k.alone) >= useAlone:
			return Use
		}
		return Nothing
	}
	switch {
	case len(k.keys) == 1:
		return Nothing
	case !all(func(p Peer) pki.KeyVersion { return p.Uses }):
		k.settled = time.Time{}
	case k.settled.IsZero():
		k.settled = now
	case now.Sub(k.settled) >= KeepFor:
		return Drop
	}
	if now.Sub(k.got) >= keepMost {
		return Drop
	}
	return Nothing
}

// use records that packets are encrypted with the newest key.
func (k *keyring) use() { k.used = k.newest() }

// drop forgets all keys but the newest, which must be in use.
func (k *keyring) drop() { k.keys = k.keys[:1:1] }
