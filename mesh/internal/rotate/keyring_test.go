package rotate

import (
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

var start = time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC)

func gossipKey(generation uint32, b byte) pki.GossipKey {
	return pki.GossipKey{Generation: generation, Key: [32]byte{b, byte(generation)}}
}

func TestKeyring(t *testing.T) {
	one, two, three := gossipKey(0, 1), gossipKey(1, 1), gossipKey(2, 1)
	v1, v2, v3 := one.Version(), two.Version(), three.Version()
	peers := func(has, uses pki.KeyVersion, more ...Peer) []Peer {
		return append([]Peer{{frame.ID{1}, has, uses}, {frame.ID{2}, has, uses}}, more...)
	}
	behind := Peer{ID: frame.ID{3}, Has: v1, Uses: v1}
	for _, tt := range []struct {
		name   string
		keys   []pki.GossipKey
		used   pki.KeyVersion
		handed pki.KeyVersion
		peers  []Peer
		idle   time.Duration // how long next was asked every second, with the same peers
		want   Step
	}{
		{"ok: nothing to do", []pki.GossipKey{one}, v1, 0, peers(v1, v1), time.Hour, Nothing},
		{"ok: all have the new one", []pki.GossipKey{two, one}, v1, v2, peers(v2, v1), 0, Use},
		{"ok: all have an even newer one", []pki.GossipKey{two, one}, v1, v2, peers(v3, v1), 0, Use},
		{"bad: one lacks it", []pki.GossipKey{two, one}, v1, v2, peers(v2, v1, behind), UseAfter - time.Second, Nothing},
		{"ok: one lacks it for too long", []pki.GossipKey{two, one}, v1, v2, peers(v2, v1, behind), UseAfter, Use},
		{"bad: one says nothing", []pki.GossipKey{two, one}, v1, v2, peers(v2, v1, Peer{ID: frame.ID{3}}), time.Minute, Nothing},
		{"bad: alone for a moment", []pki.GossipKey{two, one}, v1, v2, nil, useAlone - time.Second, Nothing},
		{"ok: alone", []pki.GossipKey{two, one}, v1, v2, nil, useAlone, Use},
		{"bad: alone with a key that nobody was given", []pki.GossipKey{two, one}, v1, 0, nil, 2 * time.Hour, Nothing},
		{"bad: long with a key that nobody was given", []pki.GossipKey{two, one}, v1, 0, peers(v1, v1), 2 * time.Hour, Nothing},
		{"ok: others have a key of which no record came", []pki.GossipKey{two, one}, v1, 0, peers(v2, v2), 0, Use},

		{"bad: in use by all, lately", []pki.GossipKey{two, one}, v2, v2, peers(v2, v2), KeepFor - time.Second, Nothing},
		{"ok: in use by all", []pki.GossipKey{two, one}, v2, v2, peers(v2, v2), KeepFor, Drop},
		{"bad: one uses the old one", []pki.GossipKey{two, one}, v2, v2, peers(v2, v2, behind), keepMost - time.Second, Nothing},
		{"ok: one claims to use the old one for ever", []pki.GossipKey{two, one}, v2, v2, peers(v2, v2, behind), keepMost, Drop},
		{"ok: twice at once", []pki.GossipKey{three, two, one}, v2, v3, peers(v3, v2), 0, Use},
	} {
		k := keyring{keys: tt.keys, used: tt.used, handed: tt.handed, got: start}
		got := k.next(start, tt.peers)
		for at := time.Second; at <= tt.idle; at += time.Second {
			if got != Nothing {
				t.Errorf("%s: step %d after %v already", tt.name, got, at-time.Second)
				break
			}
			got = k.next(start.Add(at), tt.peers)
		}
		if got != tt.want {
			t.Errorf("%s: step %d, want %d", tt.name, got, tt.want)
		}
	}
	for spoken, want := range map[pki.KeyVersion]Step{v1: Nothing, v2: Use, v3: Nothing} {
		left := keyring{keys: []pki.GossipKey{two, one}, used: v1, handed: v2, got: start, spoken: spoken}
		if got := left.next(start, peers(v1, v1)); got != want {
			t.Errorf("one that was asked encrypts with %x, of %x and %x: step %d, want %d", spoken, v1, v2, got, want)
		}
	}
}

// A key that arrives while the former one waits to be dropped restarts the wait; the key in use is never dropped.
func TestKeyringTake(t *testing.T) {
	one, two := gossipKey(0, 1), gossipKey(1, 1)
	k := newKeyring(start, pki.Secrets{GossipKey: one.Key})
	k.take(start, k.with([]pki.GossipKey{two, one}))
	k.handed = two.Version()
	all := []Peer{{frame.ID{1}, two.Version(), two.Version()}}
	if k.next(start, all) != Use {
		t.Fatal("not to be used")
	}
	k.use()
	k.next(start, all)
	k.take(start.Add(KeepFor), k.with([]pki.GossipKey{gossipKey(2, 1)}))
	if got := k.next(start.Add(KeepFor), all); got != Nothing || len(k.keys) != 3 {
		t.Errorf("step %d with %d keys", got, len(k.keys))
	}
	for g := range uint32(10) {
		k.take(start, k.with([]pki.GossipKey{gossipKey(g+3, 1)}))
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
