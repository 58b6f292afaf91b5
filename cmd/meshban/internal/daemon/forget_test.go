package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh/frame"
)

// A forget reaches every node. A node that is alive, or was heard a moment ago, is never forgotten; package mesh
// tests the one-minute limit.
func TestForgetReachesAll(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	c := a.join(t, "c")
	code := func(n *node, name string) control.Code {
		_, err := n.Forget(context.WithoutCancel(t.Context()), control.ForgetRequest{Node: name})
		if e := (*control.Error)(nil); errors.As(err, &e) {
			return e.Code
		}
		t.Errorf("forget %s: %v", name, err)
		return ""
	}
	for name, want := range map[string]control.Code{
		"a": control.CodeFailed, "b": control.CodePolicy, "nobody": control.CodeNotFound, strings.Repeat("7", 32): control.CodeNotFound,
	} {
		if got := code(b, name); got != want {
			t.Errorf("forget %s: %q, want %q", name, got, want)
		}
	}

	// A captured node says that a live one is gone: the frame arrives and changes nothing.
	said := func(n *node) bool { return strings.Contains(n.log.String(), "a member is said to be gone for good") }
	until(t, "b knows c", func() bool { return b.meshStatus().Alive == 3 })
	f, err := b.publishForget(time.Now(), frame.ID(c.self))
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the others have the frame", func() bool {
		return a.mesh.Digest() == b.mesh.Digest() && c.mesh.Digest() == b.mesh.Digest()
	})
	if id, ok := forgottenBy(f.Payload); !ok || id != frame.ID(c.self) || said(a) || a.memberOf(t, "c").State != control.MemberAlive {
		t.Errorf("%v, %v: a member that lives is forgotten", id, ok)
	}

	c.stop()
	gone := func(n *node) bool {
		state := n.memberOf(t, "c").State
		return state == control.MemberLeft || state == control.MemberDead
	}
	until(t, "c has gone", func() bool { return gone(a) && gone(b) })
	if got := code(b, "c"); got != control.CodeFailed {
		t.Errorf("c was heard a moment ago: %q", got)
	}
	now := time.Now()
	until(t, "the millisecond in which c went is over", func() bool { return time.Now().UnixMilli() > now.UnixMilli() })
	if _, err := a.publishForget(time.Now(), frame.ID(c.self)); err != nil {
		t.Fatal(err)
	}
	until(t, "b hears it", func() bool { return said(b) })
}

// A payload of ops is not taken for a forget.
func TestForgetPayload(t *testing.T) {
	t.Parallel()
	id := frame.ID{1, 2, 3}
	if got, ok := forgottenBy(forgetPayload(id)); !ok || got != id {
		t.Errorf("%v, %v", got, ok)
	}
	for _, bad := range [][]byte{nil, []byte(forgetMark), append(forgetPayload(id), 0), {0x93, 2}} {
		if _, ok := forgottenBy(bad); ok {
			t.Errorf("%q forgets somebody", bad)
		}
	}
}
