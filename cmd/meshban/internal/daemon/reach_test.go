package daemon

import (
	"fmt"
	"net"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

// A node learns whether the others' connections arrive here; who has not proved its address is not connected to.
func TestReach(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	until(t, "b says that it reaches a", func() bool {
		list, err := a.Reach(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(list) == 1 && list[0].Name == "b" && list[0].ID == b.self.String() && list[0].TCP != nil && *list[0].TCP
	})
	until(t, "members says so too", func() bool {
		list, err := a.Members(t.Context())
		return err == nil && len(list) == 2 && list[0].TCP == "" && list[1].TCP == control.UDPFine
	})
	if got := b.askBack(t.Context(), frame.ID{1}); got != nil {
		t.Errorf("a stranger was asked back: %v", *got)
	}
	a.stop()
	if got := b.askBack(t.Context(), frame.ID(a.self)); got != nil && *got {
		t.Error("a node that has stopped was reached")
	}
}

func TestConnected(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, refused := net.Dial("tcp", "127.0.0.1:1")
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	_, closed := conn.Read(make([]byte, 1))
	for _, c := range []struct {
		name string
		err  error
		want *bool
		text string
	}{
		{"ok: it answered", nil, new(true), control.UDPFine},
		{"bad: refused", fmt.Errorf("ask: %w", refused), new(false), "TCP to it does not arrive"},
		{"ok: unknown, it broke off", closed, nil, ""},
		{"ok: unknown, not tried", mesh.ErrAskedTooOften, nil, ""},
	} {
		if got := tcpText(c.err); got != c.text {
			t.Errorf("%s: %q", c.name, got)
		}
		if got := connected(c.err); (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
