package control

import (
	"bytes"
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

type banRequestJSON struct {
	Addrs      []prefixText `json:"addrs"`
	For        spanText     `json:"for,omitempty"`
	Ports      string       `json:"ports,omitempty"`
	Reason     string       `json:"reason,omitempty"`
	Source     string       `json:"source,omitempty"`
	ErrorsOnly bool         `json:"errors_only,omitempty"`
	DryRun     bool         `json:"dry_run,omitempty"`
	Before     int          `json:"before,omitempty"`
}

// AppendJSON appends the request as JSON for the server.
func (r BanRequest) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"addrs":[`...)
	for i, p := range r.Addrs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = append(appendPrefix(dst, p), '"')
	}
	dst = append(dst, ']')
	field := func(name, value string) {
		if value != "" {
			dst = appendField(dst, name, value)
		}
	}
	if r.For != 0 {
		field("for", r.For.String())
	}
	field("ports", r.Ports)
	field("reason", r.Reason)
	field("source", r.Source)
	if r.ErrorsOnly {
		dst = append(dst, `,"errors_only":true`...)
	}
	if r.DryRun {
		dst = append(dst, `,"dry_run":true`...)
	}
	if r.Before > 0 {
		dst = strconv.AppendInt(append(dst, `,"before":`...), int64(r.Before), 10)
	}
	return append(dst, '}')
}

// MarshalJSON returns what AppendJSON appends.
func (r BanRequest) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil), nil }

func decodeBan(body []byte) (BanRequest, error) {
	w, addrs, ok := fastBan(body)
	if !ok {
		w = banRequestJSON{}
		err := strict(body, &w)
		if err == nil {
			addrs, err = prefixes("addrs", w.Addrs)
		}
		if err != nil {
			return BanRequest{}, err
		}
	}
	if w.Source == "" {
		w.Source = sourceAPI
	}
	err := errors.Join(short("ports", w.Ports, MaxPorts), short("reason", w.Reason, MaxReason), short("source", w.Source, MaxSource))
	if err != nil {
		return BanRequest{}, AsError(err)
	}
	if w.Before < 0 {
		return BanRequest{}, usage("before: %d is negative", w.Before)
	}
	return BanRequest{addrs, time.Duration(w.For), w.Ports, w.Reason, w.Source, w.DryRun, w.Before, w.ErrorsOnly}, nil
}

// fastBan decodes what AppendJSON writes: the addresses without encoding/json, which takes ten times as long, and the
// rest with it. If the body looks different or is wrong, ok is false, and the slow path decodes it or says what is
// wrong.
func fastBan(body []byte) (w banRequestJSON, addrs []netip.Prefix, ok bool) {
	s := scanner{rest: body, ok: true}
	s.literal(`{"addrs":["`)
	if !s.ok {
		return w, nil, false
	}
	end := bytes.IndexByte(s.rest, ']')
	if end < 0 {
		return w, nil, false
	}
	text, rest := string(s.rest[:end]), s.rest[end+1:] // one string that all addresses share
	addrs = make([]netip.Prefix, 0, min(bytes.Count(s.rest[:end], []byte{','})+1, MaxAddrs))
	for len(text) > 0 {
		addr, more, closed := cutQuoted(text)
		p, err := config.ParsePrefix(addr)
		if !closed || err != nil || len(addrs) == MaxAddrs {
			return w, nil, false
		}
		addrs = append(addrs, p)
		if text = more; len(text) > 0 {
			if len(text) < 3 || text[:2] != `,"` {
				return w, nil, false
			}
			text = text[2:]
		}
	}
	// A second list of addresses, in whatever case its key is, would contain one of these.
	if bytes.IndexByte(rest, '[') >= 0 || bytes.Contains(rest, []byte("null")) {
		return w, nil, false
	}
	if strict(append([]byte(`{"addrs":null`), rest...), &w) != nil {
		return w, nil, false
	}
	return w, addrs, len(addrs) > 0
}

// cutQuoted cuts s after the next quote. No address contains a character that JSON must escape.
func cutQuoted(s string) (text, rest string, ok bool) {
	for i := range len(s) {
		if s[i] == '"' {
			return s[:i], s[i+1:], true
		}
	}
	return "", "", false
}
