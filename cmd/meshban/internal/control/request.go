package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// sourceAPI is the Source of a ban whose request names none.
const sourceAPI = "api"

type prefixRequestJSON struct {
	Prefixes []prefixText `json:"prefixes"`
	For      spanText     `json:"for,omitempty"`
	Reason   string       `json:"reason,omitempty"`
}

type inviteRequestJSON struct {
	Uses int       `json:"uses,omitempty"`
	For  spanText  `json:"for,omitempty"`
	Caps *capsJSON `json:"caps,omitempty"`
}

// MarshalJSON writes the request for the server.
func (r UnbanRequest) MarshalJSON() ([]byte, error) {
	return json.Marshal(prefixRequestJSON{Prefixes: texts(r.Prefixes), Reason: r.Reason})
}

// MarshalJSON writes the request for the server.
func (r AllowRequest) MarshalJSON() ([]byte, error) {
	return json.Marshal(prefixRequestJSON{texts(r.Prefixes), spanText(r.For), r.Reason})
}

// MarshalJSON writes the request for the server.
func (r InviteRequest) MarshalJSON() ([]byte, error) {
	w := inviteRequestJSON{Uses: r.Uses, For: spanText(r.For)}
	if r.Caps != (Caps{}) {
		w.Caps = r.Caps.wire()
	}
	return json.Marshal(w)
}

func texts(list []netip.Prefix) []prefixText {
	all := make([]prefixText, len(list))
	for i, p := range list {
		all[i] = prefixText(p)
	}
	return all
}

// prefixes validates the list of a request.
func prefixes(key string, list []prefixText) ([]netip.Prefix, error) {
	switch {
	case len(list) == 0:
		return nil, usage("%q has no address", key)
	case len(list) > MaxAddrs:
		return nil, usage("%q has %d addresses, the limit is %d", key, len(list), MaxAddrs)
	}
	all := make([]netip.Prefix, len(list))
	for i, p := range list {
		all[i] = netip.Prefix(p)
		if !all[i].IsValid() {
			return nil, usage("%q has an empty address", key)
		}
	}
	return all, nil
}

func usage(format string, args ...any) *Error {
	return &Error{Code: CodeUsage, Message: fmt.Sprintf(format, args...)}
}

// strict decodes exactly one JSON object and rejects unknown keys.
func strict(body []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); more == io.EOF {
			return nil
		}
		err = errors.New("more than one object")
	}
	return badValue(err)
}

// badValue returns err, about a value in a request, as an *Error.
func badValue(err error) *Error {
	if bad, ok := errors.AsType[*config.Error](err); ok {
		return &Error{Code: CodeUsage, Message: bad.Problem, Hint: bad.Remedy}
	}
	return usage("read request: %v", err)
}

func short(name, s string, most int) error {
	if len(s) > most {
		return usage("%s has %d bytes, the limit is %d", name, len(s), most)
	}
	return nil
}

func decodeUnban(body []byte) (UnbanRequest, error) {
	w, list, err := decodePrefixes(body)
	if err == nil && w.For != 0 {
		err = usage(`"for" is not allowed here`)
	}
	return UnbanRequest{list, w.Reason}, err
}

func decodeAllow(body []byte) (AllowRequest, error) {
	w, list, err := decodePrefixes(body)
	return AllowRequest{list, time.Duration(w.For), w.Reason}, err
}

func decodePrefixes(body []byte) (prefixRequestJSON, []netip.Prefix, error) {
	var w prefixRequestJSON
	if err := strict(body, &w); err != nil {
		return prefixRequestJSON{}, nil, err
	}
	list, err := prefixes("prefixes", w.Prefixes)
	if err == nil {
		err = short("reason", w.Reason, MaxReason)
	}
	if err != nil {
		return prefixRequestJSON{}, nil, err
	}
	return w, list, nil
}

func decodeInvite(body []byte) (InviteRequest, error) {
	var w inviteRequestJSON
	if err := strict(body, &w); err != nil {
		return InviteRequest{}, err
	}
	if w.Uses < 0 || w.Uses > MaxInviteUses {
		return InviteRequest{}, usage("a token is for 1 to %d machines, not %d", MaxInviteUses, w.Uses)
	}
	if time.Duration(w.For) > MaxInviteFor {
		return InviteRequest{}, usage("a token is good for at most %s", config.FormatDuration(MaxInviteFor))
	}
	r := InviteRequest{Uses: w.Uses, For: time.Duration(w.For)}
	if w.Caps != nil {
		if err := w.Caps.check(); err != nil {
			return InviteRequest{}, err
		}
		r.Caps = w.Caps.caps()
	}
	return r, nil
}

func decodeRotate(body []byte) (RotateRequest, error) {
	var r RotateRequest
	if err := strict(body, &r); err != nil {
		return RotateRequest{}, err
	}
	if r.What != WhatMeshKey {
		return RotateRequest{}, usage("unknown key: write %q", WhatMeshKey)
	}
	return r, nil
}

func decodeRevoke(body []byte) (RevokeRequest, error) {
	var r RevokeRequest
	if err := strict(body, &r); err != nil {
		return RevokeRequest{}, err
	}
	err := short("node", r.Node, MaxNode)
	if err == nil && r.Node == "" {
		err = usage("the node's name is missing")
	}
	if err == nil {
		err = short("reason", r.Reason, MaxReason)
	}
	if err != nil {
		return RevokeRequest{}, err
	}
	return r, nil
}

// ValidListName reports whether s may be the name of a list.
func ValidListName(s string) bool {
	return s != "" && len(s) <= MaxListName && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}) < 0
}

func decodeListed(body []byte) (ListedRequest, error) {
	var r ListedRequest
	if err := strict(body, &r); err != nil {
		return ListedRequest{}, err
	}
	if !ValidListName(r.List) {
		return ListedRequest{}, usage("%q is not a list name", r.List)
	}
	return r, nil
}

func decodeForget(body []byte) (ForgetRequest, error) {
	var r ForgetRequest
	if err := strict(body, &r); err != nil {
		return ForgetRequest{}, err
	}
	if r.Node == "" {
		return ForgetRequest{}, usage("the node's name is missing")
	}
	return r, short("node", r.Node, MaxNode)
}
