package control

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
)

// Peer is the process at the other end of a connection, as the kernel recorded it when that process connected. Later
// changes of the process do not count, and a reused process id does no harm.
type Peer struct {
	UID, GID uint32   // effective
	PID      int      // 0 = unknown on this system
	Groups   []uint32 // supplementary; may include GID
}

// Network and String make a Peer the remote address of its connection.
func (p Peer) Network() string { return "unix" }
func (p Peer) String() string  { return p.User() }

// User returns the peer's user name, or its number if it has no name.
func (p Peer) User() string {
	id := strconv.FormatUint(uint64(p.UID), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// in reports whether the peer belongs to g.
func (p Peer) in(g Group) bool {
	return g.Name != "" && (p.GID == g.ID || slices.Contains(p.Groups, g.ID))
}

// owns reports whether the peer may do everything: it is root or the agent's user.
func (p Peer) owns() bool { return p.UID == 0 || int64(p.UID) == int64(os.Geteuid()) }

type peerKey struct{}

// WithPeer returns a context for requests from p.
func WithPeer(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// PeerOf returns the peer that made a request; false outside a request.
func PeerOf(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}

type changeKey struct{}

// WithChange returns a context for requests of somebody who may make changes.
func WithChange(ctx context.Context) context.Context {
	return context.WithValue(ctx, changeKey{}, true)
}

// MayChange reports whether whoever made a request of the page may make changes.
func MayChange(ctx context.Context) bool {
	may, _ := ctx.Value(changeKey{}).(bool)
	return may
}

// Group is a group of this machine. Without a name, it has no members.
type Group struct {
	Name string // as passed to LookupGroup
	ID   uint32
}

// LookupGroup returns the group with this name or number. For "" it returns a group without members.
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

// Access says who may use the socket besides root and the agent's user.
type Access struct {
	Read  Group // may look
	Write Group // may look and change
}

func (a Access) mayLook(p Peer) bool   { return a.mayChange(p) || p.in(a.Read) }
func (a Access) mayChange(p Peer) bool { return p.owns() || p.in(a.Write) }

// RuleAccess is the rule that refuses peers without permission.
const RuleAccess = "no permission"

// refusal returns why p may not look, or why it may look but not change anything.
func (a Access) refusal(p Peer) *Error {
	e := &Error{Code: CodePolicy, Rule: RuleAccess}
	if !a.mayLook(p) {
		e.Message = fmt.Sprintf("no permission: user %s may not use this agent's control socket", p.User())
		e.Hint = "use sudo, or have an administrator set control.read_group or control.write_group in meshban.yaml" + joining(a.Read, "look")
		return e
	}
	e.Message = fmt.Sprintf("no permission: user %s may look at this agent but not change anything", p.User())
	e.Hint = "use sudo, or have an administrator set control.write_group in meshban.yaml" + joining(a.Write, "change")
	return e
}

// joining names the group whose members have the permission.
func joining(g Group, what string) string {
	if g.Name == "" {
		return ""
	}
	return fmt.Sprintf("; members of group %s may %s", g.Name, what)
}

// open lets only the groups connect to the socket file: strangers could fill its queue. A peer's credentials still
// decide what it may do.
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
	// Without access control lists, the file can still belong to one group.
	if err := os.Lchown(path, -1, int(groups[0])); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

// groups returns the ids of the allowed groups, sorted and without duplicates.
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
