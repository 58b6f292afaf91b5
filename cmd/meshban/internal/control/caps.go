package control

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// Caps bound what other nodes accept from a node; they are part of its certificate. A zero number leaves the bound to
// each receiver's config, which caps never widen. The zero value is the default.
type Caps struct {
	Rate       int           // new bans per minute, and at once; at most config.MaxAllowance
	Active     int           // bans in force; at most config.MaxAllowance
	Widest4    int           // shortest IPv4 prefix, config.MinWidest4..MaxWidest4
	Widest6    int           // shortest IPv6 prefix, config.MinWidest6..MaxWidest6
	MaxFor     time.Duration // longest ban, config.MinFor..MaxMaxFor, whole seconds
	NoUnbanAny bool          // it may not lift other nodes' bans
	NoImport   bool          // its imports count as ordinary bans
}

type capsJSON struct {
	Rate     int      `json:"rate,omitempty"`
	Active   int      `json:"active,omitempty"`
	Widest4  int      `json:"widest_ipv4,omitempty"`
	Widest6  int      `json:"widest_ipv6,omitempty"`
	MaxFor   spanText `json:"max_for,omitempty"`
	UnbanAny *bool    `json:"unban_any,omitempty"` // nil = true, also for Import
	Import   *bool    `json:"import,omitempty"`
}

func (c Caps) wire() *capsJSON {
	return &capsJSON{c.Rate, c.Active, c.Widest4, c.Widest6, spanText(c.MaxFor), new(!c.NoUnbanAny), new(!c.NoImport)}
}

func (w *capsJSON) caps() Caps {
	return Caps{
		w.Rate, w.Active, w.Widest4, w.Widest6, time.Duration(w.MaxFor), w.UnbanAny != nil && !*w.UnbanAny, w.Import != nil && !*w.Import,
	}
}

// CapNumber is one of the caps that are numbers.
type CapNumber struct {
	Key         string // as in the configuration
	At          *int
	Least, Most int // unless it is zero
}

// Numbers returns those of c.
func (c *Caps) Numbers() []CapNumber {
	return []CapNumber{
		{"rate", &c.Rate, config.MinAllowance, config.MaxAllowance},
		{"active", &c.Active, config.MinAllowance, config.MaxAllowance},
		{"widest_ipv4", &c.Widest4, config.MinWidest4, config.MaxWidest4},
		{"widest_ipv6", &c.Widest6, config.MinWidest6, config.MaxWidest6},
	}
}

// check validates the caps of a request.
func (w *capsJSON) check() error {
	c := w.caps()
	for _, n := range c.Numbers() {
		if is := *n.At; is != 0 && (is < n.Least || is > n.Most) {
			return usage("caps: %s is %d to %d, not %d", n.Key, n.Least, n.Most, is)
		}
	}
	if d := time.Duration(w.MaxFor); d != 0 && (d < config.MinFor || d > config.MaxMaxFor || d%time.Second != 0) {
		return usage("caps: max_for is %s to %s in whole seconds, not %s",
			config.FormatDuration(config.MinFor), config.FormatDuration(config.MaxMaxFor), config.FormatDuration(d))
	}
	return nil
}

// MarshalJSON writes those of rate, active, widest_ipv4, widest_ipv6 and max_for that are set, then unban_any and
// import.
func (c Caps) MarshalJSON() ([]byte, error) { return json.Marshal(c.wire()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Caps) UnmarshalJSON(data []byte) error {
	return via(data, c, func(w capsJSON) Caps { return w.caps() })
}

// String lists the caps under the names that the configuration uses.
func (c Caps) String() string {
	var parts []string
	for _, n := range c.Numbers() {
		if *n.At != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", n.Key, *n.At))
		}
	}
	if c.MaxFor != 0 {
		parts = append(parts, "max_for "+config.FormatDuration(c.MaxFor))
	}
	if c.NoUnbanAny {
		parts = append(parts, "no unban_any")
	}
	if c.NoImport {
		parts = append(parts, "no import")
	}
	if len(parts) == 0 {
		return "as each node's config sets them for its peers"
	}
	return strings.Join(parts, ", ")
}

// CapsRequest asks for the caps of a node, or for a new certificate with other caps.
type CapsRequest struct {
	Node string // name, id, or at least MinNodeID leading digits of the id
	Caps *Caps  // nil = only show them
}

type capsRequestJSON struct {
	Node string    `json:"node"`
	Caps *capsJSON `json:"caps,omitempty"`
}

// MarshalJSON writes the request for the server.
func (r CapsRequest) MarshalJSON() ([]byte, error) {
	w := capsRequestJSON{Node: r.Node}
	if r.Caps != nil {
		w.Caps = r.Caps.wire()
	}
	return json.Marshal(w)
}

func decodeCaps(body []byte) (CapsRequest, error) {
	var w capsRequestJSON
	if err := strict(body, &w); err != nil {
		return CapsRequest{}, err
	}
	err := short("node", w.Node, MaxNode)
	if err == nil && w.Node == "" {
		err = usage("the node's name is missing")
	}
	r := CapsRequest{Node: w.Node}
	if err == nil && w.Caps != nil {
		r.Caps, err = new(w.Caps.caps()), w.Caps.check()
	}
	if err != nil {
		return CapsRequest{}, err
	}
	return r, nil
}

// CapsReply has the caps in a node's current certificate.
type CapsReply struct {
	Name  string    `json:"name"`
	ID    string    `json:"id"`
	Caps  Caps      `json:"caps"`
	Until time.Time `json:"until"` // the certificate's end
}

// Caps returns or sets the caps of a node.
func (c *Client) Caps(ctx context.Context, req CapsRequest) (CapsReply, error) {
	return call[CapsReply](ctx, c, pathCaps, req)
}
