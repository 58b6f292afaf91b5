package mesh

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

// heard records notices.
type heard struct {
	mu   sync.Mutex
	said []string
}

func (h *heard) add(from frame.ID, payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, from.Short()+" "+string(payload))
}

func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.said)
}

// A notice counts only if it comes from a trusted member, is for this node, is current and not a repeat, and is within
// the sender's rate.
func TestNoticeIsHeeded(t *testing.T) {
	a, other := meshtest.Authority(t), newIdentity(t)
	secrets := newSecrets(t)
	copy(secrets.Authority[:], a.Public())
	var h heard
	n := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Authority, c.Noticed = a, h.add })
	now := time.Now()
	n.now = func() time.Time { return now }
	good, gone := newIdentity(t), newIdentity(t)
	for _, id := range []pki.Identity{good, gone} {
		if _, err := n.Certify(id.Public(), "x", pki.DefaultCaps()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Revoke(gone.ID(), "x", time.Time{}, ""); err != nil {
		t.Fatal(err)
	}
	at := now
	say := func(id pki.Identity, edit func(*notice)) []byte {
		at = at.Add(time.Millisecond)
		m := notice{signed: signed{MeshID: secrets.MeshID}, To: n.id.ID(), Issued: at, Payload: []byte("hello")}
		if edit != nil {
			edit(&m)
		}
		return m.encode(id)
	}
	spoiled := func(at int) []byte {
		b := bytes.Clone(say(good, nil))
		b[len(b)-at] ^= 1
		return b
	}
	first := say(good, nil)
	heeded := 0
	for _, c := range []struct {
		name string
		msg  []byte
		ok   bool
	}{
		{"ok: a member", first, true},
		{"bad: again", first, false},
		{"ok: its next", say(good, nil), true},
		{"bad: a stranger", say(other, nil), false},
		{"bad: a revoked node", say(gone, nil), false},
		{"bad: the authority is no member", say(a.Identity, nil), false},
		{"bad: ourselves", say(n.id, nil), false},
		{"bad: for another node", say(good, func(m *notice) { m.To[0] ^= 1 }), false},
		{"bad: of another mesh", say(good, func(m *notice) { m.MeshID[0] ^= 1 }), false},
		{"bad: old", say(good, func(m *notice) { m.Issued = now.Add(-frame.FutureSkew - time.Second) }), false},
		{"bad: from the future", say(good, func(m *notice) { m.Issued = now.Add(frame.FutureSkew + time.Second) }), false},
		{"bad: signature", spoiled(1), false},
		{"bad: another payload", spoiled(64 + 34 + 1), false},
		{"bad: cut short", say(good, nil)[:60], false},
		{"bad: empty", []byte{wire.KindNotice}, false},
		{"bad: too long", say(good, func(m *notice) { m.Payload = make([]byte, MaxNotice+1) }), false},
		{"ok: the longest", say(good, func(m *notice) { m.Payload = make([]byte, MaxNotice) }), true},
		{"ok: one more", say(good, nil), true},
		{"bad: too many", say(good, nil), false},
	} {
		n.small(c.msg, &intake{})
		if c.ok {
			heeded++
		}
		if got := len(h.all()); got != heeded {
			t.Errorf("%s: %d heeded, want %d", c.name, got, heeded)
			heeded = got
		}
	}
	now = now.Add(noticeEvery)
	at = now
	if n.small(say(good, nil), &intake{}); len(h.all()) != heeded+1 {
		t.Error("a while later it may speak again")
	}
	if s := n.Stats(); s.Notices != uint64(heeded+1) || s.NoticesRefused != 15 {
		t.Errorf("counted %d and %d", s.Notices, s.NoticesRefused)
	}
}

// However many senders there are, the memory of them is bounded.
func TestNoticersAreBounded(t *testing.T) {
	v := noticers{last: make(map[frame.ID]*noticer)}
	now := time.Now()
	for i := range maxNoticers + 10 {
		if ok := v.accept(now, frame.ID{byte(i), byte(i >> 8), byte(i >> 16)}, now); ok != (i < maxNoticers) {
			t.Fatalf("sender %d: %v", i, ok)
		}
	}
	later := now.Add(2*frame.FutureSkew + time.Second)
	if !v.accept(later, frame.ID{1, 1, 1, 1}, later) || len(v.last) != 1 {
		t.Errorf("the silent ones are kept: %d", len(v.last))
	}
}

func TestNotify(t *testing.T) {
	t.Parallel()
	secrets := newSecrets(t)
	var h heard
	a := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Noticed = h.add }).run(t)
	b := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Join = []string{a.Addr().String()} }).run(t)
	eventually(t, 10*time.Second, "both are members", func() bool { return a.aliveCount() == 2 && b.aliveCount() == 2 })
	if err := b.Notify(a.id.ID(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the notice", func() bool {
		return slices.Equal(h.all(), []string{b.id.ID().Short() + " hello"})
	})
	if err := b.Notify(frame.ID{1}, nil); !errors.Is(err, errNotAlive) {
		t.Errorf("to nobody: %v", err)
	}
	if err := b.Notify(a.id.ID(), make([]byte, MaxNotice+1)); err == nil {
		t.Error("too long a notice was sent")
	}
}
