package pki

import (
	"slices"
	"testing"
)

func TestSecretsKeys(t *testing.T) {
	plain := newSecrets(t)
	rotated := plain
	rotated.Authority = [32]byte{9}
	rotated = rotated.WithKeys([]GossipKey{testGossipKey(2, 1), testGossipKey(1, 1), plain.Used()}, testGossipKey(1, 1).Version())
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
	if keys := rotated.Keys(); len(keys) != 3 || keys[0].Generation != 2 || rotated.Used().Generation != 1 {
		t.Errorf("%d keys, the newest of generation %d, that in use of %d", len(keys), keys[0].Generation, rotated.Used().Generation)
	}
	if !rotated.Renews(rotated.WithKeys([]GossipKey{plain.Used()}, plain.Used().Version())) || rotated.Renews(rotated) || rotated.Renews(plain) {
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
