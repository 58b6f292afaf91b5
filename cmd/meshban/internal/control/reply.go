package control

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

type resultJSON struct {
	Prefix prefixText `json:"prefix"`
	Until  timeText   `json:"until"`
	State  string     `json:"state,omitempty"`
	Note   string     `json:"note,omitempty"`
	Hint   string     `json:"hint,omitempty"`
	Err    *Error     `json:"error,omitempty"`
}

// MarshalJSON writes the result for the client.
func (r Result) MarshalJSON() ([]byte, error) {
	return json.Marshal(resultJSON{prefixText(r.Prefix), timeText(r.Until), r.State, r.Note, r.Hint, r.Err})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Result) UnmarshalJSON(data []byte) error {
	return via(data, r, func(w resultJSON) Result {
		return Result{netip.Prefix(w.Prefix), time.Time(w.Until), w.State, w.Note, w.Hint, w.Err}
	})
}

type allowEntryJSON struct {
	Prefix prefixText `json:"prefix"`
	Until  timeText   `json:"until"`
	Origin string     `json:"origin"`
	Reason string     `json:"reason"`
	Source string     `json:"source"`

	OriginID string `json:"origin_id,omitempty"`
}

// MarshalJSON writes prefix, until (null = until removed), origin, reason, source, origin_id.
func (e AllowEntry) MarshalJSON() ([]byte, error) {
	return json.Marshal(allowEntryJSON{prefixText(e.Prefix), timeText(e.Until), e.Origin, e.Reason, e.Source, e.OriginID})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (e *AllowEntry) UnmarshalJSON(data []byte) error {
	return via(data, e, func(w allowEntryJSON) AllowEntry {
		return AllowEntry{netip.Prefix(w.Prefix), time.Time(w.Until), w.Origin, w.OriginID, w.Reason, w.Source}
	})
}

type whyJSON struct {
	Address  prefixText `json:"address"`
	Verdict  string     `json:"verdict"`
	Summary  string     `json:"summary"`
	Findings []Finding  `json:"findings"`

	Nodes []NodeAnswer `json:"nodes"`
}

// MarshalJSON writes address, verdict, summary, findings and nodes; the last two are never null.
func (r WhyReply) MarshalJSON() ([]byte, error) {
	if r.Findings == nil {
		r.Findings = []Finding{}
	}
	if r.Nodes == nil {
		r.Nodes = []NodeAnswer{}
	}
	return json.Marshal(whyJSON{prefixText(r.Address), r.Verdict, r.Summary, r.Findings, r.Nodes})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *WhyReply) UnmarshalJSON(data []byte) error {
	return via(data, r, func(w whyJSON) WhyReply {
		return WhyReply{netip.Prefix(w.Address), w.Verdict, w.Summary, w.Findings, w.Nodes}
	})
}

type findingJSON struct {
	Kind   string     `json:"kind"`
	Prefix prefixText `json:"prefix"`
	Ports  string     `json:"ports"`
	Origin string     `json:"origin"`
	Issued timeText   `json:"issued"`
	Until  timeText   `json:"until"`
	Reason string     `json:"reason"`
	Source string     `json:"source"`
	Status string     `json:"status"`

	OriginID string `json:"origin_id,omitempty"`
}

// MarshalJSON writes every field; a time that does not apply is null.
func (f Finding) MarshalJSON() ([]byte, error) {
	return json.Marshal(findingJSON{
		f.Kind, prefixText(f.Prefix), f.Ports, f.Origin, timeText(f.Issued.Truncate(time.Second)), timeText(f.Until), f.Reason, f.Source, f.Status, f.OriginID,
	})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (f *Finding) UnmarshalJSON(data []byte) error {
	var w findingJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*f = Finding{
		w.Kind, netip.Prefix(w.Prefix), w.Ports, w.Origin, time.Time(w.Issued), time.Time(w.Until), w.Reason, w.Source, w.Status, w.OriginID,
	}
	return nil
}

// lastBanFields is LastBan without its methods.
type lastBanFields LastBan

type lastBanJSON struct {
	Prefix prefixText `json:"prefix"`
	lastBanFields
}

// MarshalJSON writes the ban for the client.
func (b LastBan) MarshalJSON() ([]byte, error) {
	return json.Marshal(lastBanJSON{prefixText(b.Prefix), lastBanFields(b)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (b *LastBan) UnmarshalJSON(data []byte) error {
	var w lastBanJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*b = LastBan(w.lastBanFields)
	b.Prefix = netip.Prefix(w.Prefix)
	return nil
}

type inviteReplyJSON struct {
	Token   string   `json:"token"`
	Uses    int      `json:"uses"`
	Expires timeText `json:"expires"`
}

// MarshalJSON writes token, uses and expires.
func (r InviteReply) MarshalJSON() ([]byte, error) {
	return json.Marshal(inviteReplyJSON{r.Token, r.Uses, timeText(r.Expires)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *InviteReply) UnmarshalJSON(data []byte) error {
	return via(data, r, func(w inviteReplyJSON) InviteReply { return InviteReply{w.Token, w.Uses, time.Time(w.Expires)} })
}

// auditFields is AuditEntry without its methods.
type auditFields AuditEntry

type auditJSON struct {
	auditFields
	Prefixes []prefixText `json:"prefixes,omitempty"`
}

// AppendJSON appends e as one JSON object without a newline. It always writes time, what, via, node and node_id, and
// other fields if they are set. Times must be in the years 0 to 9999. An import writes an entry per frame on every
// node, and encoding/json would take ten times as long.
func (e AuditEntry) AppendJSON(dst []byte) []byte {
	text := func(name, value string) {
		if value != "" {
			dst = appendField(dst, name, value)
		}
	}
	number := func(name string, value uint64) {
		dst = append(append(append(dst, `,"`...), name...), `":`...)
		dst = strconv.AppendUint(dst, value, 10)
	}
	dst = e.Time.AppendFormat(append(dst, `{"time":"`...), time.RFC3339Nano)
	dst = appendField(append(dst, '"'), "what", e.What)
	text("ports", e.Ports)
	if !e.Until.IsZero() {
		dst = append(e.Until.AppendFormat(append(dst, `,"until":"`...), time.RFC3339Nano), '"')
	}
	dst = appendField(dst, "via", e.Via)
	text("user", e.User)
	if e.UID != nil {
		number("uid", uint64(*e.UID))
	}
	if e.PID > 0 {
		number("pid", uint64(e.PID))
	}
	dst = appendField(dst, "node", e.Node)
	dst = appendField(dst, "node_id", e.NodeID)
	text("reason", e.Reason)
	text("source", e.Source)
	if e.Lost > 0 {
		number("lost", e.Lost)
	}
	for i, p := range e.Prefixes {
		if i == 0 {
			dst = append(dst, `,"prefixes":["`...)
		} else {
			dst = append(dst, `,"`...)
		}
		dst = append(appendPrefix(dst, p), '"')
	}
	if len(e.Prefixes) > 0 {
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// MarshalJSON returns what AppendJSON appends, or an error for a time that JSON cannot express.
func (e AuditEntry) MarshalJSON() ([]byte, error) {
	for _, t := range [2]time.Time{e.Time, e.Until} {
		if y := t.Year(); y < 0 || y > 9999 {
			return nil, fmt.Errorf("audit entry in the year %d", y)
		}
	}
	return e.AppendJSON(nil), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (e *AuditEntry) UnmarshalJSON(data []byte) error {
	var w auditJSON
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*e = AuditEntry(w.auditFields)
	for _, p := range w.Prefixes {
		e.Prefixes = append(e.Prefixes, netip.Prefix(p))
	}
	return nil
}
