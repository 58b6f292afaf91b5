package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/hook"
	"github.com/meshban/meshban/logsrc"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/frame"
)

const (
	// maxNames bounds the nodes whose names are remembered.
	maxNames = 8192
	// valueNames is the key of the certified names in the store.
	valueNames = "certified names"
	// nameAuthority is what the mesh's authority is called.
	nameAuthority = "authority"
)

// names maps nodes to the names that the authority has certified. What a node calls itself is ignored.
type names struct {
	self      ban.Origin
	own       string     // this node's name until its certificate is known
	authority ban.Origin // the origin of the mesh's authority

	mu   sync.RWMutex // guards what follows
	byID map[ban.Origin]*named
	used map[string]use
}

// named is a node's name.
type named struct {
	Name  string    `json:"name"`
	Seen  time.Time `json:"seen"` // when this node first heard of it
	valid bool      // whether its certificate is valid now
}

// use counts the nodes that have a name.
type use struct{ all, valid int }

// newNames restores what save returned in an earlier run. Unreadable text is ignored.
func newNames(saved []byte, self ban.Origin, own string) *names {
	n := &names{self: self, own: own, byID: map[ban.Origin]*named{}, used: map[string]use{}}
	var byText map[string]named
	if json.Unmarshal(saved, &byText) == nil {
		for text, e := range byText {
			if id, err := ban.ParseOrigin(text); err == nil {
				n.setLocked(id, e)
			}
		}
	}
	return n
}

// of returns a node's name for display, followed by its short id if the name alone could mean another node, or only the
// short id if no name is certified.
func (n *names) of(id ban.Origin) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	name, unique := n.findLocked(id)
	if unique {
		return name
	}
	return withID(name, id)
}

// plain returns the name alone, or the short id if no name is certified.
func (n *names) plain(id ban.Origin) string {
	return cmp.Or(n.certifiedName(id), id.Short())
}

// certifiedName returns the name alone, or "" if none is certified.
func (n *names) certifiedName(id ban.Origin) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	name, _ := n.findLocked(id)
	return name
}

// full returns the name followed by the short id.
func (n *names) full(id ban.Origin) string {
	return withID(n.certifiedName(id), id)
}

// word returns the name of a node as one word without blanks, for the classic line.
func (n *names) word(id ban.Origin) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	name, unique := n.findLocked(id)
	switch {
	case unique:
		return name
	case !isHostName(name):
		return id.Short()
	}
	id8 := id.Short()
	return name[:min(len(name), logsrc.MaxOrigin-1-len(id8))] + "-" + id8
}

// handle returns what commands accept for a node: its name, or its short id if the name alone could mean another node.
func (n *names) handle(id ban.Origin) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if name, unique := n.findLocked(id); unique {
		return name
	}
	return id.Short()
}

func withID(name string, id ban.Origin) string {
	if name == "" {
		return id.Short()
	}
	return name + " (" + id.Short() + ")"
}

// findLocked returns a node's name, or "" if it has none, and whether the name can mean no other node.
func (n *names) findLocked(id ban.Origin) (name string, unique bool) {
	e := n.byID[id]
	switch {
	case e != nil:
	case id == n.self:
		return n.own, n.own != "" && n.used[n.own].all == 0
	case id == n.authority && id != ban.Origin{}:
		return nameAuthority, n.used[nameAuthority].all == 0
	default:
		return "", false
	}
	nodes := n.used[e.Name].all
	if e.valid { // nodes that are no longer valid do not count
		nodes = n.used[e.Name].valid
	}
	return e.Name, nodes == 1 && isHostName(e.Name) && !looksLikeID(e.Name)
}

// taken reports whether a node has this name.
func (n *names) taken(name string) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.used[name].all > 0
}

// isHostName reports whether a name has only characters of host names, so that it cannot imitate other text.
func isHostName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return name != ""
}

// looksLikeID reports whether a name could be the beginning of an id.
func looksLikeID(name string) bool {
	return len(name) >= control.MinNodeID && strings.Trim(name, "0123456789abcdefABCDEF") == ""
}

// certify records what the authority says about a node and reports whether that changed a name.
func (n *names) certify(s mesh.Standing) bool {
	id, next := ban.Origin(s.ID), named{Seen: time.Now().UTC(), valid: s.Certificate != nil && s.Revoked == nil}
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.byID[id]
	switch {
	case s.Certificate != nil:
		next.Name = s.Certificate.Name
	case old != nil:
		next.Name = old.Name
	case s.Revoked != nil:
		next.Name = s.Revoked.Name
	}
	return n.setLocked(id, next)
}

// setLocked sets a node's name and reports whether it changed.
func (n *names) setLocked(id ban.Origin, next named) bool {
	old := n.byID[id]
	if next.Name == "" || old == nil && len(n.byID) >= maxNames {
		return false
	}
	if old == nil {
		old = &named{Seen: next.Seen}
		n.byID[id] = old
	}
	before := old.Name
	n.countLocked(*old, -1)
	old.Name, old.valid = next.Name, next.valid
	n.countLocked(*old, +1)
	return before != next.Name
}

func (n *names) countLocked(e named, by int) {
	if e.Name == "" {
		return
	}
	u := n.used[e.Name]
	u.all += by
	if e.valid {
		u.valid += by
	}
	if n.used[e.Name] = u; u.all == 0 {
		delete(n.used, e.Name)
	}
}

// match returns the nodes that have exactly this name.
func (n *names) match(text string) (ids []ban.Origin) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for id, e := range n.byID {
		if e.Name == text {
			ids = append(ids, id)
		}
	}
	return ids
}

