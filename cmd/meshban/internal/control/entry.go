package control

import (
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"strconv"
	"time"
)

// AppendJSON appends e as one JSON object without a newline.
func (e ListEntry) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"prefix":"`...)
	dst = append(appendPrefix(dst, e.Prefix), '"')
	dst = appendField(dst, "ports", e.Ports)
	dst = appendTimeValue(append(dst, `,"until":`...), e.Until)
	dst = appendStrings(append(dst, `,"origins":`...), e.Origins)
	dst = appendField(dst, "reason", e.Reason)
	dst = appendField(dst, "source", e.Source)
	dst = appendField(dst, "state", e.State)
	dst = appendStrings(append(dst, `,"origin_ids":`...), e.OriginIDs)
	dst = appendNotEnforced(dst, e.NotEnforced)
	if len(e.LeavesOut) > 0 {
		list := make([]string, len(e.LeavesOut))
		for i, p := range e.LeavesOut {
			list[i] = p.String()
		}
		dst = appendStrings(append(dst, `,"leaves_out":`...), list)
	}
	return append(dst, '}')
}

func appendNotEnforced(dst []byte, why string) []byte {
	if why == "" {
		return dst
	}
	return appendField(dst, "not_enforced", why)
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s)
	}
	return append(dst, ']')
}

// MarshalJSON returns what AppendJSON appends.
func (e ListEntry) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

type listEntryJSON struct {
	Prefix  prefixText `json:"prefix"`
	Ports   string     `json:"ports"`
	Until   timeText   `json:"until"`
	Origins []string   `json:"origins"`
	Reason  string     `json:"reason"`
	Source  string     `json:"source"`
	State   string     `json:"state"`

	OriginIDs   []string `json:"origin_ids"`
	NotEnforced string   `json:"not_enforced"`

	LeavesOut []netip.Prefix `json:"leaves_out"`
}

// UnmarshalJSON reads what AppendJSON writes; fields it does not know are ignored.
func (e *ListEntry) UnmarshalJSON(data []byte) error {
	var w listEntryJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	if !netip.Prefix(w.Prefix).IsValid() {
		return errors.New("list entry without a prefix")
	}
	*e = ListEntry{netip.Prefix(w.Prefix), w.Ports, time.Time(w.Until), w.Origins, w.Reason, w.Source, w.State, w.OriginIDs, w.NotEnforced, w.LeavesOut}
	return nil
}

// AppendJSON appends e as one JSON object without a newline. Events of members have no "prefix", "ports" and "until".
func (e Event) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"time":"`...)
	dst = e.Time.UTC().AppendFormat(dst, eventTime)
	dst = appendField(append(dst, '"'), "event", e.Name)
	if e.Prefix.IsValid() {
		dst = append(appendPrefix(append(dst, `,"prefix":"`...), e.Prefix), '"')
		dst = appendField(dst, "ports", e.Ports)
		dst = appendTimeValue(append(dst, `,"until":`...), e.Until)
	}
	dst = appendField(dst, "origin", e.Origin)
	if e.OriginID != "" {
		dst = appendField(dst, "origin_id", e.OriginID)
	}
	dst = appendField(dst, "reason", e.Reason)
	dst = appendField(dst, "source", e.Source)
	dst = append(dst, `,"latency_ms":`...)
	if e.LatencyMS == nil || math.IsNaN(*e.LatencyMS) || math.IsInf(*e.LatencyMS, 0) {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendFloat(dst, *e.LatencyMS, 'f', 3, 64)
	}
	return append(appendNotEnforced(dst, e.NotEnforced), '}')
}

// MarshalJSON returns what AppendJSON appends.
func (e Event) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

type eventJSON struct {
	Time      time.Time  `json:"time"`
	Name      string     `json:"event"`
	Prefix    prefixText `json:"prefix"`
	Ports     string     `json:"ports"`
	Until     timeText   `json:"until"`
	Origin    string     `json:"origin"`
	OriginID  string     `json:"origin_id"`
	Reason    string     `json:"reason"`
	Source    string     `json:"source"`
	LatencyMS *float64   `json:"latency_ms"`

	NotEnforced string `json:"not_enforced"`
}

// UnmarshalJSON reads what AppendJSON writes; fields it does not know are ignored.
func (e *Event) UnmarshalJSON(data []byte) error {
	var w eventJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	if w.Name == "" {
		return errors.New("event without a name")
	}
	*e = Event{
		w.Time.UTC(), w.Name, netip.Prefix(w.Prefix), w.Ports, time.Time(w.Until), w.Origin, w.OriginID, w.Reason, w.Source, w.LatencyMS,
		w.NotEnforced,
	}
	return nil
}
