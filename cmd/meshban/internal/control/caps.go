package control

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// Caps bound, by a node's certificate, what the others take from it. A zero number leaves it to the receivers'
// configuration, which is never widened: the zero value is what a node gets of which nothing else is said.
type Caps struct {
	Rate       int           // new bans a minute, and at once, at most config.MaxAllowance
	Active     int           // bans in force, likewise
	Widest4    int           // shortest IPv4 prefix, config.MinWidest4..MaxWidest4
	Widest6    int           // shortest IPv6 prefix, config.MinWidest6..MaxWidest6
	MaxFor     time.Duration // longest ban, config.MinFor..MaxMaxFor, whole seconds
	NoUnbanAny bool          // it may not lift what others banned
	NoImport   bool          // its lists count like other bans
}

type capsJSON struct {
	Rate     int      `json:"rate,omitempty"`
	Active   int      `json:"active,omitempty"`
	Widest4  int      `json:"widest_ipv4,omitempty"`
	Widest6  int      `json:"widest_ipv6,omitempty"`
	MaxFor   spanText `json:"max_for,omitempty"`
	UnbanAny *bool    `json:"unban_any,omitempty"` // nil: true; so below
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

// check is what a request may say.
func (w *capsJSON) check() error {
	for _, n := range []struct {
		key             string
		is, least, most int
	}{
		{"rate", w.Rate, config.MinAllowance, config.MaxAllowance}, {"active", w.Active, config.MinAllowance, config.MaxAllowance},
		{"widest_ipv4", w.Widest4, config.MinWidest4, config.MaxWidest4}, {"widest_ipv6", w.Widest6, config.MinWidest6, config.MaxWidest6},
	} {
		if n.is != 0 && (n.is < n.least || n.is > n.most) {
			return usage("caps: %s is %d to %d, not %d", n.key, n.least, n.most, n.is)
		}
	}
	if d := time.Duration(w.MaxFor); d != 0 && (d < config.MinFor || d > config.MaxMaxFor || d%time.Second != 0) {
		return usage("caps: max_for is %s to %s in whole seconds, not %s",
			config.FormatDuration(config.MinFor), config.FormatDuration(config.MaxMaxFor), config.FormatDuration(d))
	}
	return nil
}

// MarshalJSON writes those of rate, active, widest_ipv4, widest_ipv6 and max_for that are set, then unban_any and import.
func (c Caps) MarshalJSON() ([]byte, error) { return json.Marshal(c.wire()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Caps) UnmarshalJSON(data []byte) error {
	var w capsJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*c = w.caps()
	return nil
}

// String says the caps in the words of the configuration.
func (c Caps) String() string {
	var parts []string
	for _, n := range []struct {
		key string
		is  int
	}{{"rate", c.Rate}, {"active", c.Active}, {"widest_ipv4", c.Widest4}, {"widest_ipv6", c.Widest6}} {
		if n.is != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", n.key, n.is))
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
		return "those that each node's config has for its peers"
	}
	return strings.Join(parts, ", ")
}

// CapsRequest asks what a node may say, or for a new certificate with other caps.
type CapsRequest struct {
	Node string // its name, its id, or at least MinNodeID leading digits of that
	Caps *Caps  // nil: only tell
}

type capsRequestJSON struct {
	Node string    `json:"node"`
	Caps *capsJSON `json:"caps,omitempty"`
}

// MarshalJSON writes the request as the server reads it.
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
		err = usage("no node is named")
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

// CapsReply tells what a node may say, by the certificate that counts now.
type CapsReply struct {
	Name  string    `json:"name"`
	ID    string    `json:"id"`
	Caps  Caps      `json:"caps"`
	Until time.Time `json:"until"` // the certificate's end
}

// Caps tells or sets the caps of a node.
func (c *Client) Caps(ctx context.Context, req CapsRequest) (CapsReply, error) {
	return call[CapsReply](ctx, c, pathCaps, req)
}
