package control

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
)

// Peer is the process at the other end of a connection, as the kernel noted it when that process connected: what it
// became or did afterwards counts no more, and a process id that is used again misleads nobody.
type Peer struct {
	UID, GID uint32   // effective
	PID      int      // 0 = this system does not tell
	Groups   []uint32 // supplementary; GID may be among them
}

// Network and String make a Peer the remote address of its connection.
func (p Peer) Network() string { return "unix" }
func (p Peer) String() string  { return p.User() }

// User is the name of the peer's user, or the number where it has none.
func (p Peer) User() string {
	id := strconv.FormatUint(uint64(p.UID), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// in reports whether the peer belongs to a group.
func (p Peer) in(g Group) bool {
	return g.Name != "" && (p.GID == g.ID || slices.Contains(p.Groups, g.ID))
}

// owns reports whether the peer may do everything: root, or the user whom the agent runs as.
func (p Peer) owns() bool { return p.UID == 0 || int64(p.UID) == int64(os.Geteuid()) }

type peerKey struct{}

// WithPeer returns a context whose requests come from p.
func WithPeer(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// PeerOf tells who asks; false outside a request of the socket.
func PeerOf(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}

// Group is a group of this machine. One without a name has no members.
type Group struct {
	Name string // as it was asked for
	ID   uint32
}

// LookupGroup finds a group by its name or number; "" is the group of nobody.
func LookupGroup(name string) (Group, error) {
	if name == "" {
		return Group{}, nil
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return Group{name, uint32(n)}, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return Group{}, fmt.Errorf("look up group %q: %w", name, err)
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return Group{}, fmt.Errorf("number of group %q: %w", name, err)
	}
	return Group{name, uint32(n)}, nil
}

// Access says who may use the socket besides root and the user whom the agent runs as.
type Access struct {
	Read  Group // may look
	Write Group // may look and change
}

// mayLook and mayChange judge a peer.
func (a Access) mayLook(p Peer) bool   { return a.mayChange(p) || p.in(a.Read) }
func (a Access) mayChange(p Peer) bool { return p.owns() || p.in(a.Write) }

// RuleAccess is the rule that refuses whom the socket does not serve.
const RuleAccess = "no permission"

// refusal says why p may not look, or may look and not change.
func (a Access) refusal(p Peer) *Error {
	e := &Error{Code: CodePolicy, Rule: RuleAccess}
	if !a.mayLook(p) {
		e.Message = fmt.Sprintf("no permission: user %s is not of those whom this agent's control socket serves", p.User())
		e.Hint = "use sudo, or have an administrator set control.read_group or control.write_group in meshban.yaml" + joining(a.Read, "look")
		return e
	}
	e.Message = fmt.Sprintf("no permission: user %s may look at this agent but not change anything", p.User())
	e.Hint = "use sudo, or have an administrator set control.write_group in meshban.yaml" + joining(a.Write, "change")
	return e
}

// joining names the group that would do.
func joining(g Group, what string) string {
	if g.Name == "" {
		return ""
	}
	return fmt.Sprintf("; members of group %s may %s now", g.Name, what)
}

// open lets the groups reach the socket file, and nobody else: strangers that may connect could fill its queue. What a
// peer may do is decided by its credentials all the same.
func (a Access) open(path string) error {
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	groups := a.groups()
	if len(groups) == 0 {
		return nil
	}
	err := letIn(path, groups)
	if err == nil || len(groups) > 1 {
		return err
	}
	// Without access control lists, a file can still belong to one group.
	if err := os.Lchown(path, -1, int(groups[0])); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

// groups are those that are let in, each once, in the order of their numbers.
func (a Access) groups() []uint32 {
	var all []uint32
	for _, g := range []Group{a.Read, a.Write} {
		if g.Name != "" {
			all = append(all, g.ID)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
