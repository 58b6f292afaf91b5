package daemon

import (
	"net/netip"
	"regexp"
	"strings"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh"
)

// meshProblem shows a problem that the mesh reports.
func (d *Daemon) meshProblem(kind mesh.Problem, detail string) {
	if kind == mesh.ProblemFlood {
		detail = d.nameAddress(detail)
	}
	detail = d.names.inText(detail)
	d.problems.set(string(kind), detail)
	d.log.Warn("mesh problem", "kind", kind, "detail", detail)
}

// nameAddress adds to an address at the start of text the ids of the members there.
func (d *Daemon) nameAddress(text string) string {
	first, rest, _ := strings.Cut(text, " ")
	addr, err := netip.ParseAddr(first)
	if err != nil {
		return text
	}
	var ids []string
	for _, m := range d.mesh.Members() {
		if sameHost(m.Addr.Addr().Unmap(), addr) && d.mesh.Counts(m.ID) {
			ids = append(ids, m.ID.String())
		}
	}
	if len(ids) == 0 {
		return text
	}
	return first + " (" + strings.Join(ids, ", ") + ") " + rest
}

// sameHost reports whether a member at a is the host that the mesh holds to account by an address: an IPv6 host has its /64.
func sameHost(a, of netip.Addr) bool {
	if !a.Is6() {
		return a == of
	}
	return netip.PrefixFrom(of, 64).Contains(a)
}

var idsInText = regexp.MustCompile(`\b[0-9a-f]{32}\b`)

// inText puts names in the place of ids.
func (n *names) inText(text string) string {
	return idsInText.ReplaceAllStringFunc(text, func(s string) string {
		id, err := ban.ParseOrigin(s)
		if err != nil || n.certifiedName(id) == "" {
			return s
		}
		return n.of(id)
	})
}
