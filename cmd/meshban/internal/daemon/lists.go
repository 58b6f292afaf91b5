package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// `meshban import --list NAME` brings a list that replaces its former self. The source of each ban names the lists of
// this node that have the address, import:NAME or import:a,b. So the table knows which list brought what, even after
// a restart, and an address is lifted once the last of its lists drops it.

const listPrefix = ban.SourceImport + ":"

// ruleLists refuses a ban that is on more lists than a source has room to name.
const ruleLists = "too many lists"

// listsOf returns the names of the lists in a source.
func listsOf(source string) []string {
	names, ok := strings.CutPrefix(source, listPrefix)
	if !ok {
		return nil
	}
	return strings.Split(names, ",")
}

// listSource is the reverse of listsOf.
func listSource(names []string) string {
	slices.Sort(names)
	return listPrefix + strings.Join(slices.Compact(names), ",")
}

// importedLocked makes an import respect this node's existing bans: it shortens none, and a ban that did not come from
// an import keeps its reason and source. It reports whether the ban is new, and whether it was already on this list.
func (d *Daemon) importedLocked(t *ban.Table, op *ban.Op) (fresh, listed bool, err error) {
	was, ok := t.OwnBan(op.Prefix, op.Ports)
	if !ok {
		return true, false, nil
	}
	if was.Until.After(op.Until) {
		op.Until = was.Until
	}
	if !ban.Imported(was.Source) {
		op.Reason, op.Source = was.Reason, was.Source
		return false, false, nil
	}
	add, had := listsOf(op.Source), listsOf(was.Source)
	if len(add) == 0 || len(had) == 0 {
		return false, false, nil // the last import wins
	}
	if listed = slices.Contains(had, add[0]); !listed || len(had) > 1 {
		op.Reason = was.Reason
	}
	op.Source = listSource(append(had, add[0]))
	if len(op.Source) > ban.MaxSource {
		err = &control.Error{
			Code: control.CodePolicy, Rule: ruleLists, Hint: "give the lists shorter names, or leave one out",
			Message: fmt.Sprintf("%s is not put on the list %s: it is banned by the lists %s, and their names take all the room", show(op.Prefix), add[0], strings.Join(had, ", ")),
		}
	}
	return false, listed, err
}

// Listed implements control.Agent.
func (d *Daemon) Listed(ctx context.Context, req control.ListedRequest) (control.ListedReply, error) {
	var rep control.ListedReply
	rep.Mark.Epoch, rep.Mark.Seq = d.mesh.Last()
	gone := map[netip.Prefix][]ban.Ports{}
	found := 0
	d.state.Entries(func(e ban.Entry) bool {
		if !slices.Contains(e.Origins, d.self) {
			return ctx.Err() == nil
		}
		var r ban.Record
		var ok bool
		d.state.View(func(t *ban.Table) { r, ok = t.OwnBan(e.Prefix, e.Ports) })
		switch {
		case !ok || !slices.Contains(listsOf(r.Source), req.List):
		case req.Until == nil:
			rep.Bans++
		case !since(r, *req.Until):
			rep.More = found == control.MaxAddrs
			if !rep.More {
				gone[e.Prefix] = append(gone[e.Prefix], e.Ports)
				found++
			}
		}
		return ctx.Err() == nil && !rep.More
	})
	if err := ctx.Err(); err != nil || len(gone) == 0 {
		return rep, err
	}
	return rep, d.unlist(ctx, req, gone, &rep)
}

// since reports whether this node published r after the mark.
func since(r ban.Record, mark control.Mark) bool {
	return r.Version.Epoch > mark.Epoch || r.Version.Epoch == mark.Epoch && r.Version.Seq > mark.Seq
}

// unlist takes bans off a list. Those on no other list are taken back; no other node's ban is lifted.
func (d *Daemon) unlist(ctx context.Context, req control.ListedRequest, gone map[netip.Prefix][]ban.Ports, rep *control.ListedReply) error {
	now := time.Now()
	prefixes := make([]netip.Prefix, 0, len(gone))
	for p := range gone {
		prefixes = append(prefixes, p)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	results, err := d.publishEach(ctx, now, prefixes, func(t *ban.Table, prefix netip.Prefix) ([]ban.Op, error) {
		var ops []ban.Op
		for _, ports := range gone[prefix] {
			r, ok := t.OwnBan(prefix, ports)
			if !ok || since(r, *req.Until) {
				continue
			}
			op := r.Op
			rest := slices.DeleteFunc(listsOf(r.Source), func(name string) bool { return name == req.List })
			if len(rest) > 0 {
				op.Source = listSource(rest)
				rep.Kept++
			} else {
				op.Kind, op.Until = ban.KindRevoke, op.Until.Add(ban.ClockSkew)
				rep.Lifted++
			}
			ops = append(ops, op)
		}
		return ops, nil
	})
	d.state.Settle(now)
	d.confirm(ctx, results, func(*ban.Table, *control.Result) *control.Error { return nil }, "lifted")
	for _, r := range results {
		if err == nil && r.Err != nil {
			return r.Err
		}
	}
	return err
}
