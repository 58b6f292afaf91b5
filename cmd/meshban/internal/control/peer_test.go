package control

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAccess(t *testing.T) {
	const self = 1000 // root, whether or not it is the agent's user, may do everything
	access := Access{Read: Group{"look", 20}, Write: Group{"change", 30}}
	for _, c := range []struct {
		name         string
		access       Access
		peer         Peer
		look, change bool
	}{
		{"ok: root", Access{}, Peer{UID: 0}, true, true},
		{"ok: the agent's user", Access{}, Peer{UID: uint32(os.Geteuid()), GID: self}, true, true},
		{"ok: group that may look", access, Peer{UID: 7654, GID: 20}, true, false},
		{"ok: supplementary group that may look", access, Peer{UID: 7654, GID: 1, Groups: []uint32{5, 20}}, true, false},
		{"ok: group that may change", access, Peer{UID: 7654, GID: 30}, true, true},
		{"ok: supplementary group that may change", access, Peer{UID: 7654, GID: 1, Groups: []uint32{30}}, true, true},
		{"bad: stranger", access, Peer{UID: 7654, GID: 1, Groups: []uint32{5}}, false, false},
		{"bad: stranger, no group configured", Access{}, Peer{UID: 7654, GID: 20}, false, false},
		// A group without a name has number 0, but root's group must not match it.
		{"bad: group 0, no group configured", Access{}, Peer{UID: 7654, GID: 0, Groups: []uint32{0}}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if look, change := c.access.mayLook(c.peer), c.access.mayChange(c.peer); look != c.look || change != c.change {
				t.Errorf("may look %v, change %v; want %v, %v", look, change, c.look, c.change)
			}
		})
	}
}

func TestRefusalNamesRuleAndRemedy(t *testing.T) {
	stranger := Peer{UID: 4242424, GID: 1}
	for _, c := range []struct {
		name string
		err  *Error
		want string
	}{
		{"bad: nothing configured", Access{}.refusal(stranger), "control.read_group"},
		{"bad: may look only", Access{Read: Group{"adm", 1}}.refusal(stranger), "control.write_group"},
		{"bad: not in the group", Access{Write: Group{"ops", 2}}.refusal(stranger), "control.write_group"},
	} {
		if c.err.Code != CodePolicy || c.err.Rule != RuleAccess || !strings.Contains(c.err.Hint, c.want) ||
			!strings.Contains(c.err.Hint, "sudo") || !strings.Contains(c.err.Message, "4242424") {
			t.Errorf("%s: %+v", c.name, c.err)
		}
	}
}

// The kernel identifies the peer; the client cannot influence it.
func TestPeerOfConn(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := peerOfConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if int(got.UID) != os.Geteuid() || int(got.GID) != os.Getegid() {
		t.Errorf("peer %+v, want user %d, group %d", got, os.Geteuid(), os.Getegid())
	}
	for _, g := range groups {
		if g != os.Getegid() && !slices.Contains(got.Groups, uint32(g)) {
			t.Errorf("peer %+v lacks group %d", got, g)
		}
	}
	if len(got.Groups) > len(groups) {
		t.Errorf("peer %+v has more groups than %v", got, groups)
	}
}

func TestLookupGroup(t *testing.T) {
	if g, err := LookupGroup("4711"); err != nil || g != (Group{"4711", 4711}) {
		t.Errorf("by number: %+v, %v", g, err)
	}
	if g, err := LookupGroup(""); err != nil || g != (Group{}) {
		t.Errorf("nobody: %+v, %v", g, err)
	}
	if _, err := LookupGroup("no-such-group-here"); err == nil {
		t.Error("a missing group was found")
	}
}

// A request that somehow bypassed the door changes nothing without a peer.
func TestChangeNeedsAPeer(t *testing.T) {
	s := &Server{}
	reached := false
	h := s.change(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	for name, ctx := range map[string]context.Context{
		"bad: no peer":  context.Background(),
		"bad: stranger": WithPeer(context.Background(), Peer{UID: 4242424}),
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, pathBan, nil))
		if w.Code != http.StatusForbidden || reached {
			t.Errorf("%s: HTTP %d, reached %v", name, w.Code, reached)
		}
	}
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(WithPeer(context.Background(), Peer{}), http.MethodPost, pathBan, nil))
	if !reached {
		t.Error("root was refused")
	}
}