// seen returns when this node first heard of a node, or zero if it has not.
func (n *names) seen(id ban.Origin) time.Time {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if e := n.byID[id]; e != nil {
		return e.Seen
	}
	return time.Time{}
}

// sharing returns how many valid nodes have a node's name.
func (n *names) sharing(id ban.Origin) int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if e := n.byID[id]; e != nil {
		return n.used[e.Name].valid
	}
	return 0
}

// save returns the names in the form that newNames takes.
func (n *names) save() []byte {
	n.mu.RLock()
	defer n.mu.RUnlock()
	byText := make(map[string]named, len(n.byID))
	for id, e := range n.byID {
		byText[id.String()] = *e
	}
	text, err := json.Marshal(byText)
	if err != nil { // names and times always encode
		return nil
	}
	return text
}

// openNames reads the certified names that an earlier run stored.
func (d *Daemon) openNames(authority ban.Origin) {
	d.names = newNames(d.store.Value(valueNames), d.self, d.cfg.Name)
	d.names.authority = authority
}

// recertified records what the authority says about a node, and stores the names if one changed.
func (d *Daemon) recertified(s mesh.Standing) {
	if !d.names.certify(s) {
		return
	}
	d.store.Set(valueNames, d.names.save())
	if id := ban.Origin(s.ID); d.names.sharing(id) > 1 {
		d.log.Warn("several certified nodes have one name: each is shown with its id", "name", d.names.plain(id), "id", s.ID.Short())
	}
}

// checkName compares this node's configured name with the certified one, which the others show. If this node has the
// authority's key, it certifies the configured name.
func (d *Daemon) checkName(ctx context.Context) error {
	name, c := d.config().Name, d.mesh.Standing(frame.ID(d.self)).Certificate
	if c == nil || c.Name == name {
		return nil
	}
	if !d.mesh.HasAuthority() {
		d.log.Warn("the name in the config is not the certified one, which is what the others show",
			"config", name, "certified", c.Name, "remedy", "meshban rotate node-key TOKEN certifies the name in the config")
		return nil
	}
	renamed, err := d.mesh.Certify(c.Node, name, c.Caps)
	if err != nil {
		return stopping(err)
	}
	d.log.Info("certified the name in the config", "name", name, "former", c.Name)
	return d.keepRecord(ctx, renamed.Frame.Raw)
}

// nameNodes adds names to the ids in a text, and to the addresses of other members.
func (d *Daemon) nameNodes(text string) string {
	members := d.mesh.Members()
	words := strings.Split(text, " ")
	for i, w := range words {
		core := strings.Trim(w, ",;:.()")
		if id, err := frame.ParseID(core); err == nil {
			words[i] = strings.Replace(w, core, d.nameOrPlace(members, id), 1)
		} else if who := d.whoIsAt(members, core); who != "" {
			words[i] = strings.Replace(w, core, core+" (where "+who+" is)", 1)
		}
	}
	return strings.Join(words, " ")
}

// nameOrPlace returns a node's full name, or where it is if its certificate is not known here.
func (d *Daemon) nameOrPlace(members []mesh.Member, id frame.ID) string {
	name := d.names.full(ban.Origin(id))
	for _, m := range members {
		if m.ID == id && m.Addr.IsValid() && d.names.certifiedName(ban.Origin(id)) == "" {
			return fmt.Sprintf("%s (at %v)", name, m.Addr.Addr().Unmap())
		}
	}
	return name
}

// maxWhere bounds the members at one address that a text names.
const maxWhere = 3

// whoIsAt names the members at an address, with or without port, the newest first. Certified members hide the others,
// so that made-up members hide nobody; then, members that are alive hide those that are not. It returns "" if nobody is
// there.
func (d *Daemon) whoIsAt(members []mesh.Member, where string) string {
	const certified, alive = 2, 1
	var found []mesh.Member
	best := 0
	for _, m := range members {
		addr := m.Addr.Addr().Unmap()
		if m.Self || where != addr.String() && where != netip.AddrPortFrom(addr, m.Addr.Port()).String() {
			continue
		}
		rank := 0
		if d.names.certifiedName(ban.Origin(m.ID)) != "" {
			rank += certified
		}
		if m.State == mesh.StateAlive {
			rank += alive
		}
		if rank > best {
			best, found = rank, nil
		}
		if rank == best {
			found = append(found, m)
		}
	}
	slices.SortStableFunc(found, func(a, b mesh.Member) int { return b.Since.Compare(a.Since) })
	var who []string
	for _, m := range found[:min(len(found), maxWhere)] {
		who = append(who, d.names.of(ban.Origin(m.ID)))
	}
	if more := len(found) - maxWhere; more > 0 {
		who = append(who, fmt.Sprintf("%d others", more))
	}
	return strings.Join(who, " or ")
}

// member handles news of a member: its address goes to the never-ban list, and watchers and hooks get an event.
func (d *Daemon) member(e mesh.MemberEvent) {
	id := ban.Origin(e.Member.ID)
	event := control.Event{Time: time.Now().UTC().Truncate(time.Millisecond), Name: e.Kind, Origin: d.names.of(id), OriginID: id.String()}
	level := slog.LevelDebug // for a stranger, which may come often
	if d.mesh.Trusts(e.Member.ID) {
		level = slog.LevelInfo
		wake(d.neverWake)
		if kind := memberHook[e.Kind]; kind != "" && id != d.self {
			d.hooks.Tell(kind, hook.Mesh, event)
		}
	}
	d.log.Log(context.Background(), level, "member changed", "event", e.Kind, "name", event.Origin, "id", e.Member.ID.Short(), "addr", e.Member.Addr)
	d.hub.send(event)
}
