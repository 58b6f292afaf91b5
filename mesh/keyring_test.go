package mesh

import (
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

func testGossipKey(generation uint32, b byte) GossipKey {
	return GossipKey{Generation: generation, Key: [32]byte{b, byte(generation)}}
}

func TestKeyring(t *testing.T) {
	one, two, three := testGossipKey(0, 1), testGossipKey(1, 1), testGossipKey(2, 1)
	v1, v2, v3 := one.version(), two.version(), three.version()
	peers := func(has, uses keyVersion, more ...peerKeys) []peerKeys {
		return append([]peerKeys{{frame.ID{1}, has, uses}, {frame.ID{2}, has, uses}}, more...)
	}
	behind := peerKeys{id: frame.ID{3}, has: v1, uses: v1}
	for _, tt := range []struct {
		name   string
		keys   []GossipKey
		used   keyVersion
		handed keyVersion
		peers  []peerKeys
		idle   time.Duration // how long next was asked every second, with the same peers
		want   keyStep
	}{
		{"ok: nothing to do", []GossipKey{one}, v1, 0, peers(v1, v1), time.Hour, keyNothing},
		{"ok: all have the new one", []GossipKey{two, one}, v1, v2, peers(v2, v1), 0, keyUse},
		{"ok: all have an even newer one", []GossipKey{two, one}, v1, v2, peers(v3, v1), 0, keyUse},
		{"bad: one lacks it", []GossipKey{two, one}, v1, v2, peers(v2, v1, behind), keyUseAfter - time.Second, keyNothing},
		{"ok: one lacks it for too long", []GossipKey{two, one}, v1, v2, peers(v2, v1, behind), keyUseAfter, keyUse},
		{"bad: one says nothing", []GossipKey{two, one}, v1, v2, peers(v2, v1, peerKeys{id: frame.ID{3}}), time.Minute, keyNothing},
		{"bad: alone for a moment", []GossipKey{two, one}, v1, v2, nil, keyUseAlone - time.Second, keyNothing},
		{"ok: alone", []GossipKey{two, one}, v1, v2, nil, keyUseAlone, keyUse},
		{"bad: alone with a key that nobody was given", []GossipKey{two, one}, v1, 0, nil, 2 * time.Hour, keyNothing},
		{"bad: long with a key that nobody was given", []GossipKey{two, one}, v1, 0, peers(v1, v1), 2 * time.Hour, keyNothing},
		{"ok: others have a key of which no record came", []GossipKey{two, one}, v1, 0, peers(v2, v2), 0, keyUse},

		{"bad: in use by all, lately", []GossipKey{two, one}, v2, v2, peers(v2, v2), keyKeep - time.Second, keyNothing},
		{"ok: in use by all", []GossipKey{two, one}, v2, v2, peers(v2, v2), keyKeep, keyDrop},
		{"bad: one uses the old one", []GossipKey{two, one}, v2, v2, peers(v2, v2, behind), keyKeepMost - time.Second, keyNothing},
		{"ok: one claims to use the old one for ever", []GossipKey{two, one}, v2, v2, peers(v2, v2, behind), keyKeepMost, keyDrop},
		{"ok: twice at once", []GossipKey{three, two, one}, v2, v3, peers(v3, v2), 0, keyUse},
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
	for spoken, want := range map[keyVersion]keyStep{v1: keyNothing, v2: keyUse, v3: keyNothing} {
		left := keyring{keys: []GossipKey{two, one}, used: v1, handed: v2, got: simStart, spoken: spoken}
		if got := left.next(simStart, peers(v1, v1)); got != want {
			t.Errorf("one that was asked encrypts with %x, of %x and %x: step %d, want %d", spoken, v1, v2, got, want)
		}
	}
}

// A key that arrives while the former one waits to be dropped restarts the wait; the key in use is never dropped.
func TestKeyringTake(t *testing.T) {
	one, two := testGossipKey(0, 1), testGossipKey(1, 1)
	k := newKeyring(simStart, Secrets{GossipKey: one.Key})
	k.take(simStart, k.with([]GossipKey{two, one}))
	k.handed = two.version()
	all := []peerKeys{{frame.ID{1}, two.version(), two.version()}}
	if k.next(simStart, all) != keyUse {
		t.Fatal("not to be used")
	}
	k.use()
	k.next(simStart, all)
	k.take(simStart.Add(keyKeep), k.with([]GossipKey{testGossipKey(2, 1)}))
	if got := k.next(simStart.Add(keyKeep), all); got != keyNothing || len(k.keys) != 3 {
		t.Errorf("step %d with %d keys", got, len(k.keys))
	}
	for g := range uint32(10) {
		k.take(simStart, k.with([]GossipKey{testGossipKey(g+3, 1)}))
	}
	if len(k.keys) != maxGossipKeys || !slices.Contains(k.keys, two) || k.newest().generation() != 12 {
		t.Errorf("%d keys, the newest of generation %d; the one in use is there: %v", len(k.keys), k.newest().generation(), slices.Contains(k.keys, two))
	}
	k.use()
	k.drop()
	if len(k.keys) != 1 || k.used != k.newest() {
		t.Errorf("%d keys after the drop", len(k.keys))
	}
}

func TestSecretsKeys(t *testing.T) {
	plain := newSecrets(t)
	rotated := plain
	rotated.Authority = [32]byte{9}
	rotated = rotated.withKeys([]GossipKey{testGossipKey(2, 1), testGossipKey(1, 1), plain.used()}, testGossipKey(1, 1).version())
	for name, s := range map[string]Secrets{"plain": plain, "rotated": rotated} {
		path := t.TempDir() + "/mesh.key"
		if err := s.Save(path); err != nil {
			t.Fatal(err)
		}
		got, err := LoadSecrets(path)
		if err != nil || got != s {
			t.Errorf("%s: loaded other secrets, %v", name, err)
		}
	}
	if len(plain.encode()) != 48 {
		t.Errorf("secrets that were never rotated have %d bytes, which versions without rotation cannot read", len(plain.encode()))
	}
	if keys := rotated.keys(); len(keys) != 3 || keys[0].Generation != 2 || rotated.used().Generation != 1 {
		t.Errorf("%d keys, the newest of generation %d, that in use of %d", len(keys), keys[0].Generation, rotated.used().Generation)
	}
	if !rotated.Renews(rotated.withKeys([]GossipKey{plain.used()}, plain.used().version())) || rotated.Renews(rotated) || rotated.Renews(plain) {
		t.Error("newer secrets of the same mesh are not told from others")
	}
	good := rotated.encode()
	for name, b := range map[string][]byte{
		"bad: cut off":         good[:len(good)-1],
		"bad: trailing":        append(slices.Clone(good), 0),
		"bad: a later version": append([]byte{good[0], 3}, good[2:]...),
		"bad: one key twice": func() []byte {
			b := good[:len(good)-2*35-1]
			return append(b[:len(b):len(b)], appendKeys(nil, []GossipKey{testGossipKey(1, 1), testGossipKey(1, 1)})...)
		}(),
	} {
		if _, err := decodeSecrets(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
