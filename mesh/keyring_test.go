package mesh

import (
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/pki"
)

func TestKeyring(t *testing.T) {
	one, two, three := meshtest.GossipKey(0, 1), meshtest.GossipKey(1, 1), meshtest.GossipKey(2, 1)
	v1, v2, v3 := one.Version(), two.Version(), three.Version()
	peers := func(has, uses pki.KeyVersion, more ...peerKeys) []peerKeys {
		return append([]peerKeys{{frame.ID{1}, has, uses}, {frame.ID{2}, has, uses}}, more...)
	}
	behind := peerKeys{id: frame.ID{3}, has: v1, uses: v1}
	for _, tt := range []struct {
		name   string
		keys   []pki.GossipKey
		used   pki.KeyVersion
		handed pki.KeyVersion
		peers  []peerKeys
		idle   time.Duration // how long next was asked every second, with the same peers
		want   keyStep
	}{
		{"ok: nothing to do", []pki.GossipKey{one}, v1, 0, peers(v1, v1), time.Hour, keyNothing},
		{"ok: all have the new one", []pki.GossipKey{two, one}, v1, v2, peers(v2, v1), 0, keyUse},
		{"ok: all have an even newer one", []pki.GossipKey{two, one}, v1, v2, peers(v3, v1), 0, keyUse},
		{"bad: one lacks it", []pki.GossipKey{two, one}, v1, v2, peers(v2, v1, behind), keyUseAfter - time.Second, keyNothing},
		{"ok: one lacks it for too long", []pki.GossipKey{two, one}, v1, v2, peers(v2, v1, behind), keyUseAfter, keyUse},
		{"bad: one says nothing", []pki.GossipKey{two, one}, v1, v2, peers(v2, v1, peerKeys{id: frame.ID{3}}), time.Minute, keyNothing},
		{"bad: alone for a moment", []pki.GossipKey{two, one}, v1, v2, nil, keyUseAlone - time.Second, keyNothing},
		{"ok: alone", []pki.GossipKey{two, one}, v1, v2, nil, keyUseAlone, keyUse},
		{"bad: alone with a key that nobody was given", []pki.GossipKey{two, one}, v1, 0, nil, 2 * time.Hour, keyNothing},
		{"bad: long with a key that nobody was given", []pki.GossipKey{two, one}, v1, 0, peers(v1, v1), 2 * time.Hour, keyNothing},
		{"ok: others have a key of which no record came", []pki.GossipKey{two, one}, v1, 0, peers(v2, v2), 0, keyUse},

		{"bad: in use by all, lately", []pki.GossipKey{two, one}, v2, v2, peers(v2, v2), keyKeep - time.Second, keyNothing},
		{"ok: in use by all", []pki.GossipKey{two, one}, v2, v2, peers(v2, v2), keyKeep, keyDrop},
		{"bad: one uses the old one", []pki.GossipKey{two, one}, v2, v2, peers(v2, v2, behind), keyKeepMost - time.Second, keyNothing},
		{"ok: one claims to use the old one for ever", []pki.GossipKey{two, one}, v2, v2, peers(v2, v2, behind), keyKeepMost, keyDrop},
		{"ok: twice at once", []pki.GossipKey{three, two, one}, v2, v3, peers(v3, v2), 0, keyUse},
	} {
		k := keyring{keys: tt.keys, used: tt.used, handed: tt.handed, got: simStart}
		got := k.next(simStart, tt.peers)
		for at := time.Second; at <= tt.idle; at += time.Second {
			if got != keyNothing {
				t.Errorf("%s: step %d after %v already", tt.name, got, at-time.Second)
				break
			}
			got = k.next(simStart.Add(at), tt.peers)
		}
		if got != tt.want {
			t.Errorf("%s: step %d, want %d", tt.name, got, tt.want)
		}
	}
	for spoken, want := range map[pki.KeyVersion]keyStep{v1: keyNothing, v2: keyUse, v3: keyNothing} {
		left := keyring{keys: []pki.GossipKey{two, one}, used: v1, handed: v2, got: simStart, spoken: spoken}
		if got := left.next(simStart, peers(v1, v1)); got != want {
			t.Errorf("one that was asked encrypts with %x, of %x and %x: step %d, want %d", spoken, v1, v2, got, want)
		}
	}
}

// A key that arrives while the former one waits to be dropped restarts the wait; the key in use is never dropped.
func TestKeyringTake(t *testing.T) {
	one, two := meshtest.GossipKey(0, 1), meshtest.GossipKey(1, 1)
	k := newKeyring(simStart, pki.Secrets{GossipKey: one.Key})
	k.take(simStart, k.with([]pki.GossipKey{two, one}))
	k.handed = two.Version()
	all := []peerKeys{{frame.ID{1}, two.Version(), two.Version()}}
	if k.next(simStart, all) != keyUse {
		t.Fatal("not to be used")
	}
	k.use()
	k.next(simStart, all)
	k.take(simStart.Add(keyKeep), k.with([]pki.GossipKey{meshtest.GossipKey(2, 1)}))
	if got := k.next(simStart.Add(keyKeep), all); got != keyNothing || len(k.keys) != 3 {
		t.Errorf("step %d with %d keys", got, len(k.keys))
	}
	for g := range uint32(10) {
		k.take(simStart, k.with([]pki.GossipKey{meshtest.GossipKey(g+3, 1)}))
	}
	if len(k.keys) != pki.MaxGossipKeys || !slices.Contains(k.keys, two) || k.newest().Generation() != 12 {
		t.Errorf("%d keys, the newest of generation %d; the one in use is there: %v", len(k.keys), k.newest().Generation(), slices.Contains(k.keys, two))
	}
	k.use()
	k.drop()
	if len(k.keys) != 1 || k.used != k.newest() {
		t.Errorf("%d keys after the drop", len(k.keys))
	}
}
