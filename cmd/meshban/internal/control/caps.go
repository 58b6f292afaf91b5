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
	Rate       int      `json:"rate,omitempty"`        // new bans per minute, and at once; at most config.MaxAllowance
	Active     int      `json:"active,omitempty"`      // bans in force; at most config.MaxAllowance
	Widest4    int      `json:"widest_ipv4,omitempty"` // shortest IPv4 prefix, config.MinWidest4..MaxWidest4
	Widest6    int      `json:"widest_ipv6,omitempty"` // shortest IPv6 prefix, config.MinWidest6..MaxWidest6
	MaxFor     Duration `json:"max_for,omitempty"`     // longest ban, config.MinFor..MaxMaxFor, whole seconds
	NoUnbanAny Denied   `json:"unban_any"`             // it may not lift other nodes' bans
	NoImport   Denied   `json:"import"`                // its imports count as ordinary bans
	NoDrill    Denied   `json:"drill"`                 // others take no part in its drills
}

// Denied is a permission that a node lacks; JSON says whether it has it.
type Denied bool

// MarshalJSON returns true or false.
func (d Denied) MarshalJSON() ([]byte, error) { return json.Marshal(!bool(d)) }

// UnmarshalJSON reads what MarshalJSON returns; null is true.
func (d *Denied) UnmarshalJSON(b []byte) error {
	has := true
	err := json.Unmarshal(b, &has)
	*d = Denied(!has)
	return err
}

// CapNumber is one of the caps that are numbers.
type CapNumber struct {
	Key         string // as in the configuration
	At          *int
	Least, Most int // bounds of a value that is not zero
}

// Numbers returns the caps that are numbers.
func (c *Caps) Numbers() []CapNumber {
	return []CapNumber{
		{"rate", &c.Rate, config.MinAllowance, config.MaxAllowance},
		{"active", &c.Active, config.MinAllowance, config.MaxAllowance},
		{"widest_ipv4", &c.Widest4, config.MinWidest4, config.MaxWidest4},
		{"widest_ipv6", &c.Widest6, config.MinWidest6, config.MaxWidest6},
	}
}

func (c Caps) check() error {
	for _, n := range c.Numbers() {
		if is := *n.At; is != 0 && (is < n.Least || is > n.Most) {
			return usage("caps: %s is %d to %d, not %d", n.Key, n.Least, n.Most, is)
		}
	}
	if d := time.Duration(c.MaxFor); d != 0 && (d < config.MinFor || d > config.MaxMaxFor || d%time.Second != 0) {
		return usage("caps: max_for is %s to %s in whole seconds, not %s",
			config.FormatDuration(config.MinFor), config.FormatDuration(config.MaxMaxFor), config.FormatDuration(d))
	}
	return nil
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
		parts = append(parts, "max_for "+config.FormatDuration(time.Duration(c.MaxFor)))
	}
	if c.NoUnbanAny {
		parts = append(parts, "no unban_any")
	}
	if c.NoImport {
		parts = append(parts, "no import")
	}
	if c.NoDrill {
		parts = append(parts, "no drill")
	}
	if len(parts) == 0 {
		return "as each node's config sets them for its peers"
	}
	return strings.Join(parts, ", ")
}

// CapsRequest asks for the caps of a node, or for a new certificate with other caps.
type CapsRequest struct {
	Node string `json:"node"`           // name, id, or at least MinNodeID leading digits of the id
	Caps *Caps  `json:"caps,omitempty"` // nil = only show them
}

func (r CapsRequest) check() error {
	err := checkNode(r.Node)
	if err == nil && r.Caps != nil {
		err = r.Caps.check()
	}
	return err
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
