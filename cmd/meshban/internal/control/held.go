package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

type heldEntryJSON struct {
	Prefix prefixText `json:"prefix"`
	Ports  string     `json:"ports"`
	Origin string     `json:"origin"`
	ID     string     `json:"id"`
	Issued timeText   `json:"issued"`
	Until  timeText   `json:"until"`
	Reason string     `json:"reason"`
	Source string     `json:"source"`
	By     string     `json:"by"`
	Kind   string     `json:"kind,omitempty"`
}

// AppendJSON appends e as one JSON object without a newline. One origin may have 32,768 bans on hold, and `held list` must
// show them within a second; encoding/json takes 20 times as long to encode and decode each.
func (e HeldEntry) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"prefix":"`...)
	dst = appendPrefix(dst, e.Prefix)
	dst = append(dst, '"')
	dst = appendField(dst, "ports", e.Ports)
	dst = appendField(dst, "origin", e.Origin)
	dst = appendField(dst, "id", e.ID)
	dst = appendTimeValue(append(dst, `,"issued":`...), e.Issued.Truncate(time.Second))
	dst = appendTimeValue(append(dst, `,"until":`...), e.Until)
	dst = appendField(dst, "reason", e.Reason)
	dst = appendField(dst, "source", e.Source)
	dst = appendField(dst, "by", e.By)
	if e.Kind != "" {
		dst = appendField(dst, "kind", e.Kind)
	}
	return append(dst, '}')
}

// MarshalJSON returns what AppendJSON appends.
func (e HeldEntry) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// UnmarshalJSON reads what MarshalJSON writes; fields it does not know are ignored.
func (e *HeldEntry) UnmarshalJSON(data []byte) error {
	var w heldEntryJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	if !netip.Prefix(w.Prefix).IsValid() {
		return errors.New("held entry without a prefix")
	}
	*e = HeldEntry{
		netip.Prefix(w.Prefix), w.Ports, w.Origin, w.ID, time.Time(w.Issued), time.Time(w.Until), w.Reason, w.Source, w.By, w.Kind,
	}
	return nil
}

type decideRequestJSON struct {
	Action   string       `json:"action"`
	Prefixes []prefixText `json:"prefixes,omitempty"`
	Origin   string       `json:"origin,omitempty"`
}

// MarshalJSON writes the request for the server.
func (r DecideRequest) MarshalJSON() ([]byte, error) {
	return json.Marshal(decideRequestJSON{r.Action, texts(r.Prefixes), r.Origin})
}

func decodeDecide(body []byte) (DecideRequest, error) {
	var w decideRequestJSON
	if err := strict(body, &w); err != nil {
		return DecideRequest{}, err
	}
	if w.Action != ActionRelease && w.Action != ActionDrop {
		return DecideRequest{}, usage("unknown action %q: write %s or %s", w.Action, ActionRelease, ActionDrop)
	}
	r := DecideRequest{Action: w.Action, Origin: w.Origin}
	if len(w.Prefixes) > 0 {
		var err error
		if r.Prefixes, err = prefixes("prefixes", w.Prefixes); err != nil {
			return DecideRequest{}, err
		}
	}
	return r, short("origin", w.Origin, MaxSource)
}

// Held calls yield for each ban on hold and stops with its error.
func (c *Client) Held(ctx context.Context, yield func(HeldEntry) error) error {
	var d entryDecoder
	return c.stream(ctx, pathHeld, nil, func(line []byte) error {
		e, err := d.decodeHeld(line)
		if err != nil {
			return fmt.Errorf("read held entry: %w", err)
		}
		return yield(e)
	})
}

// Decide releases or drops bans on hold.
func (c *Client) Decide(ctx context.Context, req DecideRequest) (DecideReply, error) {
	return call[DecideReply](ctx, c, pathDecide, req)
}
