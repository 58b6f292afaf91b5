package mesh

import (
	"slices"
	"time"
)

const (
	// keyUseAfter is when, at the latest, a node encrypts with a new gossip key that it has; before that, as soon as
	// every certified member that is alive has it too.
	keyUseAfter = 5 * time.Minute
	// keyUseAlone is how long a node that reaches nobody waits before it tries its newest key: the others may have
	// finished a rotation meanwhile.
	keyUseAlone = 2 * time.Second
	// keyKeep is how long a former key still opens packets once everybody encrypts with the newest, keyKeepMost how long
	// at the latest: nobody, whatever it claims, keeps a former key alive for longer.
	keyKeep, keyKeepMost = time.Minute, time.Hour
)

// keyring is which gossip keys a node has and which one it encrypts with. It is a pure state machine: take adds a key,
// next says what is due, and the caller, once that is on disk, calls use or drop.
type keyring struct {
	keys []GossipKey // newest first, at most maxGossipKeys; never empty
	used keyVersion
	// handed is the newest key that is known to have been handed out. One that was not is never used by itself.
	handed keyVersion
	// spoken is the key that a member said it encrypts with when this node asked: the others have turned to it without this
	// node.
	spoken keyVersion

	got     time.Time // when the newest key came, or this node started
	settled time.Time // since when everybody encrypts with the newest; zero: not everybody
	alone   time.Time // since when nobody else is alive; zero: somebody is
}

// peerKeys is what a member says of its gossip keys.
type peerKeys struct {
	id   ID
	has  keyVersion // the newest that it has; 0: it does not say
	uses keyVersion // that it encrypts with
}

func newKeyring(now time.Time, s Secrets) keyring {
	return keyring{keys: s.keys(), used: s.used().version(), got: now}
}

func (k *keyring) newest() keyVersion { return k.keys[0].version() }

// busy reports whether a rotation is under way.
func (k *keyring) busy() bool { return len(k.keys) > 1 || k.handed > k.newest() }

// with gives the keys with new ones. When there are too many the oldest go, but for the one in use.
func (k *keyring) with(more []GossipKey) []GossipKey {
	keys := slices.Clone(k.keys)
	for _, m := range more {
		if !slices.ContainsFunc(keys, func(o GossipKey) bool { return o.Key == m.Key }) {
			keys = append(keys, m)
		}
	}
	slices.SortFunc(keys, newerFirst)
	for i := len(keys) - 1; i > 0 && len(keys) > maxGossipKeys; i-- {
		if keys[i].version() != k.used {
			keys = slices.Delete(keys, i, i+1)
		}
	}
	return keys
}

// take notes keys that with gave.
func (k *keyring) take(now time.Time, keys []GossipKey) {
	if keys[0].version() > k.newest() {
		k.got, k.settled = now, time.Time{}
	}
	k.keys = keys
}

// keyStep is what is due.
type keyStep uint8

const (
	keyNothing keyStep = iota
	keyUse             // encrypt with the newest key
	keyDrop            // let go of all others
)

// next says what is due, given the certified members that are alive.
func (k *keyring) next(now time.Time, peers []peerKeys) keyStep {
	newest := k.newest()
	if len(peers) > 0 {
		k.alone = time.Time{}
	} else if k.alone.IsZero() {
		k.alone = now
	}
	all := func(v func(peerKeys) keyVersion) bool {
		return !slices.ContainsFunc(peers, func(p peerKeys) bool { return v(p) < newest })
	}
	if k.used != newest {
		switch {
		case len(peers) > 0 && all(func(p peerKeys) keyVersion { return p.has }), k.spoken == newest:
			return keyUse
		case k.handed < newest:
			return keyNothing
		case now.Sub(k.got) >= keyUseAfter, len(peers) == 0 && now.Sub(k.alone) >= keyUseAlone:
			return keyUse
		}
		return keyNothing
	}
	switch {
	case len(k.keys) == 1:
		return keyNothing
	case !all(func(p peerKeys) keyVersion { return p.uses }):
		k.settled = time.Time{}
	case k.settled.IsZero():
		k.settled = now
	case now.Sub(k.settled) >= keyKeep:
		return keyDrop
	}
	if now.Sub(k.got) >= keyKeepMost {
		return keyDrop
	}
	return keyNothing
}

// use notes that packets are encrypted with the newest key.
func (k *keyring) use() { k.used = k.newest() }

// drop lets go of all keys but the newest, which must be in use.
func (k *keyring) drop() { k.keys = k.keys[:1:1] }
