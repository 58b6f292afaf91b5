package control

import "strconv"

// AppendJSON appends e as one JSON object without a newline. encoding/json takes ten times as long, and a list may have
// a million entries.
func (e ListEntry) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"prefix":"`...)
	dst = append(appendPrefix(dst, e.Prefix.Prefix), '"')
	dst = appendField(dst, "ports", e.Ports)
	dst = appendTimeValue(append(dst, `,"until":`...), e.Until.Time)
	dst = appendStrings(append(dst, `,"origins":`...), e.Origins)
	dst = appendField(dst, "reason", e.Reason)
	dst = appendField(dst, "source", e.Source)
	dst = appendField(dst, "state", e.State)
	dst = appendStrings(append(dst, `,"origin_ids":`...), e.OriginIDs)
	if e.NotEnforced != "" {
		dst = appendField(dst, "not_enforced", e.NotEnforced)
	}
	if len(e.LeavesOut) > 0 {
		list := make([]string, len(e.LeavesOut))
		for i, p := range e.LeavesOut {
			list[i] = p.String()
		}
		dst = appendStrings(append(dst, `,"leaves_out":`...), list)
	}
	if e.Dropped != nil {
		dst = strconv.AppendUint(append(dst, `,"packets":`...), e.Packets, 10)
		dst = strconv.AppendUint(append(dst, `,"bytes":`...), e.Bytes, 10)
	}
	return append(dst, '}')
}

// AppendJSON does the same for a held entry. One origin may have 32,768 ops on hold, and `held list` must show them
// within a second.
func (e HeldEntry) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"prefix":"`...)
	dst = append(appendPrefix(dst, e.Prefix.Prefix), '"')
	dst = appendField(dst, "ports", e.Ports)
	dst = appendField(dst, "origin", e.Origin)
	dst = appendField(dst, "id", e.ID)
	dst = appendTimeValue(append(dst, `,"issued":`...), e.Issued.Time)
	dst = appendTimeValue(append(dst, `,"until":`...), e.Until.Time)
	dst = appendField(dst, "reason", e.Reason)
	dst = appendField(dst, "source", e.Source)
	dst = appendField(dst, "by", e.By)
	if e.Kind != "" {
		dst = appendField(dst, "kind", e.Kind)
	}
	return append(dst, '}')
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
